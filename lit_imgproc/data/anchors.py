"""Anchors that fit the boxes of a data set: what a region proposal network starts from.

An anchor is good for a box where the two overlap much, on the grid of places where anchors really
lie: their centres are a stride of the trunk's level apart. The larger the stride beside the anchor,
the farther from it a box may lie, so that clusters of widths and heights alone (arXiv:1612.08242)
say too little: they would put anchors for objects of one size on every level.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lit_imgproc.data.base import DataError, ImageDataModule, Progress

Values = NDArray[np.float64]

BOXES = 10_000
"""So many boxes are looked at: enough for a handful of numbers."""

LARGEST, USUAL = 16, 8
"""Sides of an anchor in strides of its level: at most, and as networks have it by default.

Of what is larger, the features of one place of the level see too little.
"""

RATIOS = 3
"""So many aspect ratios at most, as networks have by default."""

GAIN = 0.003
"""What a further level or aspect ratio must add to the mean best IoU to be used."""

FLATTEST = 0.01
"""The least aspect ratio: they are told by two digits."""

CANDIDATES, PASSES = 40, 20
"""Values all over the boxes' range that are tried for a number, and how often for each."""

NEARBY = np.linspace(0.95, 1.05, 11)
"""Others that are tried, in shares of what the number is."""


class Boxes(NamedTuple):
    """Boxes of a training set.

    Attributes:
        edges: float64 ``[N,4]``, xyxy in pixels of what the network sees, all with an area.
        labels: int64 ``[N]``.
    """

    edges: Values
    labels: NDArray[np.int64]

    @property
    def sizes(self) -> Values:
        """Square root of the area, ``[N]``."""
        return np.asarray(np.sqrt((self.edges[:, 2:] - self.edges[:, :2]).prod(1)))

    @property
    def ratios(self) -> Values:
        """Height by width, ``[N]``."""
        width, height = (self.edges[:, 2:] - self.edges[:, :2]).T
        return np.asarray(height / width)

    @property
    def weights(self) -> Values:
        """What each box counts ``[N]``, so that all classes count the same; their sum is 1."""
        _, which, counts = np.unique(self.labels, return_inverse=True, return_counts=True)
        return np.asarray(1 / (len(counts) * counts[which]))


@dataclass(frozen=True)
class Anchors:
    """The anchors of a trunk's levels, in the form of torchvision's ``AnchorGenerator``.

    Args:
        sizes: Square root of the area, in pixels, a level.
        ratios: Height by width, the same on all levels.
        strides: Pixels from one anchor to the next, a level.
    """

    sizes: list[float]
    ratios: list[float]
    strides: list[int]

    @classmethod
    def usual(cls, strides: Sequence[int]) -> "Anchors":
        """Those of FPN (arXiv:1612.03144) and torchvision: 32 to 512 pixels at strides 4 to 64."""
        return cls([float(USUAL * stride) for stride in strides], [0.5, 1.0, 2.0], list(strides))


@dataclass(frozen=True)
class Coverage:
    """How well anchors meet boxes, each box by the anchor that overlaps it most.

    Means over the boxes of each class, and then over the classes, as mAP has it: a fit to all boxes
    alike would give up a class that is rare and small.

    Attributes:
        mean_iou: Mean of that overlap.
        recall_50: Share of the boxes that an anchor overlaps by an IoU of at least 0.5.
        recall_70: Likewise by 0.7, from where on a region proposal network learns objects.
    """

    mean_iou: float
    recall_50: float
    recall_70: float


@dataclass(frozen=True)
class Fit:
    """Anchors fitted to boxes.

    Attributes:
        boxes: How many.
        anchors: The fitted ones.
        needed: The strides of the levels whose anchors the boxes need.
        fitted: What they reach.
        usual: What :meth:`Anchors.usual` reaches.
    """

    boxes: int
    anchors: Anchors
    needed: list[int]
    fitted: Coverage
    usual: Coverage

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def training_boxes(data: ImageDataModule, progress: Progress) -> Boxes:
    """The first boxes of training, scaled and augmented as it sees them, without crowds.

    Args:
        data: Prepared or not.
        progress: Shows how far it is.

    Raises:
        DataError: The samples have no boxes, or there is none in any of them.
    """
    data.prepare()
    edges: list[Values] = []
    labels: list[NDArray[np.int64]] = []
    loader = data.train_dataloader()
    for batch in progress(loader, "train", len(loader)):
        if "boxes" not in batch:
            raise DataError(f"{type(data).__name__}: its samples have no boxes to fit anchors to.")
        parts = zip(batch["boxes"], batch["labels"], batch["iscrowd"], strict=True)
        for boxes, classes, crowd in parts:
            used = (crowd == 0) & (boxes[:, 2:] > boxes[:, :2]).all(1)
            edges.append(boxes[used].double().numpy())
            labels.append(classes[used].numpy())
        if sum(map(len, edges)) >= BOXES:
            break
    found = Boxes(np.concatenate(edges), np.concatenate(labels))
    if not len(found.edges):
        raise DataError(f"{type(data).__name__}: the training images have no boxes.")
    return found


def coverage(boxes: Boxes, anchors: Anchors) -> Coverage:
    """How well anchors meet boxes on the grids of their levels."""
    best = _best(boxes, anchors).max(0)
    return Coverage(*(float(v @ boxes.weights) for v in (best, best >= 0.5, best >= 0.7)))


def fit(boxes: Boxes, strides: Sequence[int]) -> Fit:
    """Find the sizes and aspect ratios with the greatest mean best IoU.

    One number after the other is set to the best of many until none changes. Sizes do not fall from
    level to level. An aspect ratio that adds next to nothing is left out, and so is a level at
    either end of the trunk: its size is then a factor of two from the next.

    Args:
        boxes: To be met.
        strides: Of the levels of the network's trunk, in pixels, ascending.
    """
    fits = [_climb(boxes, strides, count) for count in range(1, RATIOS + 1)]
    scores = [coverage(boxes, one).mean_iou for one in fits]
    part = next(one for one, s in zip(fits, scores, strict=True) if s >= max(scores) - GAIN)
    first = list(strides).index(part.strides[0])
    lower = [max(float(round(part.sizes[0] / 2**n)), 1.0) for n in range(first, 0, -1)]
    upper = [part.sizes[-1] * 2**n for n in range(1, len(strides) - first - len(part.sizes) + 1)]
    anchors = Anchors([*lower, *part.sizes, *upper], part.ratios, list(strides))
    usual = coverage(boxes, Anchors.usual(strides))
    return Fit(len(boxes.edges), anchors, part.strides, coverage(boxes, anchors), usual)


def rows(found: Fit) -> Iterator[tuple[str, str, str]]:
    """A table: what is measured, of the fitted anchors, and of the usual ones."""
    measures = ("mean best IoU", "recall at IoU 0.5", "recall at IoU 0.7")
    values = zip(asdict(found.fitted).values(), asdict(found.usual).values(), strict=True)
    for name, (fitted, usual) in zip(measures, values, strict=True):
        yield name, f"{fitted:.3f}", f"{usual:.3f}"


def _climb(boxes: Boxes, strides: Sequence[int], count: int) -> Anchors:
    """The best that is reached from two starts, sizes as the boxes have them and the usual ones.

    Only of the levels that the boxes need.
    """
    sides = np.asarray(strides, np.float64)
    spread = np.quantile(boxes.sizes, (np.arange(len(strides)) + 0.5) / len(strides))
    ratios = np.quantile(boxes.ratios, (np.arange(count) + 0.5) / count)
    ratios = ratios.round(2).clip(FLATTEST).tolist()
    starts = [np.minimum(spread, LARGEST * sides).round().clip(1), USUAL * sides]
    found = [_ascend(boxes, Anchors(start.tolist(), ratios, list(strides))) for start in starts]
    best = max(found, key=lambda one: coverage(boxes, one).mean_iou)
    first, end = _needed(boxes, best)
    return _ascend(boxes, Anchors(best.sizes[first:end], best.ratios, best.strides[first:end]))


def _ascend(boxes: Boxes, anchors: Anchors) -> Anchors:
    """Change one number at a time for as long as that helps."""
    all_sizes = np.geomspace(boxes.sizes.min(), boxes.sizes.max(), CANDIDATES)
    flattest, tallest = np.quantile(boxes.ratios, [0.01, 0.99]).tolist()
    all_ratios = np.geomspace(flattest, tallest, CANDIDATES)
    sizes, ratios = list(anchors.sizes), list(anchors.ratios)
    for _ in range(PASSES):
        before = (*sizes, *ratios)
        for level, stride in enumerate(anchors.strides):
            others = _best(boxes, Anchors(sizes, ratios, anchors.strides))
            others[level] = 0
            lowest = sizes[level - 1] if level else 0
            highest = min([*sizes[level + 1 : level + 2], LARGEST * stride])
            tried = np.concatenate([[sizes[level]], all_sizes, sizes[level] * NEARBY]).round()
            tried = tried[(tried >= max(lowest, 1)) & (tried <= highest)]
            reached = _overlap(boxes, tried, ratios, stride).max(1)
            scores = np.maximum(reached, others.max(0)) @ boxes.weights
            sizes[level] = float(tried[scores.argmax()])
        for number in range(len(ratios)):
            tried = np.concatenate([[ratios[number]], all_ratios, ratios[number] * NEARBY])
            tried = tried.round(2).clip(FLATTEST)
            kept = [*ratios[:number], *ratios[number + 1 :]]
            levels = list(zip(sizes, anchors.strides, strict=True))
            each = [_overlap(boxes, [size], [*tried, *kept], s)[0] for size, s in levels]
            best = np.max(each, axis=0)
            rest = best[len(tried) :].max(0, initial=0)
            scores = np.maximum(best[: len(tried)], rest) @ boxes.weights
            ratios[number] = float(tried[scores.argmax()])
        if before == (*sizes, *ratios):
            break
    return Anchors(sizes, sorted(ratios), anchors.strides)


def _needed(boxes: Boxes, anchors: Anchors) -> tuple[int, int]:
    """The first of the levels that boxes need, and the one after the last."""
    levels, weights = _best(boxes, anchors), boxes.weights
    enough = levels.max(0) @ weights - GAIN
    first, end = 0, len(levels)
    while end > 1 and levels[: end - 1].max(0) @ weights >= enough:
        end -= 1
    while first + 1 < end and levels[first + 1 : end].max(0) @ weights >= enough:
        first += 1
    return first, end


def _best(boxes: Boxes, anchors: Anchors) -> Values:
    """IoU ``[L,N]`` of each box with the best anchor of each level."""
    levels = zip(anchors.sizes, anchors.strides, strict=True)
    return np.array([_overlap(boxes, [s], anchors.ratios, t)[0].max(0) for s, t in levels])


def _overlap(
    boxes: Boxes, sizes: Sequence[float] | Values, ratios: Sequence[float] | Values, stride: int
) -> Values:
    """IoU ``[S,R,N]`` of each box with the nearest anchor of each size and ratio of a level.

    torchvision's anchors have their centres at multiples of the stride, and half their sides are
    whole pixels.
    """
    lows, highs = boxes.edges[:, :2], boxes.edges[:, 2:]
    nearest = np.round((lows + highs) / 2 / stride) * stride
    low, high = (lows - nearest).T, (highs - nearest).T
    root = np.sqrt(ratios)
    across, down = (
        np.round(np.outer(sizes, side) / 2).clip(0.5)[..., None] for side in (1 / root, root)
    )
    width = np.minimum(high[0], across) - np.maximum(low[0], -across)
    height = np.minimum(high[1], down) - np.maximum(low[1], -down)
    common = np.maximum(width, 0) * np.maximum(height, 0)
    return np.asarray(common / (4 * across * down + (highs - lows).prod(1) - common))
