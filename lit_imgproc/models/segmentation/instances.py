"""Objects in a map of probabilities: touching ones are told apart by a watershed."""

from typing import Annotated

import cv2
import numpy as np
from annotated_types import Ge, Gt, Interval, Lt
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import watershed

Numbers = NDArray[np.int32]
"""``[H, W]``, the number of the object of each pixel, from 1 without gaps; 0 for none."""
Depth = NDArray[np.float32]
Threshold = Annotated[float, Gt(0), Lt(1)]
Neck = Annotated[float, Interval(ge=0, le=1)]
MinSize = Annotated[int, Ge(1)]

SIGMA = 1.0
"""Of the Gaussian that smooths depths, in pixels: outlines of pixels have dents of that size."""
CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)


def split_instances(
    probability: NDArray[np.float32],
    *,
    threshold: Threshold = 0.5,
    neck: Neck = 0.7,
    min_size: MinSize = 16,
) -> Numbers:
    """The objects of a map of probabilities, by a watershed that markers control.

    The foreground is cut where it is narrow: along the valleys of the distance to the background
    (Meyer and Beucher, doi 10.1016/1047-3203(90)90014-M). Between two summits of that distance
    there is a cut if the pass between them is lower than a share of the lower one, so that large
    and small objects are told apart by one rule. It merges basins by the height of their passes,
    like h-maxima do, but by a ratio.

    Where networks are taught a border of background between touching objects (arXiv 1505.04597),
    objects are a pixel too small there: they are given back the pixels at which they then touch.

    Args:
        probability: of objects, float32 ``[H, W]``.
        threshold: pixels above it are foreground.
        neck: two parts of the foreground are two objects if what joins them is narrower than this
            share of the narrower one: 0 cuts nothing, 1 wherever it becomes narrower at all.
        min_size: smaller objects are dropped, in pixels.

    Returns:
        int32 ``[H, W]``, the number of the object of each pixel, from 1 without gaps; 0 for none.
    """
    inside = probability > threshold
    if inside.all():  # no distance to a background that is nowhere
        return large(inside.astype(np.int32), min_size)
    distance = cv2.distanceTransform(inside.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    depth: Depth = np.asarray(cv2.GaussianBlur(distance, (0, 0), SIGMA), np.float32)
    depth[~inside] = 0
    summits = inside & (depth == cv2.dilate(depth, CROSS))
    markers, count = ndimage.label(summits)
    heights = np.zeros(count + 1)
    heights[markers[summits]] = depth[summits]
    basins: Numbers = watershed(-depth, markers, mask=inside)  # type: ignore[no-untyped-call]
    objects = regrown(_kept_apart(heights, _passes(depth, basins, count), neck)[basins])
    return large(objects, min_size)


def large(objects: Numbers, min_size: int) -> Numbers:
    """The objects ``[H, W]`` of at least so many pixels, numbered without gaps."""
    kept = np.bincount(objects.ravel()) >= min_size
    kept[0] = False
    numbers = np.where(kept, kept.cumsum(), 0).astype(np.int32)
    return np.asarray(numbers[objects])


def instance_scores(probability: NDArray[np.float32], instances: Numbers) -> NDArray[np.float32]:
    """The mean probability ``[N]`` in objects ``[H, W]`` that are numbered from 1 without gaps."""
    flat = instances.ravel()
    sums, sizes = np.bincount(flat, probability.ravel()), np.bincount(flat)
    return (sums[1:] / sizes[1:]).astype(np.float32)


def best_first(
    probability: NDArray[np.float32], instances: Numbers
) -> tuple[Numbers, NDArray[np.float32]]:
    """The same objects ``[H, W]``, numbered from the best down, and their scores ``[N]``."""
    scores = instance_scores(probability, instances)
    order = np.argsort(-scores, kind="stable")
    numbers = np.zeros(len(scores) + 1, np.int32)
    numbers[order + 1] = np.arange(1, len(scores) + 1)
    return numbers[instances], scores[order]


def boxes_of(instances: NDArray[np.integer]) -> NDArray[np.float32]:
    """The boxes ``[N, 4]`` of objects ``[H, W]`` numbered from 1 without gaps, xyxy in pixels."""
    boxes = [
        (columns.start, rows.start, columns.stop, rows.stop)
        for rows, columns in ndimage.find_objects(instances)
    ]
    return np.array(boxes, np.float32).reshape(-1, 4)


def regrown(objects: Numbers) -> Numbers:
    """Objects ``[H, W]`` with the pixels around them at which they then touch one another."""
    around = cv2.dilate(objects.astype(np.float32), CROSS)  # of two, the greater number
    grown = np.where(objects > 0, objects, around)
    square = np.ones((3, 3), np.uint8)
    highest = cv2.dilate(grown, square)
    lowest = cv2.erode(np.where(grown > 0, grown, np.float32(np.inf)), square)
    return np.where((highest != lowest) & (lowest < np.inf), grown, objects).astype(np.int32)


def _kept_apart(
    summits: NDArray[np.float64], passes: list[tuple[float, int, int]], neck: float
) -> Numbers:
    """The object that each basin is of ``[1 + N]``.

    Args:
        summits: the height of each basin's summit ``[1 + N]``, after one for the background.
        passes: between two basins, highest first.
        neck: see :func:`split_instances`.
    """
    height = summits.tolist()
    parent = list(range(len(height)))

    def top(basin: int) -> int:
        while parent[basin] != basin:
            basin = parent[basin]
        return basin

    for way, one, other in passes:
        low, high = sorted((top(one), top(other)), key=height.__getitem__)
        if way >= neck * height[low]:
            parent[low] = high
    return np.array([top(basin) for basin in range(len(height))], np.int32)


def _passes(depth: Depth, basins: Numbers, count: int) -> list[tuple[float, int, int]]:
    """The highest place between each two basins that meet, and their numbers: highest first."""
    heights, pairs = [], []
    for here, there in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        one, other = basins[here], basins[there]
        meet = (one != other) & (one > 0) & (other > 0)
        low, high = np.minimum(one, other)[meet], np.maximum(one, other)[meet]
        heights.append(np.minimum(depth[here], depth[there])[meet])
        pairs.append(low.astype(np.int64) * (count + 1) + high)
    height, pair = np.concatenate(heights), np.concatenate(pairs)
    order = np.argsort(-height, kind="stable")
    pair, first = np.unique(pair[order], return_index=True)
    low, high = divmod(pair, count + 1)
    rows = zip(height[order][first].tolist(), low.tolist(), high.tolist(), strict=True)
    return sorted(rows, reverse=True)
