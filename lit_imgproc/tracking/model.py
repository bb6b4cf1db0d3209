"""A trained network as an MLflow model that takes raw images."""

import copy
import importlib.metadata
import json
import shutil
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.fx.experimental._config as shapes
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types.schema import ColSpec, Schema, TensorSpec
from numpy.typing import NDArray
from torch import nn

from lit_imgproc.errors import UserError
from lit_imgproc.inputs import InputSpec
from lit_imgproc.models.exported import ImageToImage
from lit_imgproc.models.segmentation.exported import ProbabilityMap, with_fixed_padding
from lit_imgproc.tracking import pyfunc
from lit_imgproc.tracking.logger import MLflowTracker
from lit_imgproc.tracking.pyfunc import DESCRIPTION, NETWORK, Task

with warnings.catch_warnings():
    # MLflow warns of type hints of its own.
    warnings.simplefilter("ignore", UserWarning)
    import mlflow.pyfunc

FOLDER = "model"
PACKAGE = Path(__file__).resolve().parents[1]
TRACED = (96, 128)
"""About the height and width, in pixels, of the images that an export with open sizes traces."""
REQUIRED = ("mlflow", "numpy", "opencv-python-headless", "pandas", "torch")


def log_model(
    tracker: MLflowTracker,
    *,
    network: nn.Module,
    input_spec: InputSpec,
    class_names: list[str],
    example: NDArray[Any],
    register: str | None,
    alias: str | None,
) -> None:
    """Log the artifact ``model/``, which ``mlflow.pyfunc.load_model("runs:/ID/model")`` loads.

    The network is stored as a torch.export program (``.pt2``) for any batch size, with the code
    that prepares images and a list of its requirements, so that it runs without Lightning. It is
    a segmenter where it is a
    :class:`~lit_imgproc.models.segmentation.exported.ProbabilityMap`, a translator where it is an
    :class:`~lit_imgproc.models.exported.ImageToImage`, and otherwise a classifier.

    Args:
        tracker: The run. On ranks other than zero nothing happens.
        network: From float ``[B,C,h,w]``, 8-bit images in [0,1], to probabilities ``[B,K]`` or
            ``[B,K,h,w]``, or to images: the normalization and the softmax or sigmoid are part of
            it. It is not changed.
        input_spec: How a raw image becomes what the network takes.
        class_names: Names of the K classes.
        example: ``[N,H,W,C]``, images that the model is stored with as input example.
        register: Name in the model registry, or None.
        alias: Alias that the registered version gets, such as ``champion``, or None.

    Raises:
        UserError: Pixels of raw images would have no answer: evaluation cuts the centre out.
    """
    if not tracker.is_open:
        return
    task: Task = "classification"
    if isinstance(network, ProbabilityMap):
        task = "segmentation"
    elif isinstance(network, ImageToImage):
        task = "translation"
    if task != "classification" and input_spec.resize == "crop":
        raise UserError(
            "a network that answers for each pixel has nothing to say of what is cut off: set "
            "data.resize to squash, fit or none"
        )
    target = tracker.artifact_dir / FOLDER
    shutil.rmtree(target, ignore_errors=True)
    with TemporaryDirectory() as temporary:
        data = Path(temporary, "data")
        data.mkdir()
        torch.export.save(export(network, input_spec), data / NETWORK)
        description = {
            "task": task,
            "input_spec": input_spec.to_dict(),
            "class_names": class_names,
            "divisor": open_sizes(network, input_spec) or 1,
        }
        (data / DESCRIPTION).write_text(json.dumps(description, indent=2), "utf-8")
        mlflow.pyfunc.save_model(
            path=target,
            loader_module=pyfunc.__name__,
            data_path=str(data),
            code_paths=[str(PACKAGE)],
            signature=_signature(task, example, class_names),
            input_example=example,
            pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in REQUIRED],
        )
    tracker.publish(FOLDER)
    if register is not None:
        tracker.flush()
        _register(tracker, register, alias)


def export(network: nn.Module, input_spec: InputSpec) -> torch.export.ExportedProgram:
    """The network as a torch.export program on the CPU, in evaluation mode, for any batch size.

    Height and width are those of the specification, or open: see :func:`open_sizes`.
    """
    twin = copy.deepcopy(network).cpu().eval().requires_grad_(False)
    # Weights that lie channels last are no whole tensors to torch.export.save, which then warns.
    twin = twin.to(memory_format=torch.contiguous_format)
    dynamic: dict[int, Any] = {0: torch.export.Dim("batch")}
    size, step = input_spec.size, open_sizes(network, input_spec)
    if step is not None:
        twin = with_fixed_padding(twin)
        # At least two steps: a single one may leave one place, which has nothing to be normed by.
        height, width = (max(2, -(-side // step)) * step for side in TRACED)
        size = (height, width)
        dynamic[2], dynamic[3] = (step * torch.export.Dim(name) for name in ("height", "width"))
    # A batch of one would be taken for a constant, and so would an image of one step, which a trunk
    # shrinks to one place, if the switch did not tell that nothing depends on a size being 1.
    # torch.onnx sets it, too.
    images = torch.zeros(2, input_spec.channels, *size)
    by_pixel = isinstance(network, ProbabilityMap | ImageToImage)
    with shapes.patch(backed_size_oblivious=by_pixel):  # type: ignore[attr-defined]
        return torch.export.export(twin, (images,), dynamic_shapes=(dynamic,))


def open_sizes(network: nn.Module, input_spec: InputSpec) -> int | None:
    """Of what the height and width of images are multiples, where an export leaves them open.

    None where it does not: the network of a classifier takes one size, and so does a segmenter
    whose images are all brought to it.
    """
    if isinstance(network, ProbabilityMap | ImageToImage) and input_spec.resize in ("fit", "none"):
        return network.divisor
    return None


def _signature(task: Task, example: NDArray[Any], class_names: list[str]) -> ModelSignature:
    inputs = Schema([TensorSpec(example.dtype, (-1, -1, -1, example.shape[-1]))])
    if task == "translation":
        made = TensorSpec(np.dtype(np.uint8), (-1, -1, -1, -1))
        return ModelSignature(inputs=inputs, outputs=Schema([made]))
    if task == "segmentation":
        masks = TensorSpec(np.dtype(np.uint8), (-1, -1, -1))
        return ModelSignature(inputs=inputs, outputs=Schema([masks]))
    scores = [ColSpec("double", f"probability/{name}") for name in class_names]
    outputs = Schema([ColSpec("string", "label"), ColSpec("double", "score"), *scores])
    return ModelSignature(inputs=inputs, outputs=outputs)


def _register(tracker: MLflowTracker, name: str, alias: str | None) -> None:
    client = tracker.experiment
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    run = client.get_run(tracker.run_id)
    version = client.create_model_version(
        name, source=f"{run.info.artifact_uri}/{FOLDER}", run_id=tracker.run_id
    )
    if alias is not None:
        client.set_registered_model_alias(name, alias, version.version)
