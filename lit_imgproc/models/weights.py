"""Where a network starts: published weights, a file, or the checkpoint of an earlier run."""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import adapt_input_conv
from torch import Tensor, nn

from lit_imgproc.errors import UserError
from lit_imgproc.models.backbones import (
    Normalization,
    State,
    first_convs,
    head_modules,
    pretrained_normalization,
    pretrained_state,
)

COUNTER = "num_batches_tracked"
"""Of batch norms: frozen ones have none."""
_WRAPPERS = ("state_dict", "model")
_PREFIXES = ("module.", "network.", "_orig_mod.", "model.")


@dataclass(frozen=True)
class Loaded:
    """What ``load_weights`` did.

    Attributes:
        loaded: the names that took their values from the source.
        fresh: the names that did not: of heads that the source lacks or has in another shape.
        normalization: what the weights were trained with, where the source says so.
    """

    loaded: tuple[str, ...]
    fresh: tuple[str, ...]
    normalization: Normalization | None


def load_weights(network: nn.Module, source: str) -> Loaded:
    """Load weights into a network, in place.

    Two things may differ. A head (classifier or auxiliary) that is missing stays fresh; one of
    another shape starts at zero (Kolesnikov et al., arXiv 1912.11370): all classes are equally
    likely at first, and a random head does not shake the trunk that was loaded. A first
    convolution for another number of channels is adapted as timm does it: summed to one channel,
    repeated and scaled to others. Everything else has to fit.

    Args:
        network: the network to load into.
        source: ``pretrained`` for the weights its library publishes; or a file: .safetensors, or
            what ``torch.save`` wrote (.pth, .pt, .ckpt) with no Python objects but tensors and
            plain values. The state dict may be wrapped (``state_dict``, ``model``) and its names
            prefixed (``module.``, ``network.``, ``_orig_mod.``, ``model.``).

    Raises:
        WeightsUnavailable: published weights that do not exist or cannot be had here.
        UserError: a file that is missing, cannot be read or does not fit.
    """
    if source == "pretrained":
        state = pretrained_state(network)
        normalization: Normalization | None = pretrained_normalization(network)
    else:
        state, normalization = read_weights(network, source)
    loaded, fresh = fit_state(network, state, source)
    return Loaded(loaded, fresh, normalization)


def read_weights(network: nn.Module, source: str) -> tuple[State, Normalization | None]:
    """Return a network's part of a file, and what its images were normalized by, if it says so.

    Raises:
        UserError: a file that is missing or cannot be read.
    """
    everything = read_state(Path(source))
    return unprefixed(everything, network), normalization_of(everything)


def fit_state(
    network: nn.Module, state: State, source: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Load a state dict as :func:`load_weights` does.

    Returns:
        The names that took their values from it, and those that did not.

    Raises:
        UserError: it does not fit; ``source`` is named.
    """
    own = network.state_dict()
    state = {k: v for k, v in state.items() if k in own or not k.endswith(COUNTER)}
    heads = tuple(f"{name}." for name in head_modules(network))
    for name in (f"{conv}.weight" for conv in first_convs(network)):
        if name in state:
            state[name] = _for_channels(own[name].shape[1], state[name])

    fits = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape}
    trunk = [k for k in own if not k.startswith(heads)]
    # Old files have no such counters, and no weight depends on them.
    missing = [k for k in trunk if k not in state and not k.endswith(COUNTER)]
    unexpected = [k for k in state if k not in own and not k.startswith(heads)]
    misshapen = [
        f"{k} (is {tuple(state[k].shape)}, should be {tuple(own[k].shape)})"
        for k in trunk
        if k in state and k not in fits
    ]
    if missing or unexpected or misshapen:
        problems = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
        said = "; ".join(f"{what}: {_some(names)}" for what, names in problems.items() if names)
        raise UserError(f"The weights of {source} do not fit {type(network).__name__}. {said}.")
    network.load_state_dict(fits, strict=False)
    fresh = {name: p for name, p in network.named_parameters() if name not in fits}
    for name, parameter in fresh.items():
        if name in state:
            nn.init.zeros_(parameter)
    return tuple(fits), tuple(fresh)


def fit_trunk(trunk: nn.Module, state: State, source: str, *, name: str, first_conv: str) -> None:
    """Load a network's weights into the part of it that a larger network stands on, in place.

    What the trunk does not have, a classifier's head say, is left out. A first convolution for
    another number of channels is adapted, as in :func:`load_weights`.

    Args:
        trunk: to load into.
        state: the weights.
        source: where they are from, for the error.
        name: of the trunk, for the error.
        first_conv: the name of its first convolution.

    Raises:
        UserError: weights of the trunk are missing or of another shape.
    """

    def flat(key: str) -> str:
        return key.replace(".", "_")  # as wrappers of timm write a name

    own = trunk.state_dict()
    given = {flat(key): value for key, value in state.items()}
    found = {key: given[flat(key)] for key in own if flat(key) in given}
    for key, value in found.items():
        if flat(key) == flat(f"{first_conv}.weight"):
            found[key] = _for_channels(own[key].shape[1], value)
    wrong = [
        key
        for key, value in own.items()
        if not key.endswith(COUNTER) and (key not in found or found[key].shape != value.shape)
    ]
    if wrong:
        raise UserError(
            f"The weights of {source} do not fit the trunk {name}: {len(wrong)} of {len(own)} "
            f"tensors are missing or of another shape, such as {wrong[0]}."
        )
    trunk.load_state_dict(found, strict=False)


def read_state(path: Path) -> State:
    """Return the tensors of a file by name."""
    if not path.is_file():
        raise UserError(f"There is no weights file {path}.")
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds Python objects and not only tensors, or is no weights file: "
            "save its state dict alone."
        ) from error
    except (OSError, RuntimeError, EOFError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read as a file of weights: {error}") from error
    while isinstance(content, Mapping):
        inner = next((w for w in _WRAPPERS if isinstance(content.get(w), Mapping)), None)
        if inner is None:
            break
        content = content[inner]
    tensors = (
        {k: v for k, v in content.items() if isinstance(v, Tensor)}
        if isinstance(content, Mapping)
        else {}
    )
    if not tensors:
        raise UserError(f"{path} holds no state dict: names with tensors.")
    return tensors


def unprefixed(state: State, network: nn.Module) -> State:
    """Take the network's part of a state dict, without the prefixes that wrappers put there."""
    own = network.state_dict()
    while not own.keys() & state.keys():
        prefix = next((p for p in _PREFIXES if any(k.startswith(p) for k in state)), None)
        if prefix is None:
            break
        state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return state


def normalization_of(state: State) -> Normalization | None:
    """What images were normalized by, where the state dict of a module of ours says it."""
    mean, std = state.get("normalization.mean"), state.get("normalization.std")
    if mean is None or std is None:
        return None
    return mean.flatten().tolist(), std.flatten().tolist()


def _for_channels(channels: int, weight: Tensor) -> Tensor:
    """The weight ``[O, I, *kernel]`` of a first convolution, for another number of channels."""
    if weight.ndim < 4 or weight.shape[1] == channels:
        return weight
    flat = weight.flatten(2).unsqueeze(3)  # timm knows kernels of two dimensions
    adapted: Tensor = adapt_input_conv(channels, flat, base_chans=weight.shape[1])
    return adapted.reshape(-1, channels, *weight.shape[2:])


def _some(names: list[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
