"""What the first bytes of an image file say, without decoding it.

JPEG (ITU-T T.81, Exif 2.32), PNG (W3C, third edition), BMP, WebP (RFC 9649), PPM/PGM/PBM (Netpbm)
and TIFF 6.0 with BigTIFF.
"""

import struct
from typing import NamedTuple

from lit_imgproc.data.errors import DataError

JPEG = b"\xff\xd8\xff"
PNG = b"\x89PNG\r\n\x1a\n"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
GIF = (b"GIF87a", b"GIF89a")
KINDS = "JPEG, PNG, BMP, WebP, PPM, PGM or TIFF"

MAX_PIXELS = 2**28
"""Larger images are refused: 0.8 GB of RGB. A few bytes can claim to be that large."""
TAIL = 4096
"""So many bytes at the end of a JPEG or PNG are looked at for its end marker first."""

CUT_SHORT = "the file is cut short; copy or download it again."
NO_HEADER = "not an image that can be decoded: the file ends within its header."
EMPTY = "the file is empty."

EOI, IEND = b"\xff\xd9", b"IEND"
START_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
START_OF_SCAN, APP1 = 0xDA, 0xE1
ORIENTATION = 274  # the tag, in Exif and TIFF alike


class Header(NamedTuple):
    """What an image file says of itself.

    Attributes:
        kind: ``JPEG``, ``PNG``, ``BMP``, ``WebP``, ``PNM`` or ``TIFF``.
        height: Of the pixels as they are stored.
        width: Of the pixels as they are stored.
        bits: Of a sample.
        orientation: Exif's, 1 to 8; from 5 on, height and width of the upright image are exchanged.
        body: For JPEG, where the first scan starts; for the others, so many bytes the file must
            have at least, or 0 where the header does not say.
    """

    kind: str
    height: int
    width: int
    bits: int = 8
    orientation: int = 1
    body: int = 0

    @property
    def upright(self) -> tuple[int, int]:
        """Height and width after the orientation has been applied."""
        return (self.width, self.height) if self.orientation > 4 else (self.height, self.width)


class Incomplete(Exception):
    """The header goes on after the given bytes."""


def read_header(data: bytes) -> Header:
    """Read a header from the beginning of a file, or from all of it.

    Raises:
        Incomplete: More of the file is needed; if that was all, it is cut short.
        DataError: Why this image is not one to decode, as the rest of a sentence.
    """
    try:
        header = _parse(data)
    except DataError:
        raise
    except (IndexError, ValueError, struct.error) as error:
        raise Incomplete from error
    if header.bits > 8:
        raise DataError(
            f"has {header.bits} bits a channel where 8 bits a channel are needed; convert it first."
        )
    if not header.height or not header.width:
        raise DataError(f"its header says {header.width}x{header.height} pixels; it is damaged.")
    if header.height * header.width > MAX_PIXELS:
        raise DataError(
            f"its header says {header.width}x{header.height} pixels, more than the limit of "
            f"{MAX_PIXELS:,}; cut it into tiles, or leave it out."
        )
    return header


def is_cut_short(header: Header, size: int, tail: bytes) -> bool:
    """Whether the end of a file is missing, as far as that can be seen without decoding it.

    Args:
        header: Of the file.
        size: Of the file, in bytes.
        tail: The last bytes of the file, :data:`TAIL` or more. What other programs have put after
            the end of a JPEG or PNG may be longer: all of the file then.
    """
    if header.kind == "JPEG":  # an embedded thumbnail ends before the image's own first scan
        return size - len(tail) + tail.rfind(EOI) < header.body or EOI not in tail
    if header.kind == "PNG":
        return IEND not in tail
    return size < header.body


def _parse(data: bytes) -> Header:
    if data.startswith(JPEG):
        return _jpeg(data)
    if data.startswith(PNG):
        return _png(data)
    if data.startswith(b"BM"):
        return _bmp(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    if data[:4] in TIFF:
        return _tiff(data)
    if data[:1] == b"P" and data[1:2] in b"123456" and data[2:3].isspace():
        return _netpbm(data)
    if data[:6] in GIF:
        raise DataError(f"a GIF, which is not read here; convert it to {KINDS}.")
    raise DataError(f"not an image that can be decoded: its content is no {KINDS}.")


def _jpeg(data: bytes) -> Header:
    """Walk over the segments up to the first scan: the frame and Exif come before it."""
    position, orientation, frame = 2, 1, b""
    while True:
        while data[position + 1] == 0xFF:  # fill bytes
            position += 1
        marker = data[position + 1]
        length = data[position + 2] << 8 | data[position + 3]
        if data[position] != 0xFF or length < 2:
            raise DataError("its header is damaged; copy or download it again.")
        if marker == START_OF_SCAN:
            break
        if marker in START_OF_FRAME:
            frame = data[position + 4 : position + 9]
        elif marker == APP1 and data[position + 4 : position + 10] == b"Exif\0\0":
            orientation = _exif_orientation(data[position + 10 : position + 2 + length])
        position += 2 + length
    if len(frame) < 5:
        raise DataError("its header is damaged; copy or download it again.")
    bits, height, width = struct.unpack(">BHH", frame)
    return Header("JPEG", height, width, bits, orientation, position)


def _exif_orientation(exif: bytes) -> int:
    """Of a block in TIFF's format; 1, as stored, where it says nothing or is damaged."""
    try:
        found = _first_directory(exif).get(ORIENTATION, [1])
    except (IndexError, struct.error, DataError):
        return 1
    return found[0] if len(found) == 1 and 1 <= found[0] <= 8 else 1


def _png(data: bytes) -> Header:
    width, height, bits = struct.unpack_from(">IIB", data, 16)
    if data[12:16] != b"IHDR":
        raise DataError("its header is damaged; copy or download it again.")
    position, orientation = 8, 1
    while (name := data[position + 4 : position + 8]) not in (b"IDAT", IEND):
        (length,) = struct.unpack_from(">I", data, position)
        if name == b"eXIf":
            _ = data[position + 8 + length]
            orientation = _exif_orientation(data[position + 8 : position + 8 + length])
        position += 12 + length
    return Header("PNG", height, width, bits, orientation)


def _bmp(data: bytes) -> Header:
    start, size = struct.unpack_from("<II", data, 10)
    if size == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        packing = 0
    else:
        width, height, _, bits, packing = struct.unpack_from("<iiHHI", data, 18)
    height = abs(height)  # negative where the rows go from top to bottom
    row = (width * bits + 31) // 32 * 4
    return Header("BMP", height, width, body=0 if packing in (1, 2) else start + row * height)


def _webp(data: bytes) -> Header:
    (size,) = struct.unpack_from("<I", data, 4)
    orientation, name = 1, data[12:16]
    if name == b"VP8X":
        flags = data[20]
        width, height = (int.from_bytes(data[i : i + 3], "little") + 1 for i in (24, 27))
        if flags & 8:
            orientation = _exif_orientation(_webp_exif(data, 8 + size))
    elif name == b"VP8L":
        (packed,) = struct.unpack_from("<I", data, 21)
        width, height = (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    elif name == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise DataError("its header is damaged; copy or download it again.")
    return Header("WebP", height, width, orientation=orientation, body=8 + size)


def _webp_exif(data: bytes, end: int) -> bytes:
    """The chunk of Exif, which comes after the pixels."""
    position = 12
    while position < end:
        name, length = struct.unpack_from("<4sI", data, position)
        if name == b"EXIF":
            return data[position + 8 : position + 8 + length].removeprefix(b"Exif\0\0")
        position += 8 + length + length % 2
    return b""


def _netpbm(data: bytes) -> Header:
    kind = int(data[1:2])
    count = 2 if kind in (1, 4) else 3  # a bitmap has no largest value
    numbers: list[int] = []
    position = 2
    while len(numbers) < count:
        while data[position : position + 1].isspace() or data[position] == ord("#"):
            position = data.index(b"\n", position) if data[position] == ord("#") else position + 1
        first = position
        while chr(data[position]).isdigit():
            position += 1
        if first == position:
            raise DataError("its header is damaged; copy or download it again.")
        numbers.append(int(data[first:position]))
    width, height, largest = [*numbers, 1][:3]
    row = {4: (width + 7) // 8, 5: width, 6: 3 * width}.get(kind, 0)
    body = position + 1 + row * height if row else 0
    return Header("PNM", height, width, 8 if largest < 256 else 16, body=body)


def _tiff(data: bytes) -> Header:
    tags = _first_directory(data)
    if not all(len(tags.get(tag, ())) == 1 for tag in (256, 257)):
        raise DataError("its header is damaged; copy or download it again.")
    (width,), (height,) = tags[256], tags[257]
    # Strips, or tiles: where each begins and how long it is.
    starts = tags.get(273) or tags.get(324) or []
    lengths = tags.get(279) or tags.get(325) or []
    ends = [start + length for start, length in zip(starts, lengths, strict=False)]
    [orientation] = tags.get(ORIENTATION, [1]) or [1]
    orientation = orientation if 1 <= orientation <= 8 else 1
    return Header("TIFF", height, width, max(tags.get(258, [1])), orientation, max(ends, default=0))


def _first_directory(data: bytes) -> dict[int, list[int]]:
    """The tags of whole numbers in the first directory of a TIFF."""
    order = "<" if data[:2] == b"II" else ">"
    magic = struct.unpack_from(f"{order}H", data, 2)[0]
    if magic not in (42, 43):
        raise DataError("its header is damaged; copy or download it again.")
    # BigTIFF has 8 bytes where TIFF has 2 and 4.
    count, word, inline = ("Q", "Q", 8) if magic == 43 else ("H", "I", 4)
    (start,) = struct.unpack_from(order + word, data, 8 if magic == 43 else 4)
    (entries,) = struct.unpack_from(order + count, data, start)
    entry = struct.Struct(f"{order}HH{word}")
    position, found = start + struct.calcsize(order + count), {}
    for _ in range(entries):
        tag, kind, number = entry.unpack_from(data, position)
        form = {1: "B", 3: "H", 4: "I", 16: "Q"}.get(kind)
        if form is not None:
            values = struct.Struct(f"{order}{number}{form}")
            where = position + entry.size
            if values.size > inline:
                (where,) = struct.unpack_from(order + word, data, where)
            found[tag] = list(values.unpack_from(data, where))
        position += entry.size + inline
    return found
