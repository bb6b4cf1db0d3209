"""Single images as they are to be shown to a network."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from lit_imgproc.data.errors import DataError
from lit_imgproc.data.medical.dicom import is_dicom, load, scan_of
from lit_imgproc.data.medical.read import read_scan
from lit_imgproc.data.medical.scan import Array
from lit_imgproc.data.medical.voi import Voi, Window, voi_of

Show = Window | Literal["file"] | None
"""A window as center and width in native values; that of the file; or native values."""


def read_shown(path: Path, channels: int, show: Show, frame: int | None = None) -> Array:
    """Read one image as it is to be shown: windowed or in native values, bright where dense.

    Args:
        path: A DICOM, PNG, TIFF, JPEG or NIfTI file.
        channels: 1 or 3. Grey becomes RGB and RGB grey where needed.
        show: A window, that of the file (its VOI lookup table, or its window), or native values.
        frame: Of a file of several.

    Returns:
        ``[H,W,channels]``: uint8 of 8-bit images in native values, else float32, in [0, 1] where it
        is windowed. MONOCHROME1 is inverted.

    Raises:
        DataError: The file cannot be read, or not like this.
    """
    dataset = load(path) if is_dicom(path) else None
    scan = read_scan(path) if dataset is None else scan_of(dataset, path)
    count = scan.stored.shape[1]
    if (frame is None and count > 1) or (frame or 0) >= count:
        which = "give the column `frame`" if frame is None else f"and no number {frame}"
        raise DataError(f"{path}: has {count} frames, {which}.")
    voi = Voi("LINEAR_EXACT", *show) if isinstance(show, tuple) else None
    if show == "file" and dataset is not None:
        voi = voi_of(dataset, scan.meta["order"][frame or 0])
    values = replace(scan, stored=scan.stored[:, frame or 0]).values
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise DataError(f"{path}: some of its values are NaN or infinite.")
    if scan.meta.get("palette") and values.dtype == np.uint16:
        values = (values >> 8).astype(np.uint8)  # palettes hold 8 bits in the upper half
    if show is not None:
        if voi is None or len(values) > 1:
            why = "is in colour" if len(values) > 1 else "does not say its window"
            raise DataError(f"{path}: {why}; data.window does not apply to it.")
        values = voi(values)
        values = 1 - values if scan.mirror is not None else values
    elif scan.mirror is not None:
        values = np.float32(scan.mirror) - values.astype(np.float32)
    if values.dtype != np.uint8:
        values = values.astype(np.float32, copy=False)
    return _to_channels(values.transpose(1, 2, 0), channels)


def _to_channels(image: Array, channels: int) -> Array:
    image = np.ascontiguousarray(image)
    if image.shape[2] == channels:
        return image
    if channels == 3:
        return np.repeat(image[:, :, :1], 3, axis=2)
    return np.asarray(cv2.cvtColor(image[:, :, :3], cv2.COLOR_RGB2GRAY))[:, :, np.newaxis]
