"""Segmentations of objects as COCO writes them, polygons and run lengths, in one buffer."""

from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple, Self

import cv2
import numpy as np
from faster_coco_eval.core import mask as api
from numpy.typing import NDArray

from lit_imgproc.data.errors import DataError

Size = tuple[int, int]
"""Height and width, in pixels."""

Shape = bytes | list[bytes]
"""Run lengths as COCO compresses them, or polygons, each float64 x and y in turns."""

Mask = NDArray[np.uint8]


class Patch(NamedTuple):
    """Where an object is: 1 within ``mask``, and nowhere outside of these rows and columns."""

    rows: slice
    columns: slice
    mask: Mask


class Shapes:
    """The segmentations of many objects, each decoded when it is asked for.

    Args:
        data: uint8, the bytes of all parts.
        ends: int64 ``[P+1]``, where each part ends, after a zero.
        first: int64 ``[N+1]``, the first part of each object, and the number of parts.
        coded: bool ``[N]``, whether an object is run lengths (one part) or polygons.
    """

    def __init__(
        self,
        data: NDArray[np.uint8],
        ends: NDArray[np.int64],
        first: NDArray[np.int64],
        coded: NDArray[np.bool_],
    ) -> None:
        self.data, self.ends, self.first, self.coded = data, ends, first, coded

    @classmethod
    def pack(cls, shapes: Sequence[Shape]) -> Self:
        """Put shapes into one buffer."""
        parts = [[shape] if isinstance(shape, bytes) else shape for shape in shapes]
        flat = list(chain.from_iterable(parts))
        return cls(
            np.frombuffer(b"".join(flat), np.uint8),
            np.cumsum([0, *map(len, flat)], dtype=np.int64),
            np.cumsum([0, *map(len, parts)], dtype=np.int64),
            np.array([isinstance(shape, bytes) for shape in shapes], np.bool_),
        )

    def __len__(self) -> int:
        return len(self.coded)

    def __getitem__(self, number: int) -> Shape:
        parts = range(self.first[number], self.first[number + 1])
        found = [self.data[self.ends[part] : self.ends[part + 1]].tobytes() for part in parts]
        return found[0] if self.coded[number] else found

    def select(self, numbers: NDArray[np.intp]) -> Self:
        """Some of the objects, in this order."""
        return self.pack([self[number] for number in numbers.tolist()])

    def patch(self, number: int, stored: Size, size: Size) -> Patch:
        """One object in an image that was scaled.

        Polygons are scaled before they are filled, which at the stored size is what
        ``pycocotools`` does, bit for bit; run lengths are filled and then scaled.

        Args:
            number: Of the object.
            stored: Size of the image that it was annotated in.
            size: Size of the scaled image.
        """
        shape = self[number]
        if isinstance(shape, bytes):
            patch = _fill(run_lengths(shape, stored), stored)
            return patch if size == stored else _scaled(patch, stored, size)
        scale = [size[1] / stored[1], size[0] / stored[0]]
        corners = [np.frombuffer(part).reshape(-1, 2) for part in shape]
        if size != stored:
            corners = [part * scale for part in corners]
        found = api.frPyObjects([part.ravel().tolist() for part in corners], *size)
        runs = found[0] if len(found) == 1 else api.merge(found)
        return _fill(run_lengths(runs["counts"], size), size)


def run_lengths(code: bytes, size: Size) -> NDArray[np.int64]:
    """The lengths of the runs of zeros and ones, in turns, column by column.

    COCO writes a number as digits of five bits, the least first, 48 added and 32 where another
    digit follows; from the fourth number on it is the difference to the one before the last.

    Raises:
        DataError: It is no such code, or not of this many pixels; the rest of a sentence.
    """
    digits = np.frombuffer(code, np.uint8).astype(np.int64) - 48
    if not len(digits) or digits.min() < 0 or digits.max() > 63 or digits[-1] & 32:
        raise DataError("its run lengths are damaged.")
    ends = np.flatnonzero(digits & 32 == 0) + 1
    starts = np.concatenate([[0], ends[:-1]])
    if (ends - starts).max() > 7:
        raise DataError("its run lengths are damaged.")
    place = 5 * (np.arange(len(digits)) - np.repeat(starts, ends - starts))
    values = np.add.reduceat((digits & 31) << place, starts)
    runs: NDArray[np.int64] = values - ((digits[ends - 1] & 16) << 1 << place[ends - 1])
    for first in (1, 2):
        runs[first::2] = np.cumsum(runs[first::2])
    if runs.min() < 0 or runs.sum() != size[0] * size[1]:
        raise DataError(f"its run lengths are not of {size[0]}x{size[1]} pixels.")
    return runs


def encode_runs(counts: Sequence[int], size: Size) -> bytes:
    """Compress run lengths as COCO does.

    Raises:
        DataError: They are not of this many pixels; the rest of a sentence.
    """
    sound = all(type(count) is int and count >= 0 for count in counts)
    if not sound or sum(counts) != size[0] * size[1]:
        raise DataError(f"its run lengths are not of {size[0]}x{size[1]} pixels.")
    code: bytes = api.frPyObjects({"size": list(size), "counts": list(counts)}, *size)["counts"]
    return code


def read_shape(given: Any, size: Size) -> tuple[Shape, int]:
    """A ``segmentation`` of COCO's JSON: polygons, or run lengths, compressed or not.

    Returns:
        The shape, and how many polygons of less than three points were left out of it.

    Raises:
        DataError: It is none; the rest of a sentence.
    """
    if isinstance(given, dict):
        counts = given.get("counts")
        if given.get("size") != list(size):
            raise DataError(f"its run lengths are of {given.get('size')}, the image {list(size)}.")
        if isinstance(counts, list):
            return encode_runs(counts, size), 0
        code = counts.encode("ascii", "replace") if isinstance(counts, str) else b""
        run_lengths(code, size)
        return code, 0
    if not isinstance(given, list):
        raise DataError("its segmentation is neither polygons nor run lengths.")
    try:
        polygons = [np.asarray(polygon, np.float64) for polygon in given]
    except (TypeError, ValueError):
        raise DataError("its polygons are not lists of numbers.") from None
    if any(part.ndim != 1 or len(part) % 2 or not np.isfinite(part).all() for part in polygons):
        raise DataError("its polygons are not lists of x and y in turns.")
    sound = [part.tobytes() for part in polygons if len(part) >= 6]
    return sound, len(polygons) - len(sound)


def _fill(runs: NDArray[np.int64], size: Size) -> Patch:
    """Only the columns that have anything of it are filled: most objects are small."""
    height = size[0]
    edges = np.cumsum(runs)
    starts, stops = edges[:-1:2], edges[1::2]
    if not len(stops) or stops[-1] == starts[0]:
        return Patch(slice(0), slice(0), np.zeros((0, 0), np.uint8))
    first, last = int(starts[0]) // height, (int(stops[-1]) - 1) // height + 1
    flat = np.zeros((last - first) * height, np.uint8)
    bounds = np.stack([starts[: len(stops)], stops], 1) - first * height
    for start, stop in bounds.tolist():
        flat[start:stop] = 1
    columns = flat.reshape(last - first, height)
    rows = np.flatnonzero(columns.any(0))
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    return Patch(slice(top, bottom), slice(first, last), columns[:, top:bottom].T)


def _scaled(patch: Patch, stored: Size, size: Size) -> Patch:
    whole = np.zeros(stored, np.uint8)
    whole[patch.rows, patch.columns] = patch.mask
    scaled = cv2.resize(whole, size[::-1], interpolation=cv2.INTER_NEAREST)
    return Patch(slice(0, size[0]), slice(0, size[1]), np.asarray(scaled, np.uint8))
