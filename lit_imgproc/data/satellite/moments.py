"""Mean, deviation and range of each band, in one pass over rasters of any size."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lit_imgproc.data.satellite.bands import EVERYTHING, Selection
from lit_imgproc.data.satellite.raster import Raster, Read
from lit_imgproc.data.satellite.tiling import Window
from lit_imgproc.inputs import EIGHT_BIT

SIDE = 512
"""Side of the parts that a raster is read in, in pixels."""


class Moments:
    """Count, mean, variance and range of the values seen so far, a number a band.

    Parts are joined by the update of Chan, Golub and LeVeque (1979), which loses no digits however
    many values there are and however far from zero they lie.

    Args:
        bands: How many there are.
    """

    def __init__(self, bands: int) -> None:
        self.count = np.zeros(bands, np.int64)
        self.mean = np.zeros(bands)
        self._squares = np.zeros(bands)  # summed squares of deviations from the mean
        self.low, self.high = np.full(bands, np.inf), np.full(bands, -np.inf)

    @property
    def std(self) -> NDArray[np.float64]:
        """Standard deviation of each band, 0 where there are no values."""
        deviation: NDArray[np.float64] = np.sqrt(self._squares / np.maximum(self.count, 1))
        return deviation

    def add(self, read: Read, seen: tuple[int, int] = (0, 0)) -> None:
        """Add the values that are not missing, but for the first rows and columns of the image."""
        rows, columns = seen
        image = read.image[rows:, columns:]
        part = Moments(image.shape[2])
        for band in range(image.shape[2]):
            values = image[:, :, band]
            if read.missing is not None:
                values = values[~read.missing[rows:, columns:, band]]
            if values.size:
                part._take(band, values)
        self.join(part)

    def _take(self, band: int, values: NDArray[np.generic]) -> None:
        exact = values.astype(np.float64).ravel()
        self.count[band], self.mean[band] = exact.size, exact.mean()
        self.low[band], self.high[band] = exact.min(), exact.max()
        exact -= self.mean[band]
        self._squares[band] = exact @ exact

    def join(self, other: "Moments") -> None:
        """Add all that another has seen."""
        count = np.maximum(self.count + other.count, 1)
        shift = other.mean - self.mean
        self._squares += other._squares + shift**2 * self.count * other.count / count
        self.mean = self.mean + shift * other.count / count
        self.count = self.count + other.count
        self.low = np.minimum(self.low, other.low)
        self.high = np.maximum(self.high, other.high)


def moments(path: str | Path, selection: Selection = EVERYTHING) -> Moments:
    """The statistics of all values of a raster, in memory that does not grow with it.

    Raises:
        DataError: The file cannot be read.
    """
    raster = Raster(path, selection)
    found = Moments(raster.channels)
    for row in range(0, raster.height, SIDE):
        for column in range(0, raster.width, SIDE):
            height, width = min(SIDE, raster.height - row), min(SIDE, raster.width - column)
            found.add(raster.read(Window(row, column, height, width)))
    return found


def value_range_of(dtype: str, found: Moments) -> tuple[float, float]:
    """The range of the images' values: of 8 bits what can be, of other types what there is."""
    if dtype == "uint8":
        return EIGHT_BIT
    if not found.count.any():
        return (0.0, 1.0)
    low, high = float(found.low.min()), float(found.high.max())
    # Other types, too, may hold 0 to 255; this range alone would have them taken for 8 bits.
    return (low, float(np.nextafter(high, np.inf))) if (low, high) == EIGHT_BIT else (low, high)
