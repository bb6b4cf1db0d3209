"""Small pictures for the tracker: tiles with captions, heat maps over images, grids of tiles.

Everything here is ``uint8`` RGB ``[H, W, 3]``. OpenCV draws: a figure of a plotting library takes a
hundred times longer, and these are drawn while a network trains.
"""

import colorsys
import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]

TILE = 112
"""The least side of a tile in pixels, so that a 28-pixel image can be seen."""
STRETCH = (2, 98)
"""Percentiles of a channel that are shown as black and as full."""
IGNORED = 255
"""In a mask: what no class is asked of."""
GOLDEN = 0.618034
_CAPTION = 15
_INK = {"plain": (30, 30, 30), "right": (0, 110, 40), "wrong": (190, 20, 20)}


def tile(image: npt.NDArray[np.floating]) -> Picture:
    """Turn one image ``[C, H, W]`` into a tile of at least :data:`TILE` pixels a side.

    It is shown as :func:`rgb` does.
    """
    import cv2

    pixels = rgb(image)
    scale = max(1, -(-TILE // min(pixels.shape[:2])))
    size = (pixels.shape[1] * scale, pixels.shape[0] * scale)
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_NEAREST), np.uint8)


def rgb(image: npt.NDArray[np.floating]) -> Picture:
    """Show an image ``[C, H, W]`` pixel by pixel.

    One channel is shown as grey; of more than three, the first three are shown. Values outside
    [0, 1], of reflectances or Hounsfield units, are stretched over :data:`STRETCH`.
    """
    channels = image[:3] if image.shape[0] >= 3 else np.repeat(image[:1], 3, axis=0)
    if channels.min() < 0 or channels.max() > 1:
        low, high = np.percentile(channels, STRETCH, axis=(1, 2), keepdims=True)
        channels = (channels - low) / np.maximum(high - low, np.finfo(np.float32).tiny)
    return (np.clip(channels, 0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0)


def caption(picture: Picture, lines: Sequence[str], ink: str = "plain") -> Picture:
    """Put lines of text under a picture; ``ink`` is ``plain``, ``right`` or ``wrong``."""
    import cv2

    width = picture.shape[1]
    strip = np.full((_CAPTION * len(lines) + 4, width, 3), 255, np.uint8)
    for row, line in enumerate(lines):
        shown = line.encode("ascii", "replace").decode()  # OpenCV's fonts know ASCII only
        while shown and cv2.getTextSize(shown, cv2.FONT_HERSHEY_SIMPLEX, 0.36, 1)[0][0] > width - 4:
            shown = shown[:-1]
        place = (2, _CAPTION * (row + 1) - 3)
        cv2.putText(strip, shown, place, cv2.FONT_HERSHEY_SIMPLEX, 0.36, _INK[ink], 1, cv2.LINE_AA)
    return np.concatenate([picture, strip])


def overlay(picture: Picture, heat: npt.NDArray[np.floating], opacity: float = 0.5) -> Picture:
    """Lay a map ``[h, w]`` in [0, 1] over a picture, blue (0) to red (1)."""
    import cv2

    height, width = picture.shape[:2]
    smooth = cv2.resize(np.ascontiguousarray(heat, np.float32), (width, height))
    bytes_ = (np.clip(smooth, 0, 1) * 255 + 0.5).astype(np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(bytes_, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    mixed = picture.astype(np.float32) * (1 - opacity) + colours.astype(np.float32) * opacity
    return (mixed + 0.5).astype(np.uint8)


def outline(picture: Picture, boxes: npt.NDArray[np.floating], classes: Sequence[int]) -> Picture:
    """Draw boxes ``[N, 4]``, xyxy in pixels of the picture, each in the colour of its class."""
    import cv2

    drawn = np.ascontiguousarray(picture)
    drawn = drawn.copy() if drawn is picture else drawn
    for (left, top, right, bottom), one in zip(boxes.tolist(), classes, strict=True):
        corners = (round(left), round(top)), (round(right) - 1, round(bottom) - 1)
        cv2.rectangle(drawn, *corners, colour(one), 1)
    return drawn


def annotate(
    picture: Picture,
    boxes: npt.NDArray[np.floating],
    classes: Sequence[int],
    texts: Sequence[str],
    masks: Iterable[npt.NDArray[np.bool_]] = (),
    opacity: float = 0.45,
) -> Picture:
    """Draw boxes with a text each, in lines and letters that suit the size of the picture.

    Args:
        picture: Is left as it is.
        boxes: ``[N, 4]``, xyxy in pixels of the picture. The first are drawn last.
        classes: ``[N]``, whose colours the boxes have.
        texts: ``[N]``.
        masks: Bool ``[H, W]`` each, drawn one by one, each in a colour of its own.
        opacity: Of the masks.
    """
    import cv2

    drawn = np.array(picture)
    for number, mask in enumerate(masks):
        ink = np.array(colour(number), np.float32)
        drawn[mask] = (drawn[mask] * (1 - opacity) + ink * opacity + 0.5).astype(np.uint8)
    height, width = drawn.shape[:2]
    line, size = _pen(height, width)
    rows = list(zip(boxes.tolist(), classes, texts, strict=True))[::-1]
    for (left, top, right, bottom), one, _ in rows:
        corners = (round(left), round(top)), (round(right) - 1, round(bottom) - 1)
        cv2.rectangle(drawn, *corners, colour(one), line)
    for (left, top, _, _), one, text in rows:
        shown = text.encode("ascii", "replace").decode()  # OpenCV's fonts know ASCII only
        (wide, high), below = cv2.getTextSize(shown, cv2.FONT_HERSHEY_SIMPLEX, size, line)
        x = max(0, min(round(left), width - wide))
        y = max(round(top), high + below)  # above the box, or within it at the upper edge
        cv2.rectangle(drawn, (x, y - high - below), (x + wide, y), colour(one), cv2.FILLED)
        place = (x, y - below // 2 - 1)
        cv2.putText(
            drawn, shown, place, cv2.FONT_HERSHEY_SIMPLEX, size, (0, 0, 0), line, cv2.LINE_AA
        )
    return drawn


def paint(
    picture: Picture,
    mask: npt.NDArray[np.integer],
    opacity: float = 0.45,
    clear: int | None = 0,
) -> Picture:
    """Lay the classes of a mask ``[h, w]`` over a picture: ``clear`` is not, 255 becomes black."""
    import cv2

    height, width = picture.shape[:2]
    whole = cv2.resize(mask.astype(np.int32), (width, height), interpolation=cv2.INTER_NEAREST)
    table = {one: colour(one) if one != IGNORED else (0, 0, 0) for one in np.unique(whole).tolist()}
    painted = picture.astype(np.float32)
    for one, ink in table.items():
        if one != clear:
            there = whole == one
            painted[there] = painted[there] * (1 - opacity) + np.array(ink, np.float32) * opacity
    return (painted + 0.5).astype(np.uint8)


def legend(picture: Picture, names: Sequence[str], classes: Sequence[int]) -> Picture:
    """Put a strip under a picture that shows the colour of each class beside its name.

    Its letters suit the size of the picture, and it has as many rows as it needs.
    """
    import cv2

    height, width = picture.shape[:2]
    line, size = _pen(height, width)
    (_, high), below = cv2.getTextSize("Mg", cv2.FONT_HERSHEY_SIMPLEX, size, line)
    gap, step = high // 2 + 2, 2 * high + below
    places: list[tuple[int, int, str]] = []
    x, row = gap, 0
    for name in names:
        shown = name.encode("ascii", "replace").decode()  # OpenCV's fonts know ASCII only
        wide = high + gap + cv2.getTextSize(shown, cv2.FONT_HERSHEY_SIMPLEX, size, line)[0][0]
        if x + wide > width and x > gap:
            x, row = gap, row + 1
        places.append((x, row * step + high // 2, shown))
        x += wide + 2 * gap
    strip = np.full(((row + 1) * step if places else 0, width, 3), 255, np.uint8)
    for (left, top, shown), one in zip(places, classes, strict=True):
        cv2.rectangle(strip, (left, top), (left + high, top + high), colour(one), cv2.FILLED)
        place = (left + high + gap, top + high)
        cv2.putText(
            strip, shown, place, cv2.FONT_HERSHEY_SIMPLEX, size, (30, 30, 30), line, cv2.LINE_AA
        )
    return np.concatenate([picture, strip])


def _pen(height: int, width: int) -> tuple[int, float]:
    """Width of lines and size of letters that suit the size of a picture."""
    return max(1, round(min(height, width) / 400)), max(0.36, min(height, width) / 1400)


def colour(number: int) -> tuple[int, int, int]:
    """A colour for a class: neighbours in number are far apart in hue."""
    red, green, blue = colorsys.hsv_to_rgb(number * GOLDEN % 1, 0.75, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


def grid(tiles: Sequence[Picture], gap: int = 4) -> Picture:
    """Lay tiles out row by row on white; each cell is as large as the largest tile.

    The sheet is about square, which is the room that MLflow's image charts give a picture, and has
    an even number of columns, so that pairs stay together.
    """
    height = max(t.shape[0] for t in tiles) + gap
    width = max(t.shape[1] for t in tiles) + gap
    columns = min(len(tiles), 2 * max(1, round(math.sqrt(len(tiles) * height / width) / 2)))
    rows = -(-len(tiles) // columns)
    sheet = np.full((rows * height + gap, columns * width + gap, 3), 255, np.uint8)
    for position, one in enumerate(tiles):
        top = gap + (position // columns) * height
        left = gap + (position % columns) * width
        sheet[top : top + one.shape[0], left : left + one.shape[1]] = one
    return sheet
