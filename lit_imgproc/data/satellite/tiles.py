"""Tiles of rasters as samples: what segmentation and detection share."""

import hashlib
import os
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray

from lit_imgproc.data.base import DataError, ImageDataset
from lit_imgproc.data.names import Names
from lit_imgproc.data.satellite.listing import Piece, Source
from lit_imgproc.data.satellite.raster import Raster, Read, clip
from lit_imgproc.data.satellite.tiling import Tile, Window
from lit_imgproc.data.transforms import Augment

TRIES = 8
"""So many random windows are looked at for one that has data."""


class Pieces(Sequence[Piece]):
    """The tiles of a split at the memory of their numbers; see :class:`Names` for the reason.

    Args:
        pieces: The tiles.
    """

    def __init__(self, pieces: Iterable[Piece]) -> None:
        every = list(pieces)
        numbers = [(p.source, *p.tile.window, *p.tile.area, *p.tile.seen) for p in every]
        self._numbers = np.asarray(numbers, np.int32).reshape(-1, 11)
        groups, self._group = np.unique([p.group for p in every], return_inverse=True)
        self._groups = Names(map(str, groups))

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Piece: ...
    @overload
    def __getitem__(self, index: slice) -> list[Piece]: ...
    def __getitem__(self, index: int | slice) -> Piece | list[Piece]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        source, *rest = self._numbers[index].tolist()
        tile = Tile(Window(*rest[:4]), Window(*rest[4:8]), (rest[8], rest[9]))
        return Piece(source, tile, self._groups[int(self._group[index])])


class TileDataset(ImageDataset):
    """The tiles of one split; each item has the image, what is known of it and its ``geometry``.

    ``geometry`` holds ``path``, ``window`` (row, column, height, width), ``size``, ``transform``
    (six numbers) and ``crs`` of the raster.

    Args:
        sources: All rasters.
        pieces: The tiles of this split.
        class_names: The names of the classes.
        augment: What training does.
        random: Whether training reads windows anywhere in a tile's block instead of the tile.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        pieces: Sequence[Piece],
        class_names: Sequence[str],
        augment: Augment | None,
        random: bool,
    ) -> None:
        self.sources, self.pieces = list(sources), Pieces(pieces)
        self.class_names = list(class_names)
        self.augment, self.random = augment, random
        self.names = Names(
            f"{self.sources[number].name}@{tile.window.row},{tile.window.column}"
            for number, tile, _ in pieces
        )
        self.groups = Names(piece.group for piece in pieces)

    def __len__(self) -> int:
        return len(self.pieces)

    def size(self, index: int) -> tuple[int, ...]:
        """Height and width of the tile."""
        return tuple(self.pieces[index].tile.window[2:])

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        if isinstance(index, tuple):
            index, sample_seed = index
            number, tile, _ = self.pieces[index]
            source = self.sources[number]
            window, read = self._draw(source.raster, tile, sample_seed)
            found = self.sample(source, window, read, (0, 0), sample_seed)
        else:
            number, tile, _ = self.pieces[index]
            source, window = self.sources[number], tile.window
            found = self.sample(source, window, source.raster.read(window), tile.seen, None)
        raster = source.raster
        geometry = {
            "path": raster.path,
            "window": list(window),
            "size": [raster.height, raster.width],
            "transform": list(raster.transform[:6]),
            "crs": raster.crs,
        }
        return {**found, "id": self.names[index], "geometry": geometry}

    @abstractmethod
    def sample(
        self,
        source: Source,
        window: Window,
        read: Read,
        seen: tuple[int, int],
        sample_seed: int | None,
    ) -> dict[str, Any]:
        """The image as a tensor ``[C,H,W]`` and what belongs to it; augmented if seeded."""

    def _draw(self, raster: Raster, tile: Tile, sample_seed: int) -> tuple[Window, Read]:
        window, area = tile.window, tile.area
        down, across = area.height - window.height, area.width - window.width
        if not self.random or (down <= 0 and across <= 0):
            return window, raster.read(window)
        generator = np.random.default_rng(sample_seed)
        for _ in range(TRIES):
            row, column = (int(generator.integers(max(room, 0) + 1)) for room in (down, across))
            moved = Window(area.row + row, area.column + column, *window[2:])
            read = raster.read(moved)
            if read.missing is None or read.valid.any():
                return moved, read
        return window, raster.read(window)

    def update_digest(self, digest: "hashlib._Hash") -> None:
        """Feed the class names, the names of the tiles, and their rasters and targets."""
        digest.update("\0".join([*self.class_names, *self.names]).encode())
        for number, _ in groupby(piece.source for piece in self.pieces):
            digest.update(file_digest(self.sources[number].raster.path))
            self.update_target(digest, self.sources[number])

    @abstractmethod
    def update_target(self, digest: "hashlib._Hash", source: Source) -> None:
        """Feed what is known of a raster."""


def on_raster(read: Read, window: Window, raster: Raster) -> Read:
    """What was read of a window, without what lies beyond the raster."""
    within = clip(window, raster.height, raster.width)
    rows = slice(within.row - window.row, within.bottom - window.row)
    columns = slice(within.column - window.column, within.right - window.column)
    missing = None if read.missing is None else read.missing[rows, columns]
    return Read(read.image[rows, columns], missing)


def to_tensor(image: NDArray[Any]) -> torch.Tensor:
    """``[H,W,C]`` as a tensor ``[C,H,W]``: a view, which is put in order when it joins a batch."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)


def file_digest(path: str) -> bytes:
    """SHA-256 of a file's bytes, computed once as long as it is the same file."""
    try:
        state = os.stat(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    return _digest(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4096)
def _digest(path: str, size: int, modified: int) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
