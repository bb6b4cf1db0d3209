"""Several looks at an image: tiles of a large one, and mirrored and turned copies."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_imgproc import seams
from lit_imgproc.models.objects import Detections

Detect = Callable[[list[Tensor]], list[Detections]]
"""From images float ``[C,h,w]`` of any sizes, in [0, 1], to what is found in each."""

View = tuple[bool, int]
"""A copy of an image: whether it is mirrored, and then how many quarter turns it makes."""

VIEWS: dict[str, list[View]] = {
    "none": [(False, 0)],
    "hflip": [(False, 0), (True, 0)],
    "d4": [(mirrored, turns) for mirrored in (False, True) for turns in range(4)],
}
Window = tuple[int, int, int, int]
"""Where a tile lies: left, top, right, bottom."""

SAME = 0.55
"""Boxes of two views that overlap more are of the same object: arXiv 1910.13302."""


def with_views(
    detect: Detect,
    *,
    test_time_augmentation: Literal["none", "hflip", "d4"],
    tile_size: int | None,
    tile_overlap: int,
    max_detections: int,
) -> Detect:
    """Detect with the looks that are asked for; with none, ``detect`` itself.

    Args:
        detect: What looks at one image once.
        test_time_augmentation: See :func:`augmented`.
        tile_size: See :func:`tiled`; ``None`` takes images as they are.
        tile_overlap: Of neighbouring tiles, in pixels.
        max_detections: So many objects an image has at most; the best stay.
    """
    if test_time_augmentation != "none":
        detect = augmented(detect, VIEWS[test_time_augmentation], max_detections)
    if tile_size is not None:
        detect = tiled(detect, tile_size, tile_overlap, max_detections)
    return detect


def tiled(
    detect: Detect, tile_size: int, overlap: int, max_detections: int, iou: float = 0.5
) -> Detect:
    """Cut images that are larger than a tile, and put together what is found in the tiles.

    Tiles overlap and are of full size: the last of a row or column is moved back. They are looked
    at in batches of as many as there are images. Which boxes of neighbouring tiles are one object
    is said at :func:`lit_imgproc.seams.join`: what is larger than the overlap is put together from
    its parts, so the overlap is best larger than most objects. A mask is kept as the pixels around
    it, and is laid out at the size of the image only for the objects that are answered.

    Args:
        detect: What looks at a tile.
        tile_size: Side of a tile, in pixels.
        overlap: Of neighbouring tiles, in pixels, less than ``tile_size``.
        max_detections: Of a whole image.
        iou: Of boxes of one object in two tiles, at least.
    """

    def look(images: list[Tensor]) -> list[Detections]:
        windows = [_windows(image, tile_size, overlap) for image in images]
        tiles = [(number, window) for number, some in enumerate(windows) for window in some]
        kept = [_Found(image) for image in images]
        for first in range(0, len(tiles), len(images)):
            part = tiles[first : first + len(images)]
            pixels = [_cut(images[number], window) for number, window in part]
            for (number, window), found in zip(part, detect(pixels), strict=True):
                kept[number].add(found, window[:2])
        return [
            found.answer(_stitched(found, some, iou), max_detections)
            for found, some in zip(kept, windows, strict=True)
        ]

    return look


def augmented(
    detect: Detect, views: Sequence[View], max_detections: int, iou: float = SAME
) -> Detect:
    """Look at mirrored and turned copies of images, too, and fuse what is found.

    Weighted boxes fusion (arXiv 1910.13302): boxes of one class, of different views, that overlap
    more than ``iou`` are one object. Its box is their mean, weighted by their scores, and its score
    the mean over all views, 0 for those that have not found it. Its mask is that of the best box.

    Args:
        detect: What looks at an image once. All images are looked at together, view by view.
        views: See :data:`VIEWS`.
        max_detections: Of an image.
        iou: Of boxes of one object in two views, at least.
    """

    def look(images: list[Tensor]) -> list[Detections]:
        kept = [_Found(image) for image in images]
        for mirrored, turns in views:
            seen = [(i.flip(-1) if mirrored else i).rot90(turns, (-2, -1)) for i in images]
            for found, one in zip(kept, detect(seen), strict=True):
                found.add(_undone(one, mirrored, turns, found.image.shape[-2:]))
        return [found.answer(_fused(found, len(views), iou), max_detections) for found in kept]

    return look


@dataclass
class _Patch:
    """The pixels around a mask, bool ``[h,w]``, and where they lie."""

    left: int
    top: int
    pixels: Tensor


class _Found:
    """What several looks at one image have found, in pixels of that image.

    Boxes, scores and labels are on the CPU, in double precision: few numbers, compared in pairs.
    """

    def __init__(self, image: Tensor) -> None:
        self.image = image
        self.boxes: NDArray[np.float64] = np.zeros((0, 4))
        self.scores: NDArray[np.float64] = np.zeros(0)
        self.labels: NDArray[np.int64] = np.zeros(0, np.int64)
        self.sources: NDArray[np.int64] = np.zeros(0, np.int64)
        self.looks = 0
        self.patches: list[_Patch] | None = None

    def add(self, found: Detections, corner: tuple[int, int] = (0, 0)) -> None:
        """Add what one look has found, in pixels that are counted from a corner ``x, y``."""
        boxes = found["boxes"].detach().double().cpu().numpy() + np.tile(corner, 2)
        scores = found["scores"].detach().double().cpu().numpy()
        self.boxes = np.concatenate([self.boxes, boxes])
        self.scores = np.concatenate([self.scores, scores])
        self.labels = np.concatenate([self.labels, found["labels"].cpu().numpy()])
        self.sources = np.concatenate([self.sources, np.full(len(boxes), self.looks)])
        self.looks += 1
        if "masks" in found:
            self.patches = (self.patches or []) + _patches(found["masks"], corner)

    def answer(self, joined: seams.Joined, limit: int) -> Detections:
        """The best objects, with their masks at the size of the image."""
        device, members = self.image.device, joined.members[:limit]
        labels = self.labels[[some[0] for some in members]]
        answer: Detections = {
            "boxes": torch.from_numpy(joined.boxes[:limit]).float().to(device),
            "labels": torch.from_numpy(labels).to(device),
            "scores": torch.from_numpy(joined.scores[:limit]).float().to(device),
        }
        if self.patches is not None:
            height, width = self.image.shape[-2:]
            masks = torch.zeros((len(members), height, width), dtype=torch.bool, device=device)
            for mask, some in zip(masks, members, strict=True):
                for patch in map(self.patches.__getitem__, some):
                    rows, columns = patch.pixels.shape
                    part = np.s_[patch.top : patch.top + rows, patch.left : patch.left + columns]
                    mask[part] |= patch.pixels
            answer["masks"] = masks
        return answer


def _patches(masks: Tensor, corner: tuple[int, int]) -> list[_Patch]:
    """What is around each of the masks bool ``[N,H,W]`` of a look."""
    # Forty times as fast on a CPU as `any` along an axis.
    rows, columns = (masks.view(torch.uint8).amax(axis).bool() for axis in (2, 1))
    result = []
    for mask, down, across in zip(masks, rows.cpu().numpy(), columns.cpu().numpy(), strict=True):
        y, x = np.flatnonzero(down), np.flatnonzero(across)
        part = np.s_[y[0] : y[-1] + 1, x[0] : x[-1] + 1] if len(y) else np.s_[0:0, 0:0]
        left, top = corner[0] + part[1].start, corner[1] + part[0].start
        result.append(_Patch(left, top, mask[part].clone()))  # lets go of the rest of the mask
    return result


def _windows(image: Tensor, tile_size: int, overlap: int) -> list[Window]:
    """Where the tiles of an image lie, row by row."""
    height, width = image.shape[-2:]
    return [
        (left, top, min(left + tile_size, width), min(top + tile_size, height))
        for top in seams.starts(height, tile_size, overlap)
        for left in seams.starts(width, tile_size, overlap)
    ]


def _cut(image: Tensor, window: Window) -> Tensor:
    left, top, right, bottom = window
    return image[:, top:bottom, left:right]


def _undone(found: Detections, mirrored: bool, turns: int, size: Sequence[int]) -> Detections:
    """What was found in a view, as it lies in the image, of height and width ``size``."""
    height, width = size
    # A quarter turn takes the point x, y of an image of width w to y, w - x.
    boxes = found["boxes"]
    for turn in reversed(range(turns)):
        across = height if turn % 2 else width  # the width before this turn
        left, top, right, bottom = boxes.unbind(1)
        boxes = torch.stack([across - bottom, left, across - top, right], 1)
    if mirrored:
        left, top, right, bottom = boxes.unbind(1)
        boxes = torch.stack([width - right, top, width - left, bottom], 1)
    undone: Detections = {**found, "boxes": boxes}
    if "masks" in found:
        masks = found["masks"].rot90(-turns, (-2, -1))
        undone["masks"] = masks.flip(-1) if mirrored else masks
    return undone


def _stitched(found: _Found, windows: Sequence[Window], iou: float) -> seams.Joined:
    """Boxes and scores of the objects that the tiles of an image have found."""
    height, width = found.image.shape[-2:]
    boxes, scores, labels, tiles = found.boxes, found.scores, found.labels, found.sources
    lie = np.array(windows, np.float64)
    return seams.join(boxes, scores, labels, tiles, lie, (height, width), iou)


def _fused(found: _Found, views: int, iou: float) -> seams.Joined:
    """Boxes and scores of the objects that several views have found."""
    rows = np.arange(len(found.boxes))
    agree = np.triu(seams.overlaps(found.boxes, found.boxes), 1)
    pairs = seams.pairs_above(iou, agree, rows, rows, found.labels)
    fused: list[tuple[float, NDArray[np.float64], list[int]]] = []
    for group in seams.grouped(rows, pairs, found.sources):
        scores = found.scores[group]
        weights = scores if scores.any() else np.ones_like(scores)
        box = np.average(found.boxes[group], axis=0, weights=weights)
        fused.append((float(scores.sum()) / views, box, [group[int(scores.argmax())]]))
    fused.sort(key=lambda one: -one[0])
    return seams.Joined(
        np.array([box for _, box, _ in fused], np.float64).reshape(-1, 4),
        np.array([score for score, _, _ in fused], np.float64),
        [best for _, _, best in fused],
    )
