"""Whether a file can be an image, from its first and last bytes: thousands of files a second."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from lit_imgproc.data.errors import DataError
from lit_imgproc.data.headers import (
    CUT_SHORT,
    EMPTY,
    NO_HEADER,
    TAIL,
    Header,
    Incomplete,
    is_cut_short,
    read_header,
)

HEADS = (4096, 2**20, 2**62)
"""So many bytes of a file are read for its header; more only where it is not all there."""

THREADS = 8
"""Reading waits for disks and shares, more than it needs CPUs."""

AT_ONCE = 256


class Probe(NamedTuple):
    """What the header of an image file says.

    Attributes:
        kind: ``JPEG``, ``PNG``, ``BMP``, ``WebP``, ``PNM`` or ``TIFF``, whatever the file's name.
        height: Of the upright image, in pixels.
        width: Of the upright image, in pixels.
    """

    kind: str
    height: int
    width: int


def probe(path: str | Path) -> Probe | str:
    """Look at the beginning and the end of an image file.

    It finds what is missing, empty, no image, cut short, of more than 8 bits a channel or too
    large to decode. Damage within the pixels only decoding finds.

    Returns:
        What the header says, or one sentence that begins with the path: why the file cannot be
        used.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            header = _read_header(file.fileno())
            if _is_cut_short(file.fileno(), header):
                return f"{path}: {CUT_SHORT}"
    except OSError as error:
        return f"{path}: cannot be read ({error.strerror})."
    except DataError as error:
        return f"{path}: {error}"
    return Probe(header.kind, *header.upright)


def problems(root: str | Path, names: Sequence[str]) -> list[str]:
    """Probe many files.

    Args:
        root: The folder that ``names`` are relative to.
        names: The files.

    Returns:
        A sentence for each file that cannot be used, in the order of ``names``.
    """

    def look(first: int) -> list[str]:
        found = (probe(os.path.join(root, name)) for name in names[first : first + AT_ONCE])
        return [one for one in found if isinstance(one, str)]

    with ThreadPoolExecutor(THREADS) as pool:
        return [one for some in pool.map(look, range(0, len(names), AT_ONCE)) for one in some]


def _read_header(file: int) -> Header:
    head = b""
    for count in HEADS:
        head += _read(file, len(head), count - len(head))
        try:
            return read_header(head)
        except Incomplete:
            if len(head) < count:  # this was all of it
                break
    raise DataError(NO_HEADER if head else EMPTY)


def _is_cut_short(file: int, header: Header) -> bool:
    size = os.fstat(file).st_size
    first = max(size - TAIL, 0)
    tail = _read(file, first, TAIL)
    if not is_cut_short(header, size, tail):
        return False
    if header.kind not in ("JPEG", "PNG") or not first:
        return True
    return is_cut_short(header, size, _read(file, 0, size))


def _read(file: int, start: int, count: int) -> bytes:
    """Some bytes of a file, fewer only at its end."""
    parts = []
    while count > 0 and (part := os.pread(file, min(count, 2**30), start)):
        parts.append(part)
        start, count = start + len(part), count - len(part)
    return b"".join(parts)
