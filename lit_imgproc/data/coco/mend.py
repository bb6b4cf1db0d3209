"""Boxes that cannot be used as they are."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lit_imgproc.data.coco.shapes import Shape

CUT = "boxes cut at the image's edge"
NO_AREA = "boxes without area left out"
OUTSIDE = "boxes outside of their image left out"
TWICE = "boxes told twice left out"

ROUNDING = 0.05
"""So far, in pixels, a box may reach out of its image by the digits that a file has."""


def mend(
    boxes: NDArray[np.float64],
    images: NDArray[np.int64],
    labels: NDArray[np.int32],
    sizes: NDArray[np.int32],
    shapes: Sequence[Shape] | None,
) -> tuple[NDArray[np.float64], NDArray[np.str_]]:
    """Cut boxes at the edges of their images and find those that are none.

    Args:
        boxes: float64 ``[M,4]``, xyxy.
        images: int64 ``[M]``, rising: a row of ``sizes`` each.
        labels: int32 ``[M]``.
        sizes: int32 ``[N,2]``, height and width of the images.
        shapes: The segmentations; two objects with the same box may differ in these.

    Returns:
        The boxes, and for each what has been done or must be done to it: empty, or one of
        :data:`CUT`, :data:`NO_AREA`, :data:`OUTSIDE` and :data:`TWICE`.
    """
    limits = sizes[images][:, [1, 0, 1, 0]]
    cut = np.clip(boxes, 0, limits)
    reasons = np.full(len(boxes), "", f"<U{max(map(len, (CUT, NO_AREA, OUTSIDE, TWICE)))}")
    reasons[(np.abs(cut - boxes) > ROUNDING).any(1)] = CUT
    first: dict[tuple[object, ...], int] = {}
    for number in _alike(np.column_stack([images, labels, boxes])).tolist():
        key = (images[number], labels[number], *boxes[number].tolist())
        whole = key if shapes is None else (*key, *_parts(shapes[number]))
        if first.setdefault(whole, number) != number:
            reasons[number] = TWICE
    reasons[(cut[:, 2:] <= cut[:, :2]).any(1)] = OUTSIDE
    reasons[(boxes[:, 2:] <= boxes[:, :2]).any(1)] = NO_AREA
    return cut, reasons


def _alike(rows: NDArray[np.float64]) -> NDArray[np.intp]:
    """The numbers of rows that are not the only ones of their kind, rising."""
    order = np.lexsort(rows.T)
    same = (rows[order][1:] == rows[order][:-1]).all(1)
    several = np.concatenate([same, [False]]) | np.concatenate([[False], same])
    return np.sort(order[several[: len(order)]])


def _parts(shape: Shape) -> tuple[bytes, ...]:
    return (shape,) if isinstance(shape, bytes) else tuple(shape)
