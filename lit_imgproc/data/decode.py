"""From the bytes of a file to 8-bit pixels, or one sentence why not."""

import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from lit_imgproc.data.errors import DataError
from lit_imgproc.data.headers import (
    CUT_SHORT,
    EMPTY,
    NO_HEADER,
    Header,
    Incomplete,
    is_cut_short,
    read_header,
)

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
)

# What libjpeg warns of although it has lost nothing. After its other warnings it guesses pixels.
HARMLESS = ("Invalid SOS parameters for sequential JPEG", "Unknown Adobe color transform code")
BAD_PROFILE, PROFILE = "Corrupt JPEG data: bad ICC marker", b"ICC_PROFILE\0"

# Exif's orientations: whether rows become columns, and then what cv2.flip is told.
UPRIGHT = {2: (0, 1), 3: (0, -1), 4: (0, 0), 5: (1, None), 6: (1, 1), 7: (1, -1), 8: (1, 0)}


class Encoded:
    """An image file that has been read but not decoded.

    What is done with an image may depend on its size, which the header tells, and may need it at a
    fraction of its size only, which takes a JPEG a fraction of the time.

    Args:
        data: All bytes of the file.
        path: Of the file, for what is said about it.
        channels: 3 for RGB, 1 for grey.

    Attributes:
        shape: Height, width and channels of the upright image.

    Raises:
        DataError: It is no image, cut short at first sight, larger than
            :data:`~lit_imgproc.data.headers.MAX_PIXELS`, or of more than 8 bits a channel.
    """

    def __init__(self, data: bytes, path: str | Path, channels: int) -> None:
        self.data = data
        self.path = path
        try:
            self.header: Header = read_header(data)
        except Incomplete:
            raise DataError(f"{path}: {NO_HEADER if data else EMPTY}") from None
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        self.shape = (*self.header.upright, channels)

    @property
    def is_jpeg(self) -> bool:
        """Whether it can be decoded at a fraction of its size."""
        return self.header.kind == "JPEG"

    def decode(self, factor: int = 1, *, smooth: bool = True) -> NDArray[np.uint8]:
        """Decode the image.

        Args:
            factor: 1, and of a JPEG also 2, 4 or 8: that many times smaller, sides being rounded
                up. Its pixels then nearly are averages of ``factor * factor`` pixels.
            smooth: Whether the colours of a JPEG, of which most have one to four pixels, are
                interpolated. Where they are repeated, decoding takes 7 % less; the root mean square
                of the difference is about one of 255 levels, below what the JPEG itself has lost.

        Returns:
            uint8 ``[H,W,channels]``, writable.

        Raises:
            DataError: It is damaged.
        """
        image = self._jpeg(factor, smooth) if self.is_jpeg else self._other()
        return image.reshape(*image.shape[:2], self.shape[2])  # OpenCV drops a single channel

    def _jpeg(self, factor: int, smooth: bool) -> NDArray[np.uint8]:
        color = "RGB" if self.shape[2] == 3 else "GRAY"
        least = (-(-self.header.height // factor), -(-self.header.width // factor))
        try:
            image = _decode_jpeg(self.data, color, False, not smooth, *least, factor)
        except ValueError as error:
            raise DataError(
                f"{self.path}: the JPEG is damaged or cut short ({str(error).rstrip('.')}); "
                "copy or download it again."
            ) from error
        if self.header.orientation == 1:
            return image
        turned, mirrored = UPRIGHT[self.header.orientation]
        upright = cv2.transpose(image) if turned else image
        upright = upright if mirrored is None else cv2.flip(upright, mirrored)
        return np.asarray(upright, np.uint8)

    def _other(self) -> NDArray[np.uint8]:
        if is_cut_short(self.header, len(self.data), self.data):
            raise DataError(f"{self.path}: {CUT_SHORT}")
        if self.header.kind == "PNG" and not is_sound_png(self.data):
            raise DataError(
                f"{self.path}: the PNG is damaged (a checksum is wrong); copy or download it again."
            )
        mode = cv2.IMREAD_COLOR_RGB if self.shape[2] == 3 else cv2.IMREAD_GRAYSCALE
        try:
            image = cv2.imdecode(np.frombuffer(self.data, np.uint8), mode)
        except cv2.error:
            image = None
        if image is None:
            raise DataError(f"{self.path}: not an image that can be decoded; it is damaged.")
        return np.asarray(image, np.uint8)


def read_image(path: str | Path, channels: int) -> NDArray[np.uint8]:
    """Decode one image file.

    The Exif orientation is applied, palettes are expanded, CMYK becomes RGB as PIL does it, an
    alpha channel is dropped as PIL's ``convert("RGB")`` does, and of a file with several pages the
    first is taken.

    Args:
        path: The file.
        channels: 3 for RGB, 1 for grey.

    Returns:
        uint8 ``[H,W,channels]``.

    Raises:
        DataError: The file is missing, cut short, damaged, no image or too large, or it has more
            than 8 bits a channel.
    """
    return read_encoded(path, channels).decode()


def read_encoded(path: str | Path, channels: int) -> Encoded:
    """Read one image file without decoding it.

    Raises:
        DataError: The file is missing, or as :class:`Encoded` says.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    return Encoded(data, path, channels)


def _decode_jpeg(data: bytes, *arguments: Any) -> NDArray[np.uint8]:
    """What ``simplejpeg.decode_jpeg`` makes of it.

    Raises:
        ValueError: Libjpeg has guessed pixels or given up.
    """
    try:
        image: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, *arguments)
    except ValueError as error:
        if str(error) == BAD_PROFILE:  # which is not used, but taken for a failure
            return _decode_jpeg(data.replace(PROFILE, PROFILE.lower()), *arguments)
        if not str(error).startswith(HARMLESS):
            raise
        image = simplejpeg.decode_jpeg(data, *arguments, strict=False)
    return image


def is_sound_png(data: bytes) -> bool:
    """Whether all chunks have their checksums: OpenCV takes a damaged row as it comes."""
    position = 8
    while position < len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        end = position + 8 + length
        found = zlib.crc32(memoryview(data)[position + 4 : end]).to_bytes(4, "big")
        if found != data[end : end + 4]:
            return False
        if data[position + 4 : position + 8] == b"IEND":
            return True
        position = end + 4
    return False
