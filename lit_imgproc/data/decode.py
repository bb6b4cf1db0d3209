"""From the bytes of a file to 8-bit pixels, or one sentence why not."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from lit_imgproc.data.errors import DataError

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
)

JPEG = b"\xff\xd8\xff"
PNG = b"\x89PNG\r\n\x1a\n"


def read_image(path: str | Path, channels: int) -> NDArray[np.uint8]:
    """Decode one image file.

    The EXIF orientation is applied, palettes are expanded, an alpha channel is dropped as PIL's
    ``convert("RGB")`` does, and of a file with several pages the first is taken.

    Args:
        path: The file.
        channels: 3 for RGB, 1 for grey.

    Returns:
        uint8 ``[H,W,channels]``.

    Raises:
        DataError: The file is missing, cut short or no image, or it has more than 8 bits a channel.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    if _is_cut_short(data):
        raise DataError(f"{path}: the file is cut short; copy or download it again.")
    mode = cv2.IMREAD_COLOR_RGB if channels == 3 else cv2.IMREAD_GRAYSCALE
    # With ANYDEPTH a deep image keeps its type and can be told from an 8-bit one: OpenCV would
    # otherwise keep the high byte only, which turns 12-bit images nearly black.
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), mode | cv2.IMREAD_ANYDEPTH)
    except cv2.error:  # raised for an empty buffer and for sizes beyond OpenCV's limit
        image = None
    if image is None:
        raise DataError(f"{path}: not an image that can be decoded.")
    if image.dtype != np.uint8:
        raise DataError(
            f"{path}: has {image.dtype} pixels where 8 bits a channel are needed; convert it first."
        )
    pixels: NDArray[np.uint8] = np.asarray(image, np.uint8).reshape(*image.shape[:2], channels)
    return pixels


def _is_cut_short(data: bytes) -> bool:
    """Whether the end of a JPEG or PNG is missing, which OpenCV would fill with grey in silence."""
    if data.startswith(JPEG):
        # An embedded thumbnail ends before the image's own last scan starts.
        return data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")
    return data.startswith(PNG) and b"IEND" not in data[-4096:]
