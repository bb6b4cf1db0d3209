"""Explanations as pictures: maps laid over the image that they explain."""

from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from lit_imgproc import pictures
from lit_imgproc.explain.explanation import Explanation, Report
from lit_imgproc.explain.methods import METHODS, Method
from lit_imgproc.models.detection.attribution import BoxTarget
from lit_imgproc.models.segmentation.attribution import RegionTarget
from lit_imgproc.pictures import Picture

Layer = NDArray[np.uint8]
"""RGBA ``[H, W, 4]``, not premultiplied."""
Pixels = TypeVar("Pixels", NDArray[np.uint8], NDArray[np.float32])

SMALLEST, LARGEST = 224, 384
"""About the shorter side of a small image, enlarged; the longer side of a large one, shrunk."""
FULL = 99
"""The percentile of a map that has the full colour: a few extreme pixels would pale all others."""
FOR, AGAINST = (225, 25, 25), (25, 65, 230)
"""The colours of what speaks for a target, and against it."""
FAILED = (190, 20, 20)
STEPS = 31
"""Of the opacity of a signed map: more cannot be seen, and would double the size of the file."""


def picture(explanation: Explanation, report: Report) -> Picture:
    """Show an image beside its maps, one tile a method with a caption.

    What is explained is outlined. A map of a method that fails the sanity check of the report has a
    red frame and says so. Of a volume one slice is shown, see :func:`shown_slice`.
    """
    base = tile(explanation)
    cells = [pictures.caption(base, [explanation.id, *says_of_image(explanation)])]
    for method in explanation.maps:
        above = layer(explanation, method)
        opacity = above[..., 3:] / np.float32(255) * strength(method)
        seen = (base * (1 - opacity) + above[..., :3] * opacity + 0.5).astype(np.uint8)
        lines = [title(method), *says_of_map(explanation, method)]
        if method in report.failed:
            seen[_edge(np.ones(seen.shape[:2], bool), 4)] = FAILED
            cells.append(pictures.caption(seen, [*lines, "fails sanity check"], ink="wrong"))
        else:
            cells.append(pictures.caption(seen, lines))
    return pictures.grid(cells)


# Words ---------------------------------------------------------------------------------------


def title(method: str) -> str:
    """What a method is called in the literature."""
    return METHODS[cast(Method, method)].title


def says_of_image(explanation: Explanation) -> list[str]:
    """What is explained, and which slice is shown: a line each."""
    if explanation.target is None:
        lines = ["nothing found to explain"]
    elif not explanation.maps:
        lines = [f"no map of {explanation.target_name}"]
    else:
        lines = [f"explained: {explanation.target_name}"]
    number = shown_slice(explanation)
    if number is not None:
        lines.append(f"slice {number + 1} of {explanation.image.shape[1]}")
    return lines


def says_of_map(explanation: Explanation, method: str) -> list[str]:
    """How faithful a map is, and whether there is anything in it: a line each."""
    numbers = explanation.numbers.get(method, {})
    lines = [f"{name} {numbers[name]:.2f}" for name in ("insertion", "deletion") if name in numbers]
    if "pointing" in numbers:
        lines.append("points at it" if numbers["pointing"] >= 0.5 else "points elsewhere")
    if not explanation.maps[method].any():
        lines.append("nothing in it")
    return lines


# Pixels --------------------------------------------------------------------------------------


def shown_slice(explanation: Explanation) -> int | None:
    """Which slice along the depth of a volume is shown; None of an image.

    It is that with most heat in the first map, of what speaks for the target; without a map, that
    in the middle.
    """
    if explanation.image.ndim == 3:
        return None
    for heat in explanation.maps.values():
        return int(heat.clip(min=0).sum((1, 2)).argmax())
    depth: int = explanation.image.shape[1]
    return depth // 2


def tile(explanation: Explanation) -> Picture:
    """The image in a size that can be looked at, with the outline of what is explained."""
    number = shown_slice(explanation)
    # A volume is stretched as a whole, as a pile of slices: an empty one is to look empty.
    channels, *_, height, width = explanation.image.shape
    pile = pictures.rgb(explanation.image.reshape(channels, -1, width))
    top = (number or 0) * height
    return _outlined(_resized(pile[top : top + height]), explanation)


def layer(explanation: Explanation, method: str) -> Layer:
    """The colours of a map, to be laid over :func:`tile` with the opacity of :func:`strength`.

    A map that is 0 or above goes from blue to red, from its least value to the percentile
    :data:`FULL`. One with a sign is red where it speaks for the target and blue where it speaks
    against it, on a scale that is the same for both, and is transparent where it is 0.
    """
    heat, number = explanation.maps[method], shown_slice(explanation)
    shown = _resized((heat if number is None else heat[number]).astype(np.float32))
    if METHODS[cast(Method, method)].signed:
        value = np.clip(shown / _full(np.abs(heat)), -1, 1)
        colours = np.where(value[..., None] > 0, FOR, AGAINST).astype(np.uint8)
        alpha = np.rint(np.rint(np.abs(value) * STEPS) * (255 / STEPS))
    else:
        low = heat.min()
        value = (shown - low) / _full(heat - low)
        colours = pictures.overlay(np.zeros((*value.shape, 3), np.uint8), value, opacity=1)
        alpha = np.full(value.shape, 255)
    return _outlined(np.dstack([colours, alpha.astype(np.uint8)]), explanation)


def strength(method: str) -> float:
    """The opacity of a layer: one that is transparent at 0 can be stronger."""
    return 0.85 if METHODS[cast(Method, method)].signed else 0.5


def ramp(signed: bool) -> Picture:
    """The scale of colours ``[1, 101, 3]``, from left to right; the signed one on white."""
    value = np.linspace(-1 if signed else 0, 1, 101, dtype=np.float32)[None]
    if not signed:
        return pictures.overlay(np.zeros((*value.shape, 3), np.uint8), value, opacity=1)
    colours = np.where(value[..., None] > 0, FOR, AGAINST)
    faded = 255 - (255 - colours) * np.abs(value)[..., None] * strength("occlusion")
    return (faded + 0.5).astype(np.uint8)


def _full(values: NDArray[np.float32]) -> float:
    """The value at :data:`FULL`, or the greatest where that is 0, as in a map of a few pixels."""
    return float(np.percentile(values, FULL)) or float(values.max()) or 1.0


def _resized(pixels: Pixels) -> Pixels:
    """Enlarge ``[h, w, ...]`` by a whole number, without smoothing, or shrink it by the mean."""
    import cv2

    height, width = pixels.shape[:2]
    short, long = sorted((height, width))
    factor: float = max(1, min(round(SMALLEST / short), LARGEST // long))
    factor = min(factor, LARGEST / long)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(pixels, size, interpolation=how), pixels.dtype)


def _outlined(seen: NDArray[np.uint8], explanation: Explanation) -> NDArray[np.uint8]:
    """Draw the edge of a box or region, white on black, which is seen on any colours."""
    inside = _inside(explanation)
    if inside is None:
        return seen
    inside = _resized(inside.astype(np.float32)) >= 0.5
    seen = seen.copy()
    seen[_edge(inside, 3)] = 0
    seen[_edge(inside, 2)] = 255
    seen[_edge(inside, 3), 3:] = 255  # opaque, where there are four channels
    return seen


def _inside(explanation: Explanation) -> NDArray[np.bool_] | None:
    """Where the target is, in pixels of the image or slice: bool ``[h, w]``."""
    target, number = explanation.target, shown_slice(explanation)
    if isinstance(target, BoxTarget):
        inside = np.zeros(explanation.image.shape[1:], bool)
        left, top, right, bottom = (max(0, round(edge)) for edge in target.box)
        inside[top : max(bottom, top + 1), left : max(right, left + 1)] = True
        return inside
    if isinstance(target, RegionTarget) and target.region is not None:
        region: NDArray[np.bool_] = target.region.cpu().numpy()
        return region if number is None else region[number]
    return None


def _edge(inside: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """The innermost ``width`` pixels of a region along its edge, that of the image included."""
    import cv2

    kernel = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    core = cv2.erode(inside.astype(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    edge: NDArray[np.bool_] = inside & (core == 0)
    return edge
