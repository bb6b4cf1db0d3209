"""What a network has learned: its filters, what they answer to an image, and which never do."""

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from lit_imgproc import pictures
from lit_imgproc.errors import UserError
from lit_imgproc.explain.undisturbed import undisturbed
from lit_imgproc.models.backbones import first_convs
from lit_imgproc.models.base import ImageModule
from lit_imgproc.pictures import Picture

MOST_FILTERS = 64
"""Of filters in a picture; of those whose channels are no colours, a quarter."""
CUT_OFF = (
    *(torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.relu, F.relu6, F.hardtanh),
    *(F.gelu, F.silu, F.hardswish, F.mish),
)
"""Activations that let what is above 0 through and hold back what is below."""


@dataclass(frozen=True)
class LayerActivity:
    """How much the filters of a layer do.

    Attributes:
        layer: The name of the activation: that of its module, or of the module that calls the
            function and the function's; ``:1`` is the second one of that name.
        after: The name of the layer with weights that ran before it.
        filters: How many there are.
        dead: Those that were never above 0, of any image at any place.
        active: The share of places and images at which a filter is above 0, the mean over them all.
    """

    layer: str
    after: str
    filters: int
    dead: tuple[int, ...]
    active: float


# Filters -----------------------------------------------------------------------------------------


def filters(network: nn.Module) -> Tensor:
    """Return the weights of the layer that sees the image, ``[K, C, h, w]``; of volumes 5-D.

    It is the first convolution, or the embedding of a vision transformer's patches.

    Raises:
        UserError: the network has no convolution there.
    """
    names = first_convs(network)
    weight = getattr(network.get_submodule(names[0]), "weight", None) if names else None
    if not isinstance(weight, Tensor) or weight.ndim < 4:
        raise UserError(f"{type(network).__name__} does not look at the image by a convolution")
    return weight.detach().clone()


def filter_grid(weights: Tensor) -> Picture:
    """Draw filters ``[K, C, h, w]``, each scaled on its own so that grey is a weight of 0.

    Those of one or three channels are tiles in grey or in colour. Of other numbers of channels each
    filter is a row with a tile a channel. Of volumes the middle plane is shown.
    """
    weights = _middle(weights.float().cpu(), 4)
    colours = weights.shape[1] in (1, 3)
    shown = weights[: MOST_FILTERS if colours else MOST_FILTERS // 4]
    greatest = shown.abs().amax((1, 2, 3), keepdim=True)
    scaled = 0.5 + 0.5 * shown / greatest.clamp(min=torch.finfo(shown.dtype).tiny)
    if colours:
        return pictures.grid([pictures.tile(one.numpy()) for one in scaled])
    most = MOST_FILTERS // 4
    rows = [[pictures.tile(one[None].numpy()) for one in row[:most]] for row in scaled]
    return _sheet([_row(row) for row in rows])


# Feature maps ------------------------------------------------------------------------------------


def feature_maps(
    module: ImageModule, images: Tensor, layers: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """Look at what layers put out for images, in eval mode (arXiv 1311.2901 shows such maps).

    Args:
        module: is left as it was.
        images: ``[B, C, *S]`` in [0, 1], on the module's device.
        layers: names of modules of its network; None takes its :func:`stages`. Of a layer that
            runs several times, the first output is taken.

    Returns:
        ``[B, c, h, w]`` by layer, in the order in which they run; of volumes ``[B, c, d, h, w]``.

    Raises:
        UserError: a layer is not there, did not run, or has an output without places.
    """
    modules = dict(module.network.named_modules())
    chosen = stages(module, images[:1]) if layers is None else layers
    if unknown := [name for name in chosen if name not in modules]:
        raise UserError(
            f"{type(module.network).__name__} has no layer {', '.join(unknown)}: the names are "
            "those of network.named_modules()"
        )
    maps: dict[str, Tensor] = {}

    def see(name: str, output: Any) -> None:
        if name not in maps:
            # A clone: an in-place activation may follow.
            maps[name] = _as_map(module, name, output).detach().clone()

    with _seen({name: modules[name] for name in chosen}, see):
        _look(module, images)
    if silent := [name for name in chosen if name not in maps]:
        raise UserError(f"{', '.join(silent)} did not run when the network looked at the images")
    if mixed := [name for name, map_ in maps.items() if len(map_) != len(images)]:
        raise UserError(f"{', '.join(mixed)}: the outputs are not one an image, but of parts of it")
    return maps


def stages(module: ImageModule, images: Tensor) -> list[str]:
    """Name the layers of a network that end a resolution, in the order in which they run.

    They are what timm names of a network or of its trunk, there with the layer that is explained.
    In others it is, for each resolution up to the layer that is explained, the outermost layer of
    that resolution, and of several the last.

    Args:
        module: in any mode.
        images: ``[B, C, *S]``, one is enough; networks that timm does not describe look at them.
    """
    network = module.network
    modules = dict(network.named_modules())
    explained = module.attribution_layer()
    names = {layer: name for name, layer in modules.items()}
    for prefix, trunk in modules.items():
        info: Any = getattr(trunk, "feature_info", None)
        described = [one["module"] for one in getattr(info, "info", info) or ()]
        # Some wrappers of timm flatten the names.
        paths = [(prefix + "." if prefix else "") + name for name in described]
        paths = [p if p in modules else p.replace(".", "_") for p in paths]
        if found := [path for path in paths if path in modules]:
            outside = [names[explained]] if prefix and names[explained] not in found else []
            return found + outside
    last: dict[int, str] = {}
    done = False

    def see(name: str, output: Any) -> None:
        nonlocal done
        if done or not isinstance(output, Tensor) or output.ndim != images.ndim:
            return
        sides = output.shape[2:]
        if max(sides) > 1 and len(output) == len(images):
            # Convolutions without padding stay at their resolution.
            scale = round(math.log2(images.shape[-1] / sides[-1]))
            before = last.get(scale)
            if before is None or name.count(".") <= before.count("."):
                last.pop(scale, None)  # the order is that of the last ones
                last[scale] = name
        done = modules[name] is explained

    def counts(name: str, layer: nn.Module) -> bool:
        kind = type(layer).__module__
        return bool(name) and not kind.endswith(("modules.pooling", "modules.dropout"))

    with _seen({name: layer for name, layer in modules.items() if counts(name, layer)}, see):
        _look(module, images)
    return list(last.values())


def feature_picture(maps: Mapping[str, Tensor], count: int = 16) -> Picture:
    """Draw the feature maps of one image: a row of channels a layer, with the layer's name.

    Args:
        maps: ``[c, h, w]`` by layer, such as one image of :func:`feature_maps`; of volumes the
            middle plane is shown.
        count: channels a layer. Those that vary most over the image are shown, with their numbers;
            each is stretched on its own.
    """
    rows = []
    for name, whole in maps.items():
        layer = _middle(whole.float().cpu(), 3)
        varied = layer.flatten(1).std(1, unbiased=False).argsort(descending=True)[:count]
        tiles = [pictures.caption(_tile(layer[k].numpy()), [str(k)]) for k in varied.tolist()]
        size = "x".join(map(str, whole.shape[1:]))
        lines = [f"{name}: {len(tiles)} of {len(whole)} maps, {size}"]
        rows.append(pictures.caption(_row(tiles), lines))
    return _sheet(rows)


# Dead filters ------------------------------------------------------------------------------------


def dead_filters(module: ImageModule, batches: Iterable[Tensor]) -> list[LayerActivity]:
    """Count the filters that do nothing for any image, in eval mode.

    A filter is active where its activation is above 0. One that never is puts out zeros after a
    ReLU and gets no gradient; after a GELU, SiLU, Hardswish or Mish it stays in the small negative
    tail, which is not quite nothing. Leaky activations cut nothing off and are left out.

    Calls of one activation after different layers are layers of their own; calls after the same
    layer, such as that of a head on several levels of a pyramid, are one.

    Args:
        module: is left as it was.
        batches: of images ``[B, C, *S]`` in [0, 1]; there should be some hundred in all.

    Returns:
        One a layer, in the order in which they run.
    """
    network = module.network
    activity = _Activity()
    with contextlib.ExitStack() as stack:
        for name, layer in network.named_modules():
            for handle in (
                layer.register_forward_pre_hook(activity.entered(name)),
                layer.register_forward_hook(activity.left(name), always_call=True),
            ):
                stack.callback(handle.remove)
        for images in batches:
            with activity:
                _look(module, images.to(module.device))
    return activity.result()


class _Activity(TorchFunctionMode):
    """Counts where activations are above 0.

    It sees the functions themselves, so that it does not matter whether a module, a function or a
    method is called.
    """

    def __init__(self) -> None:
        super().__init__()
        self.running: list[tuple[str, nn.Module]] = []
        self.after: tuple[str, nn.Module] | None = None
        self.since: Counter[str] = Counter()  # activations since then
        self.counts: dict[tuple[str, str, int], tuple[Tensor, int]] = {}

    def entered(self, name: str) -> Callable[..., None]:
        return lambda layer, args: self.running.append((name, layer))

    def left(self, name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, args: object, output: object) -> None:
            self.running.pop()
            if next(layer.parameters(recurse=False), None) is not None:
                self.after = name, layer
                self.since.clear()

        return hook

    @override
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if func in CUT_OFF and self.running and self.after is not None:
            low = kwargs.get("min_val", args[1] if len(args) > 1 else -1.0)
            if func is not F.hardtanh or low == 0:  # F.hardtanh is ReLU6 too
                self.count(func.__name__.rstrip("_"), output)
        return output

    def count(self, function: str, output: Tensor) -> None:
        where, layer = self.running[-1]
        assert self.after is not None
        after, source = self.after
        if next(layer.children(), None) is not None or layer is source:
            where = f"{where}.{function}" if where else function
        key = where, after, self.since[where]
        self.since[where] += 1
        # Tokens, and what linear layers put out, have their channels last.
        channel = -1 if output.ndim <= 3 or isinstance(source, nn.Linear) else 1
        above = (output.detach() > 0).movedim(channel, 0).flatten(1)
        count, places = self.counts.get(key, (torch.zeros(len(above), dtype=torch.int64), 0))
        self.counts[key] = count + above.sum(1).cpu(), places + above.shape[1]

    def result(self) -> list[LayerActivity]:
        named: Counter[str] = Counter()
        found = []
        for (where, after, _), (count, places) in self.counts.items():
            name = f"{where}:{named[where]}" if named[where] else where
            named[where] += 1
            dead = tuple((count == 0).nonzero().flatten().tolist())
            share = float(count.sum()) / max(1, places * len(count))
            found.append(LayerActivity(name, after, len(count), dead, share))
        return found


# Looking and drawing -----------------------------------------------------------------------------


def _look(module: ImageModule, images: Tensor) -> None:
    """Let a module of any family look at images."""
    with undisturbed(module):
        module.attribution_fn()(images.clone())


@contextlib.contextmanager
def _seen(layers: Mapping[str, nn.Module], see: Callable[[str, Any], None]) -> Iterator[None]:
    """Hand each output of some layers on, with the layer's name."""
    with contextlib.ExitStack() as stack:
        for name, layer in layers.items():

            def hook(layer: nn.Module, args: object, output: Any, name: str = name) -> None:
                see(name, output)

            stack.callback(layer.register_forward_hook(hook).remove)
        yield


def _as_map(module: ImageModule, name: str, output: Any) -> Tensor:
    """The output of a layer as ``[B, c, *s]``."""
    if not isinstance(output, Tensor):
        raise UserError(f"{name} puts out a {type(output).__name__} and not one tensor")
    layer = module.network.get_submodule(name)
    if output.ndim == 5 or isinstance(layer, nn.Conv2d | nn.BatchNorm2d):
        return output
    return module.feature_map(output)


def _middle(values: Tensor, dimensions: int) -> Tensor:
    """The middle plane of the depth, where there is one more dimension."""
    return values if values.ndim == dimensions else values.select(-3, values.shape[-3] // 2)


def _tile(values: "np.typing.NDArray[np.float32]") -> Picture:
    """A map ``[h, w]`` from its low values in blue to its high ones in yellow, as large as a tile.

    A few places that stand out, or an edge, do not take the contrast from the others.
    """
    import cv2

    low, high = np.percentile(values, pictures.STRETCH)
    scaled = np.clip((values - low) / max(high - low, np.finfo(np.float32).tiny), 0, 1)
    ratio = pictures.TILE / min(values.shape)
    size = max(1, round(values.shape[1] * ratio)), max(1, round(values.shape[0] * ratio))
    how = cv2.INTER_AREA if ratio < 1 else cv2.INTER_NEAREST
    resized = cv2.resize((scaled * 255 + 0.5).astype(np.uint8), size, interpolation=how)
    colours = cv2.applyColorMap(resized, cv2.COLORMAP_VIRIDIS)
    return np.asarray(cv2.cvtColor(colours, cv2.COLOR_BGR2RGB), np.uint8)


def _row(tiles: Sequence[Picture], gap: int = 4) -> Picture:
    """Tiles of one height beside each other."""
    return np.concatenate(
        [np.pad(tile, ((0, 0), (0, gap), (0, 0)), constant_values=255) for tile in tiles], axis=1
    )


def _sheet(rows: Sequence[Picture], gap: int = 4) -> Picture:
    """Rows below each other, on white."""
    width = max(row.shape[1] for row in rows)
    return np.concatenate(
        [
            np.pad(row, ((0, gap), (0, width - row.shape[1]), (0, 0)), constant_values=255)
            for row in rows
        ]
    )
