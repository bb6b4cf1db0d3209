"""The MLflow model of a network that looks at images: raw images in, answers out.

MLflow imports this module when the model is loaded, in a process that may have nothing of this
project but the copy beside the model. It needs torch, OpenCV and pandas, and no Lightning.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lit_imgproc.inputs import InputSpec

NETWORK, DESCRIPTION = "network.pt2", "description.json"
IMAGES_AT_ONCE = 64

Task = Literal["classification", "segmentation", "translation"]


class ExportedNetwork:
    """An exported network behind the input specification that it was evaluated with.

    Args:
        folder: Holds the torch.export program and its description.
    """

    def __init__(self, folder: Path) -> None:
        description = json.loads((folder / DESCRIPTION).read_text("utf-8"))
        self.input_spec = InputSpec.from_dict(description["input_spec"])
        self.class_names: list[str] = description["class_names"]
        self.divisor: int = description["divisor"]
        self.network = torch.export.load(folder / NETWORK).module()

    def look(self, images: Iterable[NDArray[Any]]) -> Tensor:
        """What the network says of images ``[H,W,C]`` of one size, each ``[h,w]`` once prepared.

        Returns:
            float32: ``[N,K]``, or ``[N,K,h,w]``; of a translator images in [0, 1].
        """
        values = self.input_spec.to_network(np.stack([self.input_spec(one) for one in images]))
        height, width = values.shape[1:3]
        missing = ((0, -height % self.divisor), (0, -width % self.divisor))
        mirrored = np.pad(values, ((0, 0), *missing, (0, 0)), mode="reflect")
        with torch.inference_mode():
            answers: Tensor = self.network(torch.from_numpy(mirrored).permute(0, 3, 1, 2))
        return answers[..., :height, :width] if answers.ndim == 4 else answers


class ImageClassifier(ExportedNetwork):
    """Says what images show."""

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
            parts.append(self.look(images[start : start + IMAGES_AT_ONCE]).double().numpy())
        probabilities = np.concatenate(parts)
        best = probabilities.argmax(axis=1)
        columns: dict[str, Any] = {
            "label": np.array(self.class_names, dtype=object)[best],
            "score": np.take_along_axis(probabilities, best[:, np.newaxis], axis=1)[:, 0],
        }
        for index, name in enumerate(self.class_names):
            columns[f"probability/{name}"] = probabilities[:, index]
        return pd.DataFrame(columns)


class ImageSegmenter(ExportedNetwork):
    """Says of every pixel of images what it shows."""

    def predict(self, images: NDArray[Any], params: dict[str, Any] | None = None) -> NDArray[Any]:
        """Name the class of every pixel.

        Args:
            images: ``[N,H,W,C]``, as for :meth:`ImageClassifier.predict`.
            params: MLflow's; there are none.

        Returns:
            uint8 ``[N,H,W]``, numbers of the class names, in pixels of the images as they are
            given: where the network sees them scaled, its probabilities are scaled back.
        """
        masks = np.empty(images.shape[:3], np.uint8)
        for mask, image in zip(masks, images, strict=True):  # one by one: they may be large
            probabilities, size = self.look([image]), image.shape[:2]
            if probabilities.shape[2:] != size:
                probabilities = F.interpolate(
                    probabilities, size, mode="bilinear", align_corners=False
                )
            mask[:] = probabilities[0].argmax(0).numpy()
        return masks


class ImageTranslator(ExportedNetwork):
    """Makes an image of an image."""

    def predict(self, images: NDArray[Any], params: dict[str, Any] | None = None) -> NDArray[Any]:
        """Translate images.

        Args:
            images: ``[N,H,W,C]``, as for :meth:`ImageClassifier.predict`.
            params: MLflow's; there are none.

        Returns:
            uint8 ``[N,H,W,C']``, at the size of the images as they are given: where the network
            sees them scaled, what it makes is scaled back.
        """
        made = []
        for image in images:  # one by one: they may be large
            values, size = self.look([image]), image.shape[:2]
            if values.shape[2:] != size:
                values = F.interpolate(values, size, mode="bilinear", align_corners=False)
            pixels = values[0].mul(255).round().clamp(0, 255).to(torch.uint8)
            made.append(pixels.permute(1, 2, 0).numpy())
        return np.stack(made)


MODELS: dict[Task, type[ImageClassifier] | type[ImageSegmenter] | type[ImageTranslator]] = {
    "classification": ImageClassifier,
    "segmentation": ImageSegmenter,
    "translation": ImageTranslator,
}


def _load_pyfunc(path: str) -> ImageClassifier | ImageSegmenter | ImageTranslator:
    """What MLflow calls, with the folder that was given to ``save_model`` as ``data_path``."""
    description = json.loads(Path(path, DESCRIPTION).read_text("utf-8"))
    task: Task = description["task"]
    return MODELS[task](Path(path))
