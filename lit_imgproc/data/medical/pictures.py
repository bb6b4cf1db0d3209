"""PNG, TIFF and JPEG images of 8 or more bits."""

from pathlib import Path

import cv2
import numpy as np

from lit_imgproc.data.decode import read_image
from lit_imgproc.data.errors import DataError
from lit_imgproc.data.medical.scan import Array

PNG = b"\x89PNG\r\n\x1a\n"
PNG_BITS = 24
"""Where a PNG file says how many bits a sample has."""
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_picture(path: str | Path) -> Array:
    """Decode one image file without losing bits.

    Of a file with several pages the first is taken; an alpha channel is dropped.

    Returns:
        ``[H,W,1]`` or RGB ``[H,W,3]``, of the sample type of the file.

    Raises:
        DataError: It is missing, cut short or no image.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(32)
            deep = start[:8] == PNG and start[PNG_BITS : PNG_BITS + 1] == b"\x10"
            if deep or start[:4] in TIFF:
                return _deep(start + file.read(), path)
            colour = start[:8] == PNG and start[PNG_BITS + 1 : PNG_BITS + 2] in b"\x02\x03\x06"
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    image: Array = read_image(path, 3)
    if start[:8] != PNG and (image == image[:, :, :1]).all():
        colour = False  # a JPEG does not tell before it is decoded
    elif start[:8] != PNG:
        colour = True
    return image if colour else np.ascontiguousarray(image[:, :, :1])


def _deep(data: bytes, path: str | Path) -> Array:
    if data.startswith(PNG) and b"IEND" not in data[-4096:]:
        raise DataError(f"{path}: the file is cut short; copy or download it again.")
    try:
        image = cv2.imdecode(
            np.frombuffer(data, np.uint8), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR
        )
    except cv2.error:  # raised for sizes beyond OpenCV's limit
        image = None
    if image is None:
        raise DataError(f"{path}: not an image that can be decoded, or cut short.")
    if image.ndim == 2:
        return image[:, :, np.newaxis]
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
