"""Any medical file or folder as a :class:`~lit_imgproc.data.medical.scan.Scan`."""

from pathlib import Path

import numpy as np

from lit_imgproc.data.errors import DataError
from lit_imgproc.data.medical import pictures
from lit_imgproc.data.medical.dicom import is_dicom, read_dicom, read_dicom_header
from lit_imgproc.data.medical.nifti import is_nifti, read_nifti, read_nifti_header
from lit_imgproc.data.medical.scan import Header, Scan
from lit_imgproc.data.medical.series import read_series, read_series_header


def read_scan(path: str | Path) -> Scan:
    """Read a NIfTI or DICOM file, the folder of a DICOM series, or a PNG, TIFF or JPEG image.

    Raises:
        DataError: It cannot be read, in one sentence.
    """
    if is_nifti(path):
        return read_nifti(path)
    if Path(path).is_dir():
        return read_series(path)
    if is_dicom(path):
        return read_dicom(path)
    _check_there(path)
    return Scan(str(path), pictures.read_picture(path).transpose(2, 0, 1)[:, np.newaxis], np.eye(4))


def read_header(path: str | Path) -> Header:
    """Shape and affine, read from headers alone where the format has them.

    Raises:
        DataError: It cannot be read, in one sentence.
    """
    if is_nifti(path):
        return read_nifti_header(path)
    if Path(path).is_dir():
        return read_series_header(path)
    if is_dicom(path):
        return read_dicom_header(path)
    scan = read_scan(path)
    channels, depth, height, width = scan.stored.shape
    return Header((channels, depth, height, width), scan.affine)


def _check_there(path: str | Path) -> None:
    if not Path(path).is_file():
        raise DataError(f"{path}: there is no such file or folder.")
    if Path(path).suffix.lower() in (".dcm", ".dicom"):
        raise DataError(f"{path}: not a DICOM file, or cut short.")
