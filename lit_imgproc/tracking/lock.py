"""A lock that tells whether the process that holds a folder is still alive."""

import fcntl
import os
from pathlib import Path

from lit_imgproc.errors import UserError

_held: set[Path] = set()  # by this process, which its own record locks do not stop


class FolderInUse(UserError):
    """A living process holds the folder."""


class FolderLock:
    """Hold a folder, by its file ``lock``, until released or until this process has died.

    It is a record lock, which forked processes do not inherit: any other would be held by the
    workers of a data loader, which outlive a killed training by some seconds.

    Args:
        folder: One that exists.

    Raises:
        FolderInUse: This or another process holds it.
        OSError: It is not there, cannot be written, or lies where files cannot be locked.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        in_use = FolderInUse(
            f"{folder} is in use: its run is still training, or is being delivered"
        )
        if folder in _held:
            raise in_use  # to open the file and close it would release the lock
        self._file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            if isinstance(error, BlockingIOError | PermissionError):
                raise in_use from error
            raise
        _held.add(folder)

    def release(self) -> None:
        """Let others hold it."""
        os.close(self._file)
        _held.discard(self._folder)
