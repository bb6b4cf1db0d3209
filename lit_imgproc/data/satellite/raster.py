"""Windows of raster files, as images for networks."""

from pathlib import Path
from sys import intern
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lit_imgproc.data.errors import DataError
from lit_imgproc.data.satellite.bands import EVERYTHING, Selection, normalized_difference
from lit_imgproc.data.satellite.handles import handle, library
from lit_imgproc.data.satellite.sample_types import as_stored, sample_type
from lit_imgproc.data.satellite.tiling import Window

Pixels = NDArray[Any]
_SHARED: dict[tuple[Any, ...], tuple[list[int], list[str], list[tuple[int, int]]]] = {}


class Read(NamedTuple):
    """What was read of a window.

    Attributes:
        image: ``[H,W,C]``, uint8 or float32, without NaN or infinity.
        missing: bool ``[H,W,C]``: values that the raster does not have; ``None`` if it has all.
    """

    image: Pixels
    missing: NDArray[np.bool_] | None

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Bool ``[H,W]``: pixels of which at least one band has a value, as GDAL sees it."""
        if self.missing is None:
            return np.ones(self.image.shape[:2], np.bool_)
        return np.asarray(~self.missing.all(axis=2))


class Raster:
    """One raster file, of which windows are read as they are asked for.

    It holds what the header says and no open file, so it can go to workers. An image is uint8 where
    the file is and no indices are asked for; of all other sample types it is float32 with the
    file's own values, in which those that are missing (nodata, a mask band or alpha, NaN,
    infinity) are 0. 8-bit values stay as they are stored, missing or not: white that a file calls
    nodata may well be white.

    Args:
        path: The file.
        selection: What to make of its bands.

    Raises:
        DataError: The file is missing, no raster, or has not the bands that are asked for.

    Attributes:
        height: In pixels.
        width: In pixels.
        dtype: Of the images: ``uint8`` or ``float32``.
        stored: The sample type of the file, such as ``uint16``.
        band_names: Of the images, spectral indices last.
        nodata: The value that stands for none, if there is one.
        crs: Such as ``EPSG:32633``, or WKT where it has no code; ``None`` if there is none.
        transform: Affine from pixels to the CRS.
        masked: Whether a mask band or alpha says where data are missing.
    """

    # A data set may have a hundred thousand of these in every worker.
    __slots__ = (
        "_kept", "_pairs", "_read_bands", "band_names", "crs", "dtype", "height", "masked",
        "nodata", "path", "stored", "transform", "width",
    )  # fmt: skip

    def __init__(self, path: str | Path, selection: Selection = EVERYTHING) -> None:
        self.path = str(path)
        file = handle(path)
        alpha = _alpha(file)
        self._read_bands, self.band_names, self._pairs = _shared(
            *selection.resolve(self.path, file.descriptions, alpha)
        )
        self._kept = len(self.band_names) - len(self._pairs)
        self.height, self.width = file.height, file.width
        types = {file.dtypes[number - 1] for number in self._read_bands}
        self.stored = intern(str(np.result_type(*map(sample_type, types))))
        self.dtype = "uint8" if self.stored == "uint8" and not self._pairs else "float32"
        self.nodata = file.nodata
        self.crs = intern(_as_text(file.crs)) if file.crs else None
        self.transform = file.transform
        flags = library().enums.MaskFlags
        self.masked = flags.per_dataset in file.mask_flag_enums[self._read_bands[0] - 1]
        if self.stored.startswith("complex") and selection.complex_values == "refuse":
            raise DataError(
                f"{path}: its values are complex; data.complex_values=magnitude takes their "
                "magnitude."
            )
        if len(self._read_bands) == 1 and _has_palette(file):
            raise DataError(
                f"{path}: its values are numbers of colours in a palette; make it RGB first "
                "(gdal_translate -expand rgb)."
            )
        if (turned := file.tags().get("EXIF_Orientation", "1")) != "1":
            raise DataError(
                f"{path}: is stored turned (EXIF orientation {turned}); turn its pixels first."
            )

    @property
    def channels(self) -> int:
        """Of the images."""
        return len(self.band_names)

    @property
    def whole(self) -> Window:
        """All of it."""
        return Window(0, 0, self.height, self.width)

    def read(self, window: Window | None = None) -> Read:
        """Read a window, by default all.

        What lies beyond the raster is reflected at its edges, and counts as missing.

        Raises:
            DataError: The file is damaged there.
        """
        window = self.whole if window is None else window
        within = clip(window, self.height, self.width)
        stored = read_stored(self.path, self._read_bands, within)
        missing = self._missing(stored, within)
        image = self._image(stored, missing)
        if missing is not None and (self._pairs or len(self._read_bands) != self._kept):
            parts = [missing[:, :, a] | missing[:, :, b] for a, b in self._pairs]
            missing = np.dstack([missing[:, :, : self._kept], *parts])
        return _pad(Read(image, missing), window, within)

    def _missing(self, stored: Pixels, window: Window) -> NDArray[np.bool_] | None:
        missing: NDArray[np.bool_] | None = None
        if stored.dtype.kind in "fc":
            missing = ~(np.abs(stored) <= np.finfo(np.float32).max)  # NaN, too, is not less
        if self.nodata is not None and not np.isnan(self.nodata):
            same = stored == as_stored(self.nodata, stored.dtype)
            missing = same if missing is None else missing | same
        if self.masked:
            mask = read_mask(self.path, window)
            hidden = np.broadcast_to((mask == 0)[:, :, np.newaxis], stored.shape)
            missing = hidden.copy() if missing is None else missing | hidden
        return missing if missing is not None and missing.any() else None

    def _image(self, stored: Pixels, missing: NDArray[np.bool_] | None) -> Pixels:
        if self.dtype == "uint8":
            return stored
        if stored.dtype.kind == "c":
            stored = np.abs(stored)
        if missing is not None:
            stored = np.where(missing, stored.dtype.type(0), stored)
        image = stored.astype(np.float32, copy=False)
        if not self._pairs:
            return image
        indices = [normalized_difference(image[:, :, a], image[:, :, b]) for a, b in self._pairs]
        result: Pixels = np.dstack([image[:, :, : self._kept], *indices])
        return result


def clip(window: Window, height: int, width: int) -> Window:
    """The part of a window that lies on a raster."""
    top, left = max(window.row, 0), max(window.column, 0)
    bottom, right = min(window.bottom, height), min(window.right, width)
    return Window(top, left, bottom - top, right - left)


def read_stored(path: str, bands: list[int], window: Window) -> Pixels:
    """The values of a window as they are stored, ``[H,W,C]``.

    Raises:
        DataError: The file is damaged there.
    """
    file = handle(path)
    dtype = np.result_type(*(sample_type(file.dtypes[number - 1]) for number in bands))
    stored = np.empty((window.height, window.width, len(bands)), dtype)
    # GDAL writes into the order that networks' images are augmented in: no copy of it is made.
    _checked(path, window, file.read, bands, out=stored.transpose(2, 0, 1))
    return stored


def read_mask(path: str, window: Window) -> NDArray[np.uint8]:
    """What a mask band or alpha says, ``[H,W]``: 0 where nothing is."""
    mask: NDArray[np.uint8] = _checked(path, window, handle(path).read_masks, 1)
    return mask


def _checked(path: str, window: Window, read: Any, *arguments: Any, **named: Any) -> Any:
    rasterio = library()
    part = rasterio.windows.Window(window.column, window.row, window.width, window.height)
    try:
        return read(*arguments, window=part, **named)
    except rasterio.errors.RasterioError as error:
        raise DataError(
            f"{path}: rows {window.row} to {window.bottom} cannot be read; the file is cut short "
            "or damaged: copy or download it again."
        ) from error


def _pad(read: Read, window: Window, within: Window) -> Read:
    if window == within:
        return read
    sides = (
        (within.row - window.row, window.bottom - within.bottom),
        (within.column - window.column, window.right - within.right),
        (0, 0),
    )
    missing = np.zeros(read.image.shape, np.bool_) if read.missing is None else read.missing
    return Read(
        np.pad(read.image, sides, mode="reflect"),
        np.pad(missing, sides, constant_values=True),
    )


def _shared(
    bands: list[int], names: list[str], pairs: list[tuple[int, int]]
) -> tuple[list[int], list[str], list[tuple[int, int]]]:
    """The same lists for all rasters of which they are the same."""
    return _SHARED.setdefault((*bands, *names, *pairs), (bands, names, pairs))


def _as_text(crs: Any) -> str:
    """What a CRS is read back from as the same one: its code, or else all of it."""
    code = str(crs.to_string())
    return code if library().crs.CRS.from_user_input(code) == crs else str(crs.to_wkt())


def _alpha(file: Any) -> int | None:
    alpha = library().enums.ColorInterp.alpha
    return next((n for n, kind in enumerate(file.colorinterp, 1) if kind == alpha), None)


def _has_palette(file: Any) -> bool:
    return bool(file.colorinterp[0] == library().enums.ColorInterp.palette)
