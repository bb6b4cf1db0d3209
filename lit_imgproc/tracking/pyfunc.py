"""The MLflow model of a classifier: raw images in, a table of probabilities out.

MLflow imports this module when the model is loaded, in a process that may have nothing of this
project but the copy beside the model. It needs torch, OpenCV and pandas, and no Lightning.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import torch
from numpy.typing import NDArray

from lit_imgproc.inputs import InputSpec

NETWORK, DESCRIPTION = "network.pt2", "description.json"
IMAGES_AT_ONCE = 64


class ImageClassifier:
    """An exported network behind the input specification that it was evaluated with.

    Args:
        folder: Holds the torch.export program and its description.
    """

    def __init__(self, folder: Path) -> None:
        description = json.loads((folder / DESCRIPTION).read_text("utf-8"))
        self.input_spec = InputSpec.from_dict(description["input_spec"])
        self.class_names: list[str] = description["class_names"]
        self.network = torch.export.load(folder / NETWORK).module()

    def predict(self, images: NDArray[Any], params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Classify images.

        Args:
            images: ``[N,H,W,C]`` of any height and width: uint8, RGB or grey; or float32 with the
                bands and the values that the network was trained on.
            params: MLflow's; there are none.

        Returns:
            One row an image: ``label`` (the most probable class), ``score`` (its probability) and
            ``probability/CLASS`` for each class.
        """
        parts = [np.empty((0, len(self.class_names)))]
        for start in range(0, len(images), IMAGES_AT_ONCE):
            prepared = [self.input_spec(item) for item in images[start : start + IMAGES_AT_ONCE]]
            values = self.input_spec.to_network(np.stack(prepared))
            batch = torch.from_numpy(values).permute(0, 3, 1, 2)
            with torch.inference_mode():
                parts.append(self.network(batch).double().numpy())
        probabilities = np.concatenate(parts)
        best = probabilities.argmax(axis=1)
        columns: dict[str, Any] = {
            "label": np.array(self.class_names, dtype=object)[best],
            "score": np.take_along_axis(probabilities, best[:, np.newaxis], axis=1)[:, 0],
        }
        for index, name in enumerate(self.class_names):
            columns[f"probability/{name}"] = probabilities[:, index]
        return pd.DataFrame(columns)


def _load_pyfunc(path: str) -> ImageClassifier:
    """What MLflow calls, with the folder that was given to ``save_model`` as ``data_path``."""
    return ImageClassifier(Path(path))
