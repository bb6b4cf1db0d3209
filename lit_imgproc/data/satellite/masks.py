"""Mask rasters: the class of each pixel."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lit_imgproc.data.errors import DataError
from lit_imgproc.data.satellite.coordinates import boxes_to_corners, corners_to_boxes
from lit_imgproc.data.satellite.handles import handle
from lit_imgproc.data.satellite.raster import Raster, read_stored
from lit_imgproc.data.satellite.tiling import Window
from lit_imgproc.data.transforms import IGNORE


class Mask(NamedTuple):
    """A mask file, and what its values mean.

    Attributes:
        path: The file.
        codes: int16 ``[V]``: the class of each value from 0, 255 to ignore it, -1 unknown.
        nodata: The value that the file calls none.
    """

    path: str
    codes: NDArray[np.int16]
    nodata: float | None

    def read(self, window: Window) -> NDArray[np.int64]:
        """The classes in a window that lies on the raster, ``[H,W]``.

        Raises:
            DataError: The file is damaged, or has values that are of no class.
        """
        stored = read_stored(self.path, [1], window)[:, :, 0]
        if stored.dtype == np.uint8:
            classes = self.codes[stored]
        else:
            known = (stored >= 0) & (stored < len(self.codes))
            classes = np.where(known, self.codes[np.where(known, stored, 0)], np.int16(-1))
        if self.nodata is not None:
            classes[stored == self.nodata] = IGNORE
        if (classes < 0).any():
            raise DataError(
                f"{self.path}: has the values {np.unique(stored[classes < 0])[:9].tolist()}, "
                "which are of no class (data.class_names, data.ignore_index)."
            )
        return classes.astype(np.int64)


def encode(names: list[str], ignore: int | None) -> tuple[list[str], NDArray[np.int16]]:
    """The names of the classes that count, and the class of each value of a mask of 8 bits.

    The value to ignore may be among the named ones; the classes after it then move up.

    Raises:
        DataError: There are none, or too many.
    """
    kept = [value for value in range(len(names)) if value != ignore]
    if not kept or len(kept) > IGNORE:
        raise DataError(f"data.class_names: {len(kept)} classes; 1 to {IGNORE} are possible.")
    codes = np.full(max(256, len(names)), -1, np.int16)
    codes[kept] = np.arange(len(kept))
    if len(names) <= IGNORE:
        codes[IGNORE] = IGNORE
    if ignore is not None:
        codes[ignore] = IGNORE
    return [names[value] for value in kept], codes


def read_classes_file(path: Path, ignore: int | None) -> tuple[list[str], int | None]:
    """``classes`` and ``ignore_index`` of a JSON file.

    Raises:
        DataError: It is missing or says nothing of the kind.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        names = [str(name) for name in found["classes"]]
        return names, found.get("ignore_index") if ignore is None else ignore
    except OSError as error:
        raise DataError(f"{path}: there is none; give data.class_names instead.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: has no list of `classes`.") from error


def open_mask(path: Path, raster: Raster, codes: NDArray[np.int16]) -> Mask:
    """A mask that lies where its raster does, or a ``DataError``."""
    file = handle(path)
    kind = np.dtype(file.dtypes[0]).kind
    if file.count != 1 or kind not in "iu":
        raise DataError(
            f"{path}: has {file.count} bands of {file.dtypes[0]}; a mask has one of integers."
        )
    if file.shape != (raster.height, raster.width):
        raise DataError(
            f"{path}: is {file.height}x{file.width}, and its image {raster.height}x{raster.width}."
        )
    if file.crs and raster.crs and file.crs.to_string() != raster.crs:
        raise DataError(f"{path}: has another CRS than its image.")
    if file.crs and raster.crs and not _same_place(file, raster):
        raise DataError(f"{path}: lies elsewhere than its image (another transform).")
    return Mask(str(path), codes, file.nodata)


def _same_place(mask: Any, raster: Raster) -> bool:
    """Whether the corners of both lie within a tenth of a pixel."""
    whole = np.asarray([[0, 0, raster.width, raster.height]], np.float64)
    there = corners_to_boxes(boxes_to_corners(whole, raster.transform), mask.transform)
    return np.allclose(there, whole, rtol=0, atol=0.1)
