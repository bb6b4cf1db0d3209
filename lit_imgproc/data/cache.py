"""Prepared copies of a data set's images, so that training reads instead of decoding.

A cache holds each image as evaluation sees it before ``resize: crop`` cuts it: at most as large as
it was, its shorter side ``image_size / crop_fraction``; with ``squash`` that is the square that the
network sees. ``raw`` holds the pixels, so evaluation on
it is exact to the bit; ``jpeg`` holds a JPEG of quality 90 with 4:2:0 chroma. What an augmentation
crops at random is then a part of that smaller image: a crop of 8 % of it is scaled up where one of
the original might be scaled down.

Files of a cache are named by a digest of what is in them: the names, sizes and times of the
original files and how they were scaled. So a cache that was made of other files is not found, one
changed file costs the remaking of one part, and several data sets may share a folder.
"""

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from lit_imgproc.data.base import Progress
from lit_imgproc.data.errors import DataError
from lit_imgproc.data.form import Form, ahead
from lit_imgproc.data.names import Names
from lit_imgproc.data.pack import UNFINISHED, Pack, Part, Writer, is_sound

log = logging.getLogger(__name__)

PART_IMAGES = 1024
"""So many images of a part are enough; there are more where there would be too many parts."""
MOST_PARTS = 64
"""Each is an open file in every process that reads a cache."""
RUN = "run `lit-imgproc data prepare` with this recipe"


@dataclass(frozen=True)
class Slot:
    """What one part of a cache is to hold: files by their numbers, in the file of that name."""

    name: str
    files: NDArray[np.intp]


class Cache:
    """The prepared copies of some files.

    Args:
        root: The folder that ``names`` are relative to.
        names: The files, each once.
        form: What is kept of an image.
        folders: Where the cache may lie: it is looked for in all, and made in the first that can
            be written to.
    """

    def __init__(
        self, root: Path, names: Sequence[str], form: Form, folders: Sequence[Path]
    ) -> None:
        self.root, self.names, self.form = root, Names(names), form
        self.folders = [folder / form.name for folder in folders]

    @cached_property
    def slots(self) -> list[Slot]:
        """The parts. To which a file belongs goes by its name, so that others hardly matter."""
        count = 1
        while count < MOST_PARTS and count * PART_IMAGES < len(self.names):
            count *= 2
        digests = [hashlib.sha256(f"{self.form.name} {count}".encode()) for _ in range(count)]
        slot_of = np.empty(len(self.names), np.intp)
        for number, (name, state) in enumerate(zip(self.names, self._states(), strict=True)):
            encoded = os.fsencode(name)
            slot = hashlib.blake2b(encoded, digest_size=1).digest()[0] % count
            slot_of[number] = slot
            digests[slot].update(b"\0%s\0%s" % (encoded, state))
        return [
            Slot(f"{slot:02}-{digest.hexdigest()[:32]}.part", np.flatnonzero(slot_of == slot))
            for slot, digest in enumerate(digests)
        ]

    def open(self) -> Pack:
        """Map the cache, its images in the order of the names.

        Raises:
            DataError: It was not made, or of other files, or for another form, or is damaged.
        """
        if (folder := self._whole()) is None:
            begun = any(folder.is_dir() for folder in self.folders)
            raise DataError(
                f"{self.root}: the {self.form.kind} cache of these images "
                f"({' or '.join(map(str, self.folders))}) "
                f"{'was not finished, or is of other files' if begun else 'is not there'}: {RUN}."
            )
        try:
            parts = [Part.open(folder / slot.name) for slot in self.slots]
        except DataError as error:
            raise DataError(f"{str(error).rstrip('.')}: {RUN}.") from None
        part, row = np.empty((2, len(self.names)), np.int64)
        for number, slot in enumerate(self.slots):
            part[slot.files], row[slot.files] = number, np.arange(len(slot.files))
        return Pack(parts, part, row)

    def prepare(self, progress: Progress) -> Path:
        """Make what is not there or damaged and keep the rest, while other processes wait.

        Args:
            progress: Shows how far it is.

        Returns:
            The folder that the cache lies in.

        Raises:
            DataError: It cannot be written.
        """
        folder = self._whole() or self._writable()
        try:
            with self._alone(folder):
                for unfinished in folder.glob(f"*{UNFINISHED}"):  # of a process that was killed
                    unfinished.unlink()
                missing = self._missing(folder, progress)
                count = sum(len(slot.files) for slot in missing)
                for _ in progress(self._make(folder, missing), self.form.kind, count):
                    pass
        except OSError as error:
            raise DataError(f"{folder}: cannot be written ({error.strerror}).") from error
        return folder

    def verify(self, progress: Progress) -> list[str]:
        """Read all of the cache; a sentence for each part that is not what was written."""
        folder = self._whole()
        if folder is None:
            return [
                f"{self.root}: there is no whole {self.form.kind} cache of these images: {RUN}."
            ]
        damaged = (slot for slot, sound in self._checked(folder, self.slots, progress) if not sound)
        return [f"{folder / slot.name}: this part is damaged: {RUN}." for slot in damaged]

    def _whole(self) -> Path | None:
        """The first folder that holds all parts."""
        for folder in self.folders:
            if all((folder / slot.name).is_file() for slot in self.slots):
                return folder
        return None

    def _writable(self) -> Path:
        """The first folder that can be written to, made if need be."""
        for folder in self.folders:
            try:
                for made in (folder.parent, folder):
                    if not made.is_dir():
                        made.mkdir(parents=True, exist_ok=True)
                        made.chmod(self._mode | 0o750)
            except OSError:
                continue
            if os.access(folder, os.W_OK):
                return folder
        raise DataError(
            f"{' and '.join(map(str, self.folders))}: cannot be written to; "
            "set data.cache_dir to a folder that can."
        )

    @cached_property
    def _mode(self) -> int:
        """Who may read the images may read their copies, and so may the group."""
        return self.root.stat().st_mode & 0o777

    @contextmanager
    def _alone(self, folder: Path) -> Iterator[None]:
        lock = FileLock(folder / ".lock", mode=self._mode & 0o666 | 0o640)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.warning("another process is preparing %s: waiting for it", folder)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _missing(self, folder: Path, progress: Progress) -> list[Slot]:
        """The parts that are not there, and those that are not what was written."""
        there = [slot for slot in self.slots if (folder / slot.name).is_file()]
        sound = {slot.name: sound for slot, sound in self._checked(folder, there, progress)}
        for name in (name for name, sound in sound.items() if not sound):
            log.warning("%s: this part is damaged and is made again", folder / name)
        return [slot for slot in self.slots if not sound.get(slot.name, False)]

    def _checked(
        self, folder: Path, slots: Sequence[Slot], progress: Progress
    ) -> Iterator[tuple[Slot, bool]]:
        found = ahead(lambda slot: is_sound(folder / slot.name), slots)
        yield from progress(zip(slots, found, strict=True), "checking", len(slots))

    def _make(self, folder: Path, slots: Sequence[Slot]) -> Iterator[None]:
        """Make parts, with a step for each image."""
        for slot in slots:
            names = [self.names[number] for number in slot.files]
            with Writer(folder / slot.name, self._mode & 0o666 | 0o640) as part:
                for image in ahead(lambda name: self.form.pack(self.root, name), names):
                    part.add(image)
                    yield

    def _states(self) -> Iterator[bytes]:
        """What changes when a file does: its size and the time it was last written."""

        def look(first: int) -> list[bytes]:
            return [self._state(name) for name in self.names[first : first + PART_IMAGES]]

        for some in ahead(look, range(0, len(self.names), PART_IMAGES)):
            yield from some

    def _state(self, name: str) -> bytes:
        try:
            found = os.stat(os.path.join(self.root, name))
        except OSError as error:
            return b"%d" % (error.errno or 0)
        return b"%d %d" % (found.st_size, found.st_mtime_ns)
