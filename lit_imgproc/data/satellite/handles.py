"""Open raster files: a few of them, kept by each process and thread for itself."""

import os
import threading
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

from lit_imgproc.data.errors import DataError
from lit_imgproc.extras import require

HANDLES = 128
"""So many files a thread keeps open."""

CACHE_MB = "256"
"""What GDAL may keep of decoded blocks in a process. Its own choice, 5 % of all memory, is too much
where every worker takes it."""

_OPENING = threading.Lock()  # warnings.catch_warnings is not safe among threads


class _Pool(threading.local):
    """The handles of one thread. GDAL's are not safe to share, with threads or over a fork."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.opened: OrderedDict[str, tuple[tuple[int, ...], Any]] = OrderedDict()
        self.inherited: list[Any] = []

    def forget_parent(self) -> None:
        """After a fork: leave the parent's handles alone, unclosed, since locks may be held."""
        if self.process != os.getpid():
            self.inherited.append(self.opened)
            self.opened, self.process = OrderedDict(), os.getpid()


_POOL = _Pool()


def library() -> Any:
    """Rasterio, set up for many workers that open many files.

    Raises:
        UserError: It is not installed.
    """
    os.environ.setdefault("GDAL_CACHEMAX", CACHE_MB)
    # Otherwise each file that is opened costs a listing of its folder.
    os.environ.setdefault("GDAL_DISABLE_READDIR_ON_OPEN", "TRUE")
    return require("rasterio", "satellite")


def handle(path: str | Path) -> Any:
    """The open rasterio dataset of a file, for this thread to read from and not to close.

    A file that was replaced since is opened again.

    Raises:
        DataError: The file is missing or no raster.
    """
    key = str(path)
    _POOL.forget_parent()
    try:
        state = os.stat(key)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    signature = (state.st_ino, state.st_size, state.st_mtime_ns)
    known = _POOL.opened.get(key)
    if known is not None and known[0] == signature:
        _POOL.opened.move_to_end(key)
        return known[1]
    opened = open_quietly(key)
    _POOL.opened[key] = (signature, opened)
    _POOL.opened.move_to_end(key)
    while len(_POOL.opened) > HANDLES:
        _POOL.opened.popitem(last=False)
    return opened


def open_quietly(path: str | Path, mode: str = "r", **profile: Any) -> Any:
    """``rasterio.open`` without its warning about files that are not georeferenced.

    Raises:
        DataError: The file cannot be opened.
    """
    rasterio = library()
    with _OPENING, warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        try:
            return rasterio.open(path, mode, **profile)
        except rasterio.errors.RasterioError as error:
            why = "is empty" if mode == "r" and not os.path.getsize(path) else "cannot be opened"
            detail = "" if why == "is empty" else f" ({error})"
            raise DataError(f"{path}: {why} as a raster{detail}.") from error
