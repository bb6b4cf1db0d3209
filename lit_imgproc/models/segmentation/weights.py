"""Where a segmenter starts: a whole one, published or of an earlier run, or its trunk alone."""

from collections.abc import Sequence
from typing import Any, cast

import segmentation_models_pytorch as smp
import torchvision
from torch import nn

from lit_imgproc.errors import UserError
from lit_imgproc.models.backbones import (
    Normalization,
    State,
    WeightsUnavailable,
    create_timm,
    head_modules,
    pretrained_normalization,
    pretrained_state,
)
from lit_imgproc.models.weights import fit_state, fit_trunk, read_weights

BACKGROUND = {"__background__": "background"}
"""What torchvision calls a class, and what it is called elsewhere."""


def load_segmenter(
    network: nn.Module, source: str, class_names: Sequence[str]
) -> Normalization | None:
    """Load the weights of a whole segmentation network, in place.

    Heads for another number of classes start as the network made them; those that the source lacks,
    as an FCN-32s lacks the skips of an FCN-16s, do too. Of published weights, a class keeps what
    they know of the class of its name.

    Args:
        network: a network of this family.
        source: ``pretrained`` for the weights that torchvision publishes of its own networks
            (COCO's images with the labels of Pascal VOC), or a file; see
            :func:`~lit_imgproc.models.weights.load_weights`.
        class_names: of the network.

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
        published = torchvision.models.get_model_weights(_cfg(network)["architecture"]).DEFAULT
        categories = [BACKGROUND.get(name, name) for name in published.meta["categories"]]
    else:
        state, normalization = read_weights(network, source)
    fit_state(network, _heads_fitted(network, state, class_names, categories), source)
    return normalization


def load_trunk(network: nn.Module, source: str) -> Normalization | None:
    """Load the weights of a segmentation network's trunk, in place.

    Args:
        network: a network of this family that stands on a trunk.
        source: ``pretrained`` for what the trunk's library trained on ImageNet; or a file of the
            trunk's weights or of a classifier on such a trunk, whose head is left out. An FCN
            takes the fully connected layers of VGG-16, too.

    Returns:
        What the weights were trained with, where that is known.

    Raises:
        WeightsUnavailable: there are none, or they cannot be had here.
        UserError: a file that is missing, cannot be read or does not fit, or a network without a
            trunk.
    """
    cfg = _cfg(network)
    if "trunk" not in cfg:
        raise UserError(
            f"{type(network).__name__} stands on no trunk, so it has no trunk_weights: give "
            "weights a file of a whole network, or take another network, such as unet."
        )
    trunk = network.get_submodule(cfg["trunk_module"])
    if source == "pretrained":
        state = _imagenet(network, cfg)
        normalization: Normalization | None = pretrained_normalization(network)
    else:
        state, normalization = read_weights(trunk, source)
    # What is a trunk here is called so in torchvision's classifiers that are no ResNets.
    named = {name.removeprefix("features."): value for name, value in state.items()}
    first = cfg["first_conv"].removeprefix(f"{cfg['trunk_module']}.")
    in_torchvision = cfg["trunk_source"] == "torchvision"
    fit_trunk(
        trunk, named if in_torchvision else state, source, name=cfg["trunk"], first_conv=first
    )
    if hasattr(network, "take_from_classifier"):
        cast(Any, network).take_from_classifier(state)
    return normalization


def _imagenet(network: nn.Module, cfg: dict[str, Any]) -> State:
    """The trunk's weights as its library publishes them, with a classifier's head or without."""
    trunk, source = cfg["trunk"], cfg["trunk_source"]
    if source == "timm":
        channels = network.get_parameter(f"{cfg['first_conv']}.weight").shape[1]
        return pretrained_state(create_timm(trunk, 1000, channels))
    try:
        if source == "smp":
            encoder: nn.Module = smp.encoders.get_encoder(trunk, weights="imagenet")
            return encoder.state_dict()
        weights = torchvision.models.get_weight(cfg["trunk_weights"])
        return cast(State, weights.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:
        raise WeightsUnavailable(
            f"The ImageNet weights of the trunk {trunk} are not on this machine and could not be "
            "downloaded: fetch them on a machine with a network and give trunk_weights the file. "
            f"The library said: {str(error).strip().splitlines()[0]}"
        ) from error


def _heads_fitted(
    network: nn.Module, state: State, class_names: Sequence[str], categories: list[str] | None
) -> State:
    """The state dict with heads of the network's own shape.

    Rows of ``categories``, which the heads of the state dict are for, go to classes of their names.
    """
    fitted = dict(state)
    heads = tuple(f"{name}." for name in head_modules(network))
    published = categories or []
    rows = [k for k, name in enumerate(class_names) if name in published]
    sources = [published.index(class_names[k]) for k in rows]
    for name, own in network.state_dict().items():
        given = state.get(name)
        if given is None or not name.startswith(heads):
            continue
        if published and given.shape[:1] == (len(published),):
            fitted[name] = own.clone()
            fitted[name][rows] = given[sources]
        elif given.shape != own.shape:
            fitted[name] = own.clone()
    return fitted


def _cfg(network: nn.Module) -> dict[str, Any]:
    return cast(dict[str, Any], getattr(network, "pretrained_cfg", {}))
