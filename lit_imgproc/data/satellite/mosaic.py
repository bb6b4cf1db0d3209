"""Predictions for tiles, put together to a GeoTIFF in memory that does not grow with its height."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from lit_imgproc.data.errors import DataError
from lit_imgproc.data.satellite.handles import library, open_quietly
from lit_imgproc.data.satellite.raster import Raster, clip
from lit_imgproc.data.satellite.sample_types import holds, rounded
from lit_imgproc.data.satellite.tiling import Window, grid
from lit_imgproc.seams import Taper, taper_of

Values = Literal["image", "scores", "labels"]

BLOCK = 256
"""Side of the blocks of the GeoTIFF; so many rows are written at a time."""
NO_LABEL = 255


class TileRead(NamedTuple):
    """A tile to be predicted.

    Attributes:
        window: Where it lies; it reaches beyond a raster that is smaller than a tile.
        image: ``[C,H,W]``, uint8 or float32, reflected beyond the raster.
        valid: Bool ``[H,W]``, where the raster has data.
    """

    window: Window
    image: NDArray[Any]
    valid: NDArray[np.bool_]


def read_tiles(raster: Raster, tile_size: int, overlap: int) -> Iterator[TileRead]:
    """The tiles of a raster, row by row, without those that have no data at all."""
    for tile in grid(raster.whole, tile_size, overlap):
        read = raster.read(tile.window)
        valid = read.valid
        if valid.any():
            image = np.ascontiguousarray(read.image.transpose(2, 0, 1))
            yield TileRead(tile.window, image, valid)


def mosaic(
    raster: Raster | str | Path,
    predict: Callable[[NDArray[Any]], NDArray[Any]],
    path: str | Path,
    *,
    values: Values = "image",
    dtype: str | None = None,
    nodata: float | None = None,
    tile_size: int = 512,
    overlap: int = 64,
    taper: Taper = "gaussian",
    batch_size: int = 4,
) -> None:
    """Predict all of a raster tile by tile and write a GeoTIFF of its CRS, transform and size.

    Args:
        raster: What is predicted.
        predict: From images ``[B,C,tile_size,tile_size]``, as :meth:`Raster.read` gives them, to
            ``[B,K,tile_size,tile_size]``.
        path: See :class:`Mosaic`, as for ``values``, ``dtype``, ``nodata`` and ``taper``.
        values: What the predictions are.
        dtype: Of the GeoTIFF.
        nodata: Where the raster has no data.
        tile_size: Side of a tile, in pixels.
        overlap: Of neighbouring tiles, in pixels.
        taper: How much a prediction counts by where it lies in its tile.
        batch_size: Tiles that ``predict`` gets at once.

    Raises:
        DataError: The raster cannot be read or the GeoTIFF not be written.
    """
    raster = raster if isinstance(raster, Raster) else Raster(raster)
    tiles = read_tiles(raster, tile_size, overlap)
    with Mosaic(path, raster, values=values, dtype=dtype, nodata=nodata, taper=taper) as output:
        while batch := list(islice(tiles, batch_size)):
            predictions = predict(np.stack([tile.image for tile in batch]))
            for tile, prediction in zip(batch, predictions, strict=True):
                output.add(tile.window, prediction, tile.valid)


class Mosaic:
    """A GeoTIFF that is written while predictions come in, tile by tile and row by row.

    Only the rows that later tiles may still touch are in memory: of ``K`` bands and a raster of
    width ``W``, about ``(tile_size + 256) * W * (K + 1)`` numbers. The file has 256x256 blocks,
    compressed without loss, and is a BigTIFF where it needs to be. It appears under its name when
    it is whole; after an exception nothing is left of it.

    Args:
        path: The GeoTIFF.
        raster: Whose CRS, transform and size it gets.
        values: ``image`` averages ``K`` values a pixel; ``scores`` averages the scores of ``K``
            classes and writes the number of the highest, as uint8; ``labels`` are numbers of
            classes already, ``[1,H,W]``, and the one that counts most is written.
        dtype: Of an ``image``; by default that of the predictions. Integers are rounded.
        nodata: What stands where nothing was predicted. By default 255 for classes; for an image
            the raster's own value, or NaN for floats where it has none.
        taper: A prediction counts more in the middle of its tile, where the network saw what
            surrounds it, than at its edge; or ``uniform``.

    Raises:
        DataError: The file cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        raster: Raster,
        *,
        values: Values = "image",
        dtype: str | None = None,
        nodata: float | None = None,
        taper: Taper = "gaussian",
    ) -> None:
        self.path, self.raster, self.values, self.taper = Path(path), raster, values, taper
        self.dtype = None if dtype is None else np.dtype(dtype)
        self.nodata = nodata
        self._unfinished = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        self._file: Any = None
        self._row = 0  # where the last tile began
        self._top = 0  # the raster's row that the accumulators begin with
        self._weights: dict[tuple[int, int], NDArray[np.float64]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            if self._file is not None:
                with suppress(library().errors.RasterioError):
                    self._file.close()
            self._unfinished.unlink(missing_ok=True)

    def add(
        self,
        window: Window,
        prediction: NDArray[Any],
        valid: NDArray[np.bool_] | None = None,
    ) -> None:
        """Add the prediction for a tile.

        Args:
            window: Where it lies. No tile may begin above the one before it.
            prediction: ``[K,H,W]``; what lies beyond the raster is left out.
            valid: Bool ``[H,W]``, where the prediction counts; by default everywhere.

        Raises:
            DataError: The file cannot be written.
            ValueError: The tile begins above the one before it.
        """
        if window.row < self._row:
            raise ValueError(f"a tile of row {window.row} came after one of row {self._row}")
        if self._file is None:
            self._begin(window, prediction)
        self._row = window.row
        self._flush(window.row // BLOCK * BLOCK)
        inner = clip(window, self.raster.height, self.raster.width)
        self._reserve(inner.bottom - self._top)
        cut = np.s_[
            inner.row - window.row : inner.bottom - window.row,
            inner.column - window.column : inner.right - window.column,
        ]
        weight = self._weight(window.height, window.width)[cut]
        if valid is not None:
            weight = weight * valid[cut]
        rows = np.s_[inner.row - self._top : inner.bottom - self._top, inner.column : inner.right]
        part = prediction[(slice(None), *cut)]
        if self.values == "labels":
            better = weight > self._total[rows]
            self._sums[0][rows][better] = part[0][better]
            self._total[rows] = np.maximum(self._total[rows], weight)
        else:
            for band, value in zip(self._sums, part, strict=True):
                band[rows] += np.multiply(value, weight, dtype=band.dtype, casting="same_kind")
            self._total[rows] += weight

    def _begin(self, window: Window, prediction: NDArray[Any]) -> None:
        bands = len(prediction)
        if self.values == "image":
            self.dtype = prediction.dtype if self.dtype is None else self.dtype
            if self.nodata is None:
                self.nodata = self._usual_nodata(self.dtype)
        else:
            self.dtype, bands = np.dtype(np.uint8), 1
            self.nodata = NO_LABEL if self.nodata is None else self.nodata
        # What is rounded to 8 or 16 bits needs no more than 24 of precision.
        small = self.dtype.kind in "iu" and self.dtype.itemsize <= 2
        exact: Any = np.float32 if small else np.float64
        if self.values == "labels":
            exact = np.uint8
        shape = (window.height + BLOCK, self.raster.width)
        self._sums = np.zeros((len(prediction), *shape), exact)
        self._total = np.zeros(shape, np.float32 if exact is np.uint8 else exact)
        self._file = open_quietly(
            self._unfinished,
            "w",
            driver="GTiff",
            height=self.raster.height,
            width=self.raster.width,
            count=bands,
            dtype=self.dtype.name,
            crs=self.raster.crs,
            transform=self.raster.transform,
            nodata=self.nodata,
            tiled=True,
            blockxsize=BLOCK,
            blockysize=BLOCK,
            compress="deflate",
            zlevel=1,
            predictor=3 if self.dtype.kind == "f" else 2,
            bigtiff="if_safer",
        )

    def _usual_nodata(self, dtype: np.dtype[Any]) -> float | None:
        raster = self.raster
        if raster.nodata is not None and holds(dtype, raster.nodata):
            return float(raster.nodata)
        if dtype.kind == "f":
            return float("nan")
        if raster.nodata is not None or raster.masked:
            raise DataError(
                f"{raster.path}: has missing values, and {dtype} has none that stands for them: "
                "give one (nodata)."
            )
        return None

    def _weight(self, height: int, width: int) -> NDArray[np.float64]:
        if (height, width) not in self._weights:
            sides = taper_of(self.taper, height), taper_of(self.taper, width)
            self._weights[height, width] = np.outer(*sides)
        return self._weights[height, width]

    def _reserve(self, rows: int) -> None:
        """Make room, where tiles are taller than the first one."""
        more = rows - len(self._total)
        if more > 0:
            self._sums = np.pad(self._sums, ((0, 0), (0, more), (0, 0)))
            self._total = np.pad(self._total, ((0, more), (0, 0)))

    def _flush(self, end: int) -> None:
        """Write the rows above ``end`` and move what is below to the top of the accumulators."""
        while (count := min(end - self._top, len(self._total))) > 0:
            for first in range(0, count, BLOCK):
                self._write(slice(first, min(first + BLOCK, count)))
            for array in (*self._sums, self._total):
                array[: len(array) - count] = array[count:]
                array[len(array) - count :] = 0
            self._top += count

    def _write(self, rows: slice) -> None:
        assert self.dtype is not None
        sums, total = self._sums[:, rows], self._total[rows]
        empty = total == 0
        if self.nodata is None and empty.any():
            raise DataError(
                f"{self.path}: rows {self._top + rows.start} to {self._top + rows.stop} were not "
                "all predicted, and no value stands for that: give one (nodata)."
            )
        if self.values == "image":
            found = np.empty(sums.shape, self.dtype)
            divisor = np.where(empty, total.dtype.type(1), total)
            for band, one in zip(found, sums, strict=True):
                band[...] = rounded(one / divisor, self.dtype)
        elif self.values == "scores":
            found = sums.argmax(0).astype(self.dtype)[np.newaxis]
        else:
            found = sums.copy()
        if self.nodata is not None:
            found[:, empty] = self.nodata
        rasterio = library()
        part = rasterio.windows.Window(0, self._top + rows.start, found.shape[2], found.shape[1])
        with self._writing():
            self._file.write(found, window=part)

    def _finish(self) -> None:
        if self._file is None:
            raise DataError(f"{self.raster.path}: has no data at all, so nothing is predicted.")
        self._flush(self.raster.height)
        with self._writing():
            self._file.close()
        os.replace(self._unfinished, self.path)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except library().errors.RasterioError as error:
            raise DataError(f"{self.path}: cannot be written ({error}).") from error
