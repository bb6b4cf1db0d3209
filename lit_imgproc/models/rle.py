"""COCO's run-length encoding of masks."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from faster_coco_eval.core import mask as coco_mask
from numpy.typing import NDArray
from torch import Tensor

from lit_imgproc.geometry import masks_to_original

COLOURS = 200
"""So many objects have a colour of their own where masks are drawn."""


def encode(masks: Tensor) -> list[bytes]:
    """COCO's run-length encoding of each of N objects.

    Args:
        masks: ``[N, H, W]``, or, where none overlaps another, numbers ``[H, W]`` of the objects
            from 1 without gaps; 0 for none.
    """
    height, width = masks.shape[-2:]
    starts = _starts_of_numbers(masks) if masks.ndim == 2 else _starts(masks)
    if not starts:
        return []
    end = height * width
    counts = [np.diff(places, prepend=0, append=end).tolist() for places in starts]
    runs = [{"size": [height, width], "counts": count} for count in counts]
    return [rle["counts"] for rle in coco_mask.frPyObjects(runs, height, width)]


def _starts(masks: Tensor) -> list[NDArray[np.int64]]:
    """Where the runs of each of masks ``[N, H, W]`` begin, but for the first.

    Runs go down the columns, and on from the foot of each to the head of the next. Where they begin
    is found row by row, several times faster than to lay the pixels out in that order.
    """
    height, width = masks.shape[1:]
    starts = []
    for mask in masks.bool().cpu().numpy():
        edges = mask.copy()
        edges[1:] ^= mask[:-1]
        edges[0, 1:] ^= mask[-1, :-1]
        rows, columns = np.divmod(np.flatnonzero(edges), width)
        starts.append(np.sort(columns * height + rows))
    return starts


def _starts_of_numbers(numbers: Tensor) -> list[NDArray[np.int64]]:
    """The same of numbers ``[H, W]``, of all objects at once."""
    flat = np.append(0, numbers.cpu().numpy().ravel("F"))
    begins = np.flatnonzero(flat[1:] != flat[:-1])
    # Where one object ends and another begins, both have an edge.
    owner = np.concatenate([flat[begins], flat[begins + 1]])
    place = np.concatenate([begins, begins])
    order = np.lexsort((place, owner))
    bounds = np.searchsorted(owner[order], np.arange(1, flat.max() + 2))
    return [place[order[start:stop]] for start, stop in itertools.pairwise(bounds)]


def rles(masks: Tensor, geometry: dict[str, Any] | None) -> list[dict[str, Any]]:
    """COCO's run-length encoding of masks, as :func:`encode` takes them, as plain values.

    Args:
        masks: bool ``[N, H, W]``, or numbers ``[H, W]`` in pixels of the file.
        geometry: brings masks to the size of the image's file; None leaves theirs.
    """
    if geometry is not None:
        pixels = masks.to(torch.uint8).cpu().numpy()
        masks = torch.from_numpy(masks_to_original(pixels, geometry))
    size = list(masks.shape[-2:])
    return [{"size": size, "counts": code.decode("ascii")} for code in encode(masks)]


def decoded(codes: Sequence[dict[str, Any]]) -> NDArray[np.uint8]:
    """Masks ``[N, H, W]`` of what :func:`rles` made, of one image."""
    bytes_ = [code | {"counts": code["counts"].encode("ascii")} for code in codes]
    return np.ascontiguousarray(coco_mask.decode(bytes_).transpose(2, 0, 1))


def numbered(masks: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Masks ``[N, H, W]`` as numbers ``[H, W]``: from 1, the first on top; 0 outside."""
    numbers = 1 + np.arange(len(masks)) % COLOURS
    first = masks.argmax(0)
    return np.where(masks.any(0), numbers[first], 0)
