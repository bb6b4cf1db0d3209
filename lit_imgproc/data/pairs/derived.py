"""Sources that are made of the photograph itself: its edges, or what is left of it."""

import hashlib
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from lit_imgproc.data.pairs.framing import Pixels, converted

Derived = Literal["edges", "erased", "grey"]

SMOOTH = 1.4
"""Deviation of the Gaussian that noise is smoothed with before edges are looked for, in pixels."""
WEAK = 0.4
"""Share of the threshold of edges from which what goes on from an edge is one."""
GREY = 128
"""What the hole is filled with: the middle of the values, nearly 0 for a network."""
HOLE = (0.25, 0.5)
"""Least and greatest height and width of the hole, as shares of the picture's."""
MISSING = 255
"""In the last channel of an erased picture: this pixel is not known."""


def edges(picture: Pixels) -> Pixels:
    """Black lines on white, one pixel wide: Canny's edges (IEEE TPAMI 8, 679).

    The threshold is Otsu's of the gradients, so that it goes by the contrast of the picture.

    Args:
        picture: ``[H,W,C]``, 1 or 3 channels.

    Returns:
        ``[H,W,1]`` of 0 and 255.
    """
    smooth = cv2.GaussianBlur(converted(picture, 1)[:, :, 0], (0, 0), SMOOTH)
    across, down = (cv2.Sobel(smooth, cv2.CV_16S, *axis) for axis in ((1, 0), (0, 1)))
    strength = np.abs(across) + np.abs(down)
    coarse = np.minimum(strength // 4, 255).astype(np.uint8)
    threshold = 4 * cv2.threshold(coarse, 0, 255, cv2.THRESH_OTSU)[0]
    if not threshold:  # nothing but one grey
        return np.full((*smooth.shape, 1), 255, np.uint8)
    lines = cv2.Canny(across, down, WEAK * threshold, threshold)
    return np.asarray(255 - lines, np.uint8)[:, :, np.newaxis]


def hole(height: int, width: int, seed: int) -> NDArray[np.bool_]:
    """A rectangle anywhere, a quarter to a half as high and as wide as the picture: ``[H,W]``."""
    random = np.random.default_rng([seed, 1])  # other numbers than those that cut the picture out
    rows, columns = (round(side * random.uniform(*HOLE)) for side in (height, width))
    row, column = (
        int(random.integers(side - part + 1)) for side, part in ((height, rows), (width, columns))
    )
    result = np.zeros((height, width), np.bool_)
    result[row : row + rows, column : column + columns] = True
    return result


def erase(picture: Pixels, missing: NDArray[np.bool_]) -> Pixels:
    """A picture with a grey hole, and a channel more that is 255 where the hole is.

    Args:
        picture: ``[H,W,C]``.
        missing: ``[H,W]``.

    Returns:
        ``[H,W,C+1]``.
    """
    left = np.where(missing[:, :, np.newaxis], np.uint8(GREY), picture)
    return np.dstack([left, np.where(missing, np.uint8(MISSING), np.uint8(0))])


def transparent(path: str | Path) -> NDArray[np.bool_] | None:
    """Where an image file is wholly transparent, ``[H,W]``; ``None`` if it is nowhere."""
    with Image.open(path) as image:
        if "A" not in image.getbands():
            return None
        found = np.asarray(ImageOps.exif_transpose(image).getchannel("A")) == 0
    return found if found.any() else None


def seed_of(name: str) -> int:
    """A seed that is always the same for a name, whatever the order of the files."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:7])
