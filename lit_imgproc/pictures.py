"""Small pictures for the tracker: tiles with captions, heat maps over images, grids of tiles.

Everything here is ``uint8`` RGB ``[H, W, 3]``. OpenCV draws: a figure of a plotting library takes a
hundred times longer, and these are drawn while a network trains.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]

TILE = 112
"""The least side of a tile in pixels, so that a 28-pixel image can be seen."""
_CAPTION = 15
_INK = {"plain": (30, 30, 30), "right": (0, 110, 40), "wrong": (190, 20, 20)}


def tile(image: npt.NDArray[np.floating]) -> Picture:
    """Turn one image ``[C, H, W]`` in [0, 1] into a tile of at least :data:`TILE` pixels a side.

    One channel is shown as grey; of more than three, the first three are shown.
    """
    import cv2

    channels = image[:3] if image.shape[0] >= 3 else np.repeat(image[:1], 3, axis=0)
    pixels = (np.clip(channels, 0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0)
    scale = max(1, -(-TILE // min(pixels.shape[:2])))
    size = (pixels.shape[1] * scale, pixels.shape[0] * scale)
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_NEAREST), np.uint8)


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
