"""NIfTI-1 and NIfTI-2 files, read and written by nibabel."""

import gzip
import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from lit_imgproc.data.errors import DataError
from lit_imgproc.data.medical.scan import MAX_VALUES, Affine, Array, Header, Scan
from lit_imgproc.extras import require

NIFTI_SUFFIXES = (".nii", ".nii.gz")

DAMAGED = (OSError, EOFError, ValueError, KeyError, TypeError, OverflowError, zlib.error)
"""What nibabel and the libraries below it raise over a damaged file, among others of their own."""


def is_nifti(path: str | Path) -> bool:
    """Whether a file's name is one of a NIfTI file."""
    return str(path).lower().endswith(NIFTI_SUFFIXES)


def read_nifti_header(path: str | Path) -> Header:
    """Read shape and affine alone.

    Raises:
        DataError: The file is missing or its header damaged.
    """
    image = _open(path)
    return Header(_shape(image, path), _affine(image, path))


def read_nifti(path: str | Path) -> Scan:
    """Read a NIfTI file.

    Time or modalities, the fourth axis of the file, become channels, as do the fifth of a vector
    image and the parts of an RGB value. A packed file is unpacked into memory and its checksum
    compared; of any other the values are a view, read from the disk when they are used.

    Raises:
        DataError: The file is missing, damaged or cut short, or of complex values.
    """
    image = _open(path)
    shape, affine = _shape(image, path), _affine(image, path)
    try:
        proxy = _unpacked(path, image).dataobj if _is_packed(path) else image.dataobj
        stored = proxy.get_unscaled()
    except DAMAGED as error:
        raise DataError(f"{path}: {_why(error)}") from error
    if stored.dtype.names:  # RGB or RGBA
        stored = np.stack([stored[name] for name in stored.dtype.names[:3]], axis=-1)
    if stored.dtype.kind == "c":
        raise DataError(f"{path}: its values are complex; save their magnitude first.")
    if stored.dtype.kind == "f" and stored.dtype.itemsize > 8:
        stored = stored.astype(np.float64)
    stored = _to_channels(np.asarray(stored))
    assert stored.shape == shape
    return Scan(str(path), stored, affine, float(proxy.slope), float(proxy.inter))


def write_nifti(path: str | Path, array: Array, affine: Affine, like: str | None = None) -> None:
    """Write a volume.

    Args:
        path: Ends with ``.nii`` or ``.nii.gz``.
        array: ``[D,H,W]`` or ``[C,D,H,W]``.
        affine: See :class:`~lit_imgproc.data.medical.scan.Scan`.
        like: A NIfTI file whose header is kept as far as it is not about the values.
    """
    nib = require("nibabel", "medical")
    if not is_nifti(path):
        raise DataError(f"{path}: the name of a volume must end with .nii or .nii.gz.")
    data = np.ascontiguousarray(array.transpose(tuple(reversed(range(array.ndim)))))
    if like is not None and is_nifti(like) and Path(like).is_file():
        header = nib.load(like).header.copy()
        header.set_data_dtype(data.dtype)
        header.set_slope_inter(1, 0)
        image = type(nib.load(like))(data, affine, header)
    else:
        image = nib.Nifti1Image(data, affine)
        image.header.set_xyzt_units("mm")
        image.set_sform(affine, code="scanner")
        image.set_qform(affine, code="scanner", strip_shears=True)
    nib.save(image, path)


def _open(path: str | Path) -> Any:
    """A NIfTI image of which the header alone has been read."""
    nib = require("nibabel", "medical")
    try:
        image = nib.load(path, mmap="r")
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file.") from error
    except nib.filebasedimages.ImageFileError as error:
        raise DataError(f"{path}: not a NIfTI file, or damaged or cut short.") from error
    except (*DAMAGED, nib.spatialimages.HeaderDataError) as error:
        raise DataError(f"{path}: {_why(error)}") from error
    if not isinstance(image, nib.Nifti1Pair):
        raise DataError(f"{path}: not a NIfTI file.")
    return image


def _is_packed(path: str | Path) -> bool:
    return str(path).lower().endswith(".gz")


def _unpacked(path: str | Path, image: Any) -> Any:
    """The image in memory, of a file that ends where it should.

    nibabel stops reading behind the last value, and would not see that the checksum is wrong.
    """
    values = int(np.prod(image.shape, dtype=np.int64))
    size = int(image.dataobj.offset) + values * image.get_data_dtype().itemsize
    with gzip.open(path) as file:
        data = file.read(size)
        while file.read(2**20):  # to the end, where the checksum is
            pass
    if len(data) < size:
        raise EOFError
    return type(image).from_stream(io.BytesIO(data))


def _shape(image: Any, path: str | Path) -> tuple[int, int, int, int]:
    """``[C,D,H,W]``."""
    sides = [int(side) for side in image.shape]
    parts = len(image.get_data_dtype().names[:3]) if image.get_data_dtype().names else 1
    if len(sides) == 5 and sides[3] == 1:
        del sides[3]  # a vector image has no time
    sides += [1] * (3 - len(sides))
    channels = sides.pop() if len(sides) == 4 else 1
    if len(sides) != 3 or (parts > 1 and channels > 1):
        raise DataError(f"{path}: has the shape {list(image.shape)}; 2 to 4 axes can be used.")
    shape = (channels * parts, sides[2], sides[1], sides[0])
    count = int(np.prod(shape, dtype=np.int64))
    if min(shape) < 1 or count > MAX_VALUES:
        raise DataError(f"{path}: its header says {list(image.shape)} values; it is damaged.")
    return shape


def _affine(image: Any, path: str | Path) -> Affine:
    affine = np.asarray(image.affine, np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise DataError(f"{path}: its affine is not one of a volume; its header is damaged.")
    return affine


def _to_channels(stored: Array) -> Array:
    if stored.ndim == 5:  # vectors, or RGB behind a time of one
        stored = stored[:, :, :, 0]
    stored = stored.reshape(stored.shape + (1,) * (4 - stored.ndim))
    return stored.transpose(3, 2, 1, 0)


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read ({error.strerror})."
    if isinstance(error, EOFError | zlib.error | gzip.BadGzipFile):
        return "the file is damaged or cut short; copy or download it again."
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"not a NIfTI file that can be read ({first})."
