"""Many images in few large files, or in memory, found by their number without a copy."""

import hashlib
import json
import mmap
import os
import struct
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from lit_imgproc.data.errors import DataError

ENTRY = np.dtype(
    [
        ("start", "<u8"),
        ("length", "<u8"),
        ("stored", "<u4", 2),
        ("original", "<u4", 2),
        ("file", "u1", 32),
    ]
)
"""Of an image: where its bytes lie, height and width as stored and of the file, its SHA-256."""

MAGIC = b"LITPART1"
TRAILER = struct.Struct("<8sQQ32s32s")
"""The end of a part: magic, images, bytes of data, SHA-256 of the index and of all before it."""

UNFINISHED = ".partial"
BLOCK = 2**20


class Packed(NamedTuple):
    """One image, ready to be stored.

    Attributes:
        data: Its bytes; none for a file that cannot be used.
        stored: Height and width of what the bytes hold.
        original: Height and width of the upright image in the file.
        file: SHA-256 of the file.
        problem: Why it cannot be used: a sentence without the path that it begins with.
    """

    data: bytes | memoryview
    stored: tuple[int, int] = (0, 0)
    original: tuple[int, int] = (0, 0)
    file: bytes = bytes(32)
    problem: str | None = None


class Part:
    """Some images, one after the other.

    Args:
        data: The bytes of all.
        entries: :data:`ENTRY` of each.
        problems: Why images cannot be used, by number.
    """

    def __init__(
        self, data: bytes | mmap.mmap, entries: NDArray[Any], problems: dict[int, str]
    ) -> None:
        self.data, self.entries, self.problems = data, entries, problems

    @classmethod
    def of(cls, images: Iterable[Packed]) -> Self:
        """Keep images in memory."""
        blocks, index = [], _Index()
        for image in images:
            index.add(image)
            blocks.append(image.data)
        return cls(b"".join(blocks), index.entries(), index.problems)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Map a part that a :class:`Writer` has written; its pixels are read when they are needed.

        Raises:
            DataError: It is not whole, or its index is damaged.
        """
        try:
            with path.open("rb") as file:
                count, length, found = _check(path, file)
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
        entries = np.frombuffer(data, ENTRY, count, length)
        problems = {int(number): text for number, text in json.loads(found).items()}
        part = cls(data, entries, problems)
        part._reopen = partial(cls.open, path)
        return part

    _reopen: Callable[[], Self] | None = None

    def __reduce__(self) -> Any:
        # A map of a file is opened again by whoever it is sent to.
        if self._reopen is not None:
            return self._reopen, ()
        return type(self), (self.data, self.entries, self.problems)


class Writer:
    """Writes a part that is there as a whole or not at all.

    Args:
        path: Where it will lie.
        mode: The permissions of the file.

    Raises:
        OSError: It cannot be written.
    """

    def __init__(self, path: Path, mode: int) -> None:
        self._path = path
        self._unfinished = path.with_suffix(UNFINISHED)
        self._file = self._unfinished.open("wb")
        os.fchmod(self._file.fileno(), mode)
        self._index, self._digest = _Index(), hashlib.sha256()

    def add(self, image: Packed) -> None:
        """Write the next image."""
        self._index.add(image)
        self._write(image.data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._file:
            if kind is None:
                self._finish()
        if kind is None:
            self._unfinished.replace(self._path)
        else:
            self._unfinished.unlink(missing_ok=True)

    def _finish(self) -> None:
        self._write(bytes(-self._file.tell() % 8))
        length, entries = self._file.tell(), self._index.entries()
        table = entries.tobytes() + json.dumps(self._index.problems).encode()
        self._write(table)
        digests = hashlib.sha256(table).digest(), self._digest.digest()
        self._file.write(TRAILER.pack(MAGIC, len(entries), length, *digests))
        self._file.flush()
        os.fsync(self._file.fileno())

    def _write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._digest.update(data)


def is_sound(path: Path) -> bool:
    """Whether every byte of a part is what was written."""
    try:
        with path.open("rb") as file:
            _check(path, file)
            file.seek(-TRAILER.size, os.SEEK_END)
            rest, digest = file.tell(), TRAILER.unpack(file.read())[-1]
            file.seek(0)
            found = hashlib.sha256()
            while rest and (block := file.read(min(rest, BLOCK))):
                found.update(block)
                rest -= len(block)
    except (OSError, DataError):
        return False
    return bool(found.digest() == digest)


def _check(path: Path, file: IO[bytes]) -> tuple[int, int, bytes]:
    """Images and bytes of data of a part whose end is whole, and its problems as JSON."""
    damaged = DataError(f"{path}: this part of the cache is damaged or cut short.")
    size = file.seek(0, os.SEEK_END)
    if size < TRAILER.size:
        raise damaged
    file.seek(size - TRAILER.size)
    magic, count, length, digest, _ = TRAILER.unpack(file.read())
    if magic != MAGIC or length + count * ENTRY.itemsize > size - TRAILER.size:
        raise damaged
    file.seek(length)
    table = file.read(size - TRAILER.size - length)
    if hashlib.sha256(table).digest() != digest:
        raise damaged
    return count, length, table[count * ENTRY.itemsize :]


class _Index:
    """The entries of the images of a part, as they come."""

    def __init__(self) -> None:
        self._rows: list[tuple[Any, ...]] = []
        self._end = 0
        self.problems: dict[int, str] = {}

    def add(self, image: Packed) -> None:
        if image.problem is not None:
            self.problems[len(self._rows)] = image.problem
        file = np.frombuffer(image.file, np.uint8)
        self._rows.append((self._end, len(image.data), image.stored, image.original, file))
        self._end += len(image.data)

    def entries(self) -> NDArray[Any]:
        return np.array(self._rows, ENTRY)


class Pack:
    """Images of several parts, by the number they have in a data set.

    Args:
        parts: What holds them.
        part: Of each image, the number of its part, ``[N]``.
        row: Of each image, its number in the part, ``[N]``.
    """

    def __init__(self, parts: Sequence[Part], part: NDArray[Any], row: NDArray[Any]) -> None:
        self.parts = parts
        self._part, self._row = part.astype(np.int16), row.astype(np.int32)

    def __len__(self) -> int:
        return len(self._part)

    def data(self, index: int) -> bytes:
        """The bytes of an image, copied."""
        entry, data = self.entry(index), self.parts[self._part[index]].data
        start = int(entry["start"])
        return bytes(data[start : start + int(entry["length"])])

    def pixels(self, index: int, channels: int) -> NDArray[np.uint8]:
        """The bytes of an image as ``[H,W,channels]``: a view, which cannot be written to."""
        entry, data = self.entry(index), self.parts[self._part[index]].data
        height, width = entry["stored"]
        return np.ndarray((height, width, channels), np.uint8, data, entry["start"])

    def entry(self, index: int) -> Any:
        """The :data:`ENTRY` of an image."""
        return self.parts[self._part[index]].entries[self._row[index]]

    def problem(self, index: int) -> str | None:
        """Why an image cannot be used; None for nearly all."""
        part: Part = self.parts[self._part[index]]
        return part.problems.get(int(self._row[index]))

    def take(self, numbers: NDArray[Any]) -> "Pack":
        """Some of the images, in that order."""
        return Pack(self.parts, self._part[numbers], self._row[numbers])
