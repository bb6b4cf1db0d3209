"""Where a detector starts: a whole one, published or of an earlier run, or its trunk alone."""

from typing import Any

import torchvision
from torch import Tensor, nn

from lit_imgproc.models.backbones import (
    Normalization,
    State,
    create_timm,
    pretrained_normalization,
    pretrained_state,
)
from lit_imgproc.models.detection.networks import HEADS
from lit_imgproc.models.detection.published import imagenet_trunk
from lit_imgproc.models.weights import fit_state, fit_trunk, read_weights


def load_detector(network: nn.Module, source: str, class_names: list[str]) -> Normalization | None:
    """Load the weights of a whole detector, in place.

    Heads for other classes start as the network made them. Of weights that were published for
    COCO, a class keeps what they know of the class of its name.

    Args:
        network: one of torchvision's detectors.
        source: ``pretrained`` for the weights that torchvision publishes, or a file; see
            :func:`~lit_imgproc.models.weights.load_weights`.
        class_names: of the network, without the background.

    Returns:
        What the weights were trained with, where that is known.

    Raises:
        WeightsUnavailable: there are none, or they cannot be had here.
        UserError: a file that is missing, cannot be read or does not fit.
    """
    categories: list[str] | None = None
    if source == "pretrained":
        state = pretrained_state(network)
        normalization: Normalization | None = pretrained_normalization(network)
        architecture = network.pretrained_cfg["architecture"]  # type: ignore[index]
        weights = torchvision.models.get_model_weights(architecture).DEFAULT
        categories = list(weights.meta["categories"])[1:]
    else:
        state, normalization = read_weights(network, source)
    fit_state(network, _heads_fitted(network, state, class_names, categories), source)
    return normalization


def load_trunk(network: Any, source: str) -> Normalization | None:
    """Load the weights of a detector's trunk, in place.

    Args:
        network: a detector.
        source: ``pretrained`` for what the trunk's library trained on ImageNet; or a file of the
            trunk's weights or of a classifier on such a trunk, whose head is left out.

    Returns:
        What the weights were trained with, where that is known.

    Raises:
        WeightsUnavailable: there are none, or they cannot be had here.
        UserError: a file that is missing, cannot be read or does not fit.
    """
    if hasattr(network, "load_trunk"):  # its trunk is a classifier
        own_way: Normalization | None = network.load_trunk(source)
        return own_way
    cfg: dict[str, Any] = network.pretrained_cfg
    if source == "pretrained" and "trunk" not in cfg:
        own = network.backbone.state_dict()
        published = imagenet_trunk(cfg["architecture"])
        network.backbone.load_state_dict({name: published[name] for name in own})
        return pretrained_normalization(network)
    trunk: nn.Module = getattr(network.backbone, "body", network.backbone)
    if source == "pretrained":
        channels = network.get_parameter(f"{cfg['first_conv']}.weight").shape[1]
        state = pretrained_state(create_timm(cfg["trunk"], 1000, channels))
        normalization: Normalization | None = pretrained_normalization(network)
    else:
        state, normalization = read_weights(trunk, source)
    first = cfg["first_conv"].removeprefix("backbone.").removeprefix("body.")
    fit_trunk(trunk, state, source, name=str(cfg.get("trunk")), first_conv=first)
    if hasattr(network, "take_from_classifier"):
        network.take_from_classifier(state)
    return normalization


def _heads_fitted(
    network: nn.Module, state: State, class_names: list[str], categories: list[str] | None
) -> State:
    """The state dict with heads of the network's own shape."""
    fitted = dict(state)
    for name, own in network.state_dict().items():
        head = next((head for head in HEADS if name.startswith(f"{head}.")), None)
        given = state.get(name)
        if head is None or given is None or given.shape == own.shape:
            continue
        fitted[name] = own.clone()
        if categories is not None and own.shape[1:] == given.shape[1:]:
            _copy_classes(given, fitted[name], HEADS[head], class_names, categories)
    return fitted


def _copy_classes(
    given: Tensor, own: Tensor, outputs: int, class_names: list[str], categories: list[str]
) -> None:
    """Copy the rows of the background and of classes of the same name.

    Rows are laid out by anchor, class and output of the class.
    """
    rows = [0, *(k + 1 for k, name in enumerate(class_names) if name in categories)]
    sources = [0, *(categories.index(name) + 1 for name in class_names if name in categories)]
    there = given.view(-1, len(categories) + 1, outputs, *given.shape[1:])
    here = own.view(-1, len(class_names) + 1, outputs, *own.shape[1:])
    here[:, rows] = there[:, sources]
