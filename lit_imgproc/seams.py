"""Tiles that overlap: where they begin, what each counts, and objects that several have found.

The last serves several looks at one image, too.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float64]
"""``[N,4]``, xyxy in pixels of the whole image."""
Taper = Literal["gaussian", "linear", "uniform"]

SIGMA = 1 / 8
"""Standard deviation of the Gaussian taper, in sides of a tile: nnU-Net, arXiv:1809.10486."""
NEAR = 0.1
"""A side of a box is on a seam if it is nearer to it than this share of the box's own length."""


class Joined(NamedTuple):
    """The objects of an image, best first.

    Attributes:
        boxes: float64 ``[M,4]``.
        scores: float64 ``[M]``.
        members: Which of the given boxes each object is made of: the one that shows it whole, or
            all of its parts. They have one class.
    """

    boxes: Boxes
    scores: NDArray[np.float64]
    members: list[list[int]]


def starts(length: int, size: int, overlap: int) -> list[int]:
    """Where tiles begin that cover a length: the last one ends where it ends.

    Args:
        length: In pixels. Where it is less than ``size``, one tile reaches beyond it.
        size: Of a tile, in pixels.
        overlap: Of neighbouring tiles, less than ``size``.
    """
    last = max(length - size, 0)
    return [*range(0, last, size - overlap), last]


def taper_of(taper: Taper, size: int) -> NDArray[np.float64]:
    """What a prediction counts along one side of a tile, at most 1 and nowhere 0."""
    distance = np.abs(np.arange(size) - (size - 1) / 2)
    if taper == "gaussian":
        return np.asarray(np.exp(-0.5 * (distance / (SIGMA * size)) ** 2))
    return 1 - distance / (size / 2) if taper == "linear" else np.ones(size)


def join(
    boxes: Boxes,
    scores: NDArray[np.float64],
    labels: NDArray[np.int64],
    tiles: NDArray[np.int64],
    windows: Boxes,
    size: tuple[int, int],
    iou: float = 0.5,
) -> Joined:
    """What tiles that overlap have found, each object once.

    A seam is an edge of a tile inside the image; a box with a side on one shows a part of an
    object. By class, and never two boxes of one tile, since what that shows is told apart already:

    1. A part that lies wholly in another tile, off its seams, is left out: that tile sees what
       lies beyond.
    2. Boxes of an IoU above ``iou`` are of one object. Of two parts, only what both tiles see is
       compared, for there they must agree.
    3. The best of the boxes that show an object whole stands for it. Where none does, since it is
       larger than the overlap, its parts are put together: each side is that of the best part that
       is not cut there.

    So an object that is smaller than the overlap is answered as a tile that shows all of it has
    found it. The score is the highest of those of one object.

    Args:
        boxes: ``[N,4]``.
        scores: ``[N]``.
        labels: ``[N]``, the classes as numbers.
        tiles: ``[N]``, the number of the tile that each box was found in.
        windows: ``[T,4]``, xyxy: where the tiles lie.
        size: Height and width of the image. What a window has beyond it is no part of it.
        iou: Of boxes of the same object, at least.
    """
    height, width = size
    beyond = [0, 0, width, height]
    inner = np.concatenate([windows[:, :2] > beyond[:2], windows[:, 2:] < beyond[2:]], axis=1)
    on_seam = _on_seam(boxes, windows[tiles], inner[tiles])
    cut = np.asarray(on_seam.any(axis=1))
    neighbours = _neighbours(windows)
    rows = _rows(tiles, len(windows))
    for tile, others in enumerate(neighbours):
        parts = rows[tile][cut[rows[tile]]]
        seen = np.zeros(len(parts), np.bool_)
        for other in others if len(parts) else ():
            within = (_clipped(boxes[parts], windows[other]) == boxes[parts]).all(axis=1)
            seen |= within & ~_on_seam(boxes[parts], windows[other], inner[other]).any(axis=1)
        rows[tile] = np.setdiff1d(rows[tile], parts[seen])
    pairs: list[tuple[float, int, int]] = []
    for tile, others in enumerate(neighbours):
        ours = rows[tile]
        for other in others[others < tile] if len(ours) else ():
            theirs, common = rows[other], _common(windows[tile], windows[other])
            agree = np.where(
                cut[ours, None] & cut[theirs],
                overlaps(_clipped(boxes[ours], common), _clipped(boxes[theirs], common)),
                overlaps(boxes[ours], boxes[theirs]),
            )
            pairs += pairs_above(iou, agree, ours, theirs, labels)
    return _answered(grouped(np.concatenate(rows), pairs, tiles), boxes, scores, on_seam)


def pairs_above(
    least: float,
    agree: NDArray[np.float64],
    ours: NDArray[np.int64],
    theirs: NDArray[np.int64],
    labels: NDArray[np.int64],
) -> list[tuple[float, int, int]]:
    """The pairs of boxes of one class that agree well enough, for :func:`grouped`.

    Args:
        least: Only those that agree better.
        agree: ``[N,M]``, how well they agree.
        ours: ``[N]``, the numbers of the first boxes.
        theirs: ``[M]``, the numbers of the second boxes.
        labels: Of all boxes.
    """
    same = labels[ours, None] == labels[theirs]
    found = np.nonzero(same & (agree > least))
    return list(
        zip(agree[found].tolist(), ours[found[0]].tolist(), theirs[found[1]].tolist(), strict=True)
    )


def grouped(
    rows: NDArray[np.int64],
    pairs: Iterable[tuple[float, int, int]],
    sources: NDArray[np.int64],
) -> list[list[int]]:
    """Put together what is of the same object, with at most one of each source.

    Args:
        rows: The numbers of all boxes.
        pairs: How well two boxes agree, and which. The best pairs are joined first.
        sources: Where each box is from: the number of a tile or of a look.
    """
    group = {row: [row] for row in rows.tolist()}
    for _, one, other in sorted(pairs, key=lambda pair: (-pair[0], pair[1:])):
        ours, theirs = group[one], group[other]
        if ours is theirs or {*sources[ours].tolist()} & {*sources[theirs].tolist()}:
            continue
        ours += theirs
        group.update(dict.fromkeys(theirs, ours))
    return list({id(members): members for members in group.values()}.values())


def overlaps(ours: Boxes, theirs: Boxes) -> NDArray[np.float64]:
    """IoU ``[N,M]`` of boxes ``[N,4]`` and ``[M,4]``; 0 where there is no area."""
    low = np.maximum(ours[:, None, :2], theirs[:, :2])
    high = np.minimum(ours[:, None, 2:], theirs[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    union = _area(ours)[:, None] + _area(theirs) - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def _answered(
    groups: Sequence[list[int]],
    boxes: Boxes,
    scores: NDArray[np.float64],
    on_seam: NDArray[np.bool_],
) -> Joined:
    """The box and score of each object."""
    found: list[tuple[float, Boxes, list[int]]] = []
    for group in groups:
        members = sorted(group, key=lambda row: (-scores[row], row))
        whole = [row for row in members if not on_seam[row].any()]
        used = whole[:1] or members
        sides = boxes[used[0]].copy()
        for side, outermost in enumerate((np.min, np.min, np.max, np.max)):
            ends = [row for row in used if not on_seam[row, side]]
            sides[side] = boxes[ends[0], side] if ends else outermost(boxes[used, side])
        found.append((float(scores[members[0]]), sides, used))
    found.sort(key=lambda one: -one[0])
    return Joined(
        np.array([sides for _, sides, _ in found], np.float64).reshape(-1, 4),
        np.array([score for score, _, _ in found], np.float64),
        [used for _, _, used in found],
    )


def _on_seam(boxes: Boxes, windows: Boxes, inner: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Bool ``[N,4]``: the sides of boxes that are cut by the edges of their windows."""
    lengths = (boxes[:, 2:] - boxes[:, :2])[:, [0, 1, 0, 1]]
    return np.asarray(inner & (np.abs(boxes - windows) <= np.maximum(1, NEAR * lengths)))


def _neighbours(windows: Boxes) -> list[NDArray[np.intp]]:
    """For each tile the others that see something of what it sees."""
    order = np.argsort(windows[:, 1], kind="stable")
    tops, tallest = windows[order, 1], (windows[:, 3] - windows[:, 1]).max()
    found = []
    for tile, window in enumerate(windows):
        # A raster has thousands of tiles: only those of about the same rows are compared.
        first, last = np.searchsorted(tops, [window[1] - tallest, window[3]])
        near = order[first:last]
        common = _common(window, windows[near])
        found.append(near[(common[:, 2:] > common[:, :2]).all(axis=1) & (near != tile)])
    return found


def _common(window: Boxes, others: Boxes) -> Boxes:
    low = np.maximum(window[:2], others[..., :2])
    return np.concatenate([low, np.minimum(window[2:], others[..., 2:])], axis=-1)


def _clipped(boxes: Boxes, window: Boxes) -> Boxes:
    return np.clip(boxes, window[[0, 1, 0, 1]], window[[2, 3, 2, 3]])


def _area(boxes: Boxes) -> NDArray[np.float64]:
    return np.asarray((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))


def _rows(tiles: NDArray[np.int64], count: int) -> list[NDArray[np.int64]]:
    """The numbers of the boxes of each tile."""
    ends = np.cumsum(np.bincount(tiles, minlength=count))[:-1]
    return np.split(np.argsort(tiles, kind="stable"), ends)
