"""Which raster files a folder holds, what belongs to each, and to which split it goes."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lit_imgproc.data.base import Split
from lit_imgproc.data.errors import DataError
from lit_imgproc.data.satellite.raster import Raster
from lit_imgproc.data.satellite.tiling import (
    Block,
    Tile,
    Unit,
    crs_blocks,
    deal,
    fits,
    grid,
    inside,
    pixel_blocks,
)

SUFFIXES = frozenset({".tif", ".tiff", ".jp2", ".jpg", ".jpeg", ".png"})
SPLITS: tuple[Split, ...] = ("train", "val", "test")

Patterns = Mapping[Literal["train", "val", "test"], Sequence[str]]

log = logging.getLogger(__name__)


class Source(NamedTuple):
    """A raster and what is known about it.

    Attributes:
        name: Its file, relative to the folder of images.
        raster: The file.
        target: The mask's file, or boxes and labels.
    """

    name: str
    raster: Raster
    target: Any


class Piece(NamedTuple):
    """A tile of a split.

    Attributes:
        source: Number of its raster.
        tile: Where it lies.
        group: The block or file that goes to one split as a whole.
    """

    source: int
    tile: Tile
    group: str


@dataclass(frozen=True)
class Layout:
    """How rasters are cut and dealt; see :class:`~lit_imgproc.data.satellite.tiles.RasterTiles`."""

    tile_size: int
    overlap: int
    splits: Patterns | None
    block: float | None
    block_unit: Unit
    gap: int
    val_fraction: float
    test_fraction: float

    def check(self) -> None:
        """Raise a ``DataError`` where settings contradict each other."""
        if self.splits is not None and self.block is not None:
            raise DataError("data.splits and data.block: give one of them.")
        if self.splits is not None and not {"train", "val"} <= set(self.splits):
            raise DataError("data.splits: patterns for train and val are needed.")
        if self.val_fraction + self.test_fraction >= 1:
            raise DataError("data: val_fraction and test_fraction leave no training tiles.")
        if self.block_unit == "pixel" and self.block and self.block < self.tile_size + self.gap:
            raise DataError(
                f"data.block: {self.block:g} is less than a tile and the gap, "
                f"{self.tile_size} + {self.gap}."
            )

    def deal(self, sources: Sequence[Source]) -> dict[Split, list[Piece]]:
        """The tiles of each split.

        Raises:
            DataError: There are no three splits to be made.
        """
        if self.splits is not None:
            return self._by_pattern(sources, self.splits)
        pieces = [
            Piece(number, tile, block.name)
            for number, source in enumerate(sources)
            for block in self._blocks(source)
            for tile in self._tiles(source.raster, block)
        ]
        found: dict[Split, list[Piece]] = {split: [] for split in SPLITS}
        chosen = deal([piece.group for piece in pieces], self.val_fraction, self.test_fraction)
        for piece, split in zip(pieces, chosen, strict=True):
            found[split].append(piece)
        return found

    def _by_pattern(
        self, sources: Sequence[Source], patterns: Patterns
    ) -> dict[Split, list[Piece]]:
        found: dict[Split, list[Piece]] = {split: [] for split in SPLITS}
        for number, source in enumerate(sources):
            splits = [
                s for s in SPLITS if any(fnmatch(source.name, p) for p in patterns.get(s, ()))
            ]
            if len(splits) > 1:
                raise DataError(f"{source.name}: is of {' and of '.join(splits)} (data.splits).")
            if not splits:
                log.warning("%s is of no split (data.splits) and is not used", source.name)
                continue
            block = Block(source.name, source.raster.whole)
            tiles = self._tiles(source.raster, block)
            found[splits[0]] += [Piece(number, tile, source.name) for tile in tiles]
        if "test" not in patterns:
            found["test"] = found["val"]
        return found

    def _blocks(self, source: Source) -> Sequence[Block]:
        raster = source.raster
        if self.block is None:
            return [Block(source.name, raster.whole)]
        if self.block_unit == "pixel":
            return list(pixel_blocks(source.name, raster.height, raster.width, int(self.block)))
        name, sides = source.name, (raster.height, raster.width)
        return list(crs_blocks(name, *sides, self.block, raster.transform, raster.crs))

    def _tiles(self, raster: Raster, block: Block) -> list[Tile]:
        sides = raster.height, raster.width
        area = inside(block, *sides, self.gap)
        return (
            grid(area, self.tile_size, self.overlap) if fits(area, *sides, self.tile_size) else []
        )


def list_files(root: Path, folder: str) -> list[str]:
    """The raster files in a folder and below, relative to it, sorted.

    Raises:
        DataError: There is no such folder, or it holds none.
    """
    start = root / folder
    if not start.is_dir():
        raise DataError(f"{start}: there is no such folder (data.root, data.images).")
    files = sorted(
        file.relative_to(start).as_posix()
        for file in start.rglob("*")
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
    )
    if not files:
        raise DataError(f"{start}: holds no images ({' '.join(sorted(SUFFIXES))}).")
    return files


def partners(folder: Path, suffixes: frozenset[str]) -> dict[str, list[Path]]:
    """The files in a folder and below by their name relative to it, without suffix."""
    found: dict[str, list[Path]] = {}
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in suffixes and not file.name.startswith("."):
            found.setdefault(file.relative_to(folder).with_suffix("").as_posix(), []).append(file)
    return found


def open_all(
    names: Sequence[str], open_one: Callable[[str], Source]
) -> tuple[list[Source], list[str]]:
    """What can be opened, all of the same bands and sample type, and a sentence for each other."""
    sources: list[Source] = []
    problems: list[str] = []
    for name in names:
        try:
            source = open_one(name)
        except DataError as error:
            problems += str(error).splitlines()
            continue
        raster, first = source.raster, sources[0].raster if sources else source.raster
        if (raster.channels, raster.dtype) == (first.channels, first.dtype):
            sources.append(source)
        else:
            problems.append(
                f"{raster.path}: gives {raster.channels} bands of {raster.dtype}, and "
                f"{first.path} gives {first.channels} of {first.dtype}."
            )
    return sources, problems
