"""Checkpoint files that are whole or not there: written atomically, with a digest inside.

A checkpoint is what ``torch.save`` writes, a zip archive, with the digest of everything before it
as the archive's comment. So a copy can be verified wherever it lies, and every reader of such
files reads it.
"""

import hashlib
import logging
import os
import pickle
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, cast

import torch

from lit_imgproc.errors import UserError

log = logging.getLogger(__name__)

LABEL = b"sha256:"
COMMENT = len(LABEL) + 2 * hashlib.sha256().digest_size
LENGTH = struct.Struct("<H")
"""The last field of a zip archive: how long the comment is that follows it."""


class CheckpointError(UserError):
    """A checkpoint that cannot be written or read, with what is wrong with it."""


class DamagedCheckpoint(CheckpointError):
    """A checkpoint whose content is not what was written."""


def write(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint so that ``path`` holds either the new content, whole, or the old one.

    It is written beside its place, brought to the disk, and only then given its name.

    Raises:
        CheckpointError: there is no room for it, or the folder cannot be written to. What was at
            ``path`` is still there.
    """
    unfinished = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            digested = _Digested(file)
            torch.save(checkpoint, cast("IO[bytes]", digested))
            digested.end()
            os.fsync(file.fileno())
        unfinished.replace(path)
        _settle(path.parent)
    except (OSError, RuntimeError) as error:
        # torch's writer hides the system's error behind one of its own.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise CheckpointError(
            f"the checkpoint {path} cannot be written: {cause.strerror}. The checkpoints before it "
            "are whole: make room, and go on from the last with `train --resume`"
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)


def read(path: Path) -> dict[str, Any]:
    """Verify a checkpoint and load it onto the CPU: tensors and plain values, no other objects.

    Raises:
        CheckpointError: there is no such file, or it is no checkpoint of a training.
        DamagedCheckpoint: its content is not what was written.
    """
    verify(path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise DamagedCheckpoint(f"the checkpoint {path} cannot be read: {error}") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise CheckpointError(f"{path} is no checkpoint of a training: it has no `state_dict`")
    return checkpoint


def verify(path: Path) -> None:
    """Compare a checkpoint with the digest in it.

    Raises:
        CheckpointError: there is no such file.
        DamagedCheckpoint: it is cut off, or a bit of it has changed.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    digest, left = hashlib.sha256(), path.stat().st_size - LENGTH.size - COMMENT
    with path.open("rb") as file:
        while left > 0 and (block := file.read(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
        if file.read() != _comment(digest):
            raise DamagedCheckpoint(
                f"the checkpoint {path} is damaged: its content is not what was written"
            )


def last(folder: Path) -> list[Path]:
    """The last states of a training in a folder, newest first: ``last.ckpt``, ``last-1.ckpt``."""

    def age(path: Path) -> int:
        return int(path.stem.partition("-")[2] or 0)

    return sorted(folder.glob("last*.ckpt"), key=age)


def newest_whole(paths: Iterable[Path]) -> Path:
    """The first of several checkpoints, newest first, that is whole; damaged ones are named.

    Raises:
        DamagedCheckpoint: none is.
    """
    said = []
    for path in paths:
        try:
            verify(path)
        except DamagedCheckpoint as error:
            said.append(str(error))
        else:
            for sentence in said:
                log.warning("%s; the one before it is used", sentence)
            return path
    raise DamagedCheckpoint("; ".join(said))


def _comment(digest: "hashlib._Hash") -> bytes:
    return LENGTH.pack(COMMENT) + LABEL + digest.hexdigest().encode()


def _settle(folder: Path) -> None:
    """Bring a folder's names to the disk: until then a power cut may undo a renaming."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


class _Digested:
    """Passes on what is written, all but the last field, and digests it on its way."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.held = b""

    def write(self, block: Any) -> int:
        size = len(block)
        if size <= LENGTH.size:
            block, self.held = self.held + bytes(block), b""
            self._pass_on(block[: -LENGTH.size])
            self.held = block[-LENGTH.size :]
        else:
            self._pass_on(self.held)
            view = memoryview(block).cast("B")
            self._pass_on(view[: -LENGTH.size])
            self.held = bytes(view[-LENGTH.size :])
        return size

    def flush(self) -> None:
        self.file.flush()

    def end(self) -> None:
        """Write the comment where torch's writer left none."""
        assert self.held == LENGTH.pack(0)
        self.file.write(_comment(self.digest))
        self.file.flush()

    def _pass_on(self, block: Any) -> None:
        self.digest.update(block)
        self.file.write(block)
