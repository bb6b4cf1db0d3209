"""Cutting rasters into tiles and dealing the tiles to splits by blocks of ground."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np

from lit_imgproc.data.errors import DataError
from lit_imgproc.data.splits import held_out_groups
from lit_imgproc.seams import starts

Unit = Literal["pixel", "crs"]


class Window(NamedTuple):
    """A rectangle of pixels of a raster; it may reach beyond the raster's edges."""

    row: int
    column: int
    height: int
    width: int

    @property
    def bottom(self) -> int:
        """The row below the last."""
        return self.row + self.height

    @property
    def right(self) -> int:
        """The column after the last."""
        return self.column + self.width


class Tile(NamedTuple):
    """A window to be read, and where it may move.

    Attributes:
        window: What is read.
        area: The block that the window lies in.
        seen: How many rows at its top and columns at its left earlier tiles hold as well.
    """

    window: Window
    area: Window
    seen: tuple[int, int]


class Block(NamedTuple):
    """A part of a raster that goes to one split as a whole."""

    name: str
    area: Window


def grid(area: Window, tile_size: int, overlap: int = 0) -> list[Tile]:
    """Tiles that cover an area exactly, row by row.

    The last tile of a row or column is moved back to end where the area ends. Where the area is
    smaller than a tile, the tile reaches beyond it.
    """
    rows = _starts(area.row, area.height, tile_size, overlap)
    columns = _starts(area.column, area.width, tile_size, overlap)
    return [
        Tile(Window(row, column, tile_size, tile_size), area, (seen_rows, seen_columns))
        for row, seen_rows in rows
        for column, seen_columns in columns
    ]


def _starts(first: int, length: int, size: int, overlap: int) -> list[tuple[int, int]]:
    if not 0 <= overlap < size:
        raise DataError(f"data.overlap: {overlap} is not less than the side of a tile, {size}.")
    begins = starts(length, size, overlap)
    ends = [0, *(begin + size for begin in begins)]
    return [(first + begin, end - begin) for begin, end in zip(begins, ends, strict=False)]


def pixel_blocks(name: str, height: int, width: int, block: int) -> Iterator[Block]:
    """A raster's blocks of at least ``block`` pixels a side, counted from its upper left corner."""
    rows, columns = _edges(height, block), _edges(width, block)
    for i, (top, bottom) in enumerate(pairwise(rows)):
        for j, (left, right) in enumerate(pairwise(columns)):
            yield Block(f"{name}:{i},{j}", Window(top, left, bottom - top, right - left))


def _edges(length: int, block: int) -> list[int]:
    count = max(length // block, 1)
    return [length * number // count for number in range(count + 1)]


def crs_blocks(
    name: str, height: int, width: int, block: float, transform: Any, crs: str | None
) -> Iterator[Block]:
    """A raster's parts of a lattice of ``block`` units of its CRS, counted from the CRS's origin.

    Rasters that show the same ground have the same blocks there, whatever their own corners are.

    Args:
        name: The raster, for messages.
        height: Of the raster, in pixels.
        width: Of the raster, in pixels.
        block: Side of a block, in metres for most projected systems.
        transform: Affine, of the raster.
        crs: Of the raster, as text.

    Raises:
        DataError: The raster has no CRS, or is rotated.
    """
    if crs is None or transform.b or transform.d:
        why = "has no CRS" if crs is None else "is rotated"
        raise DataError(f"{name}: {why}, so its blocks can only be counted in pixels.")
    rows = _cuts(transform.f, transform.e, height, block)
    columns = _cuts(transform.c, transform.a, width, block)
    for i, top, bottom in rows:
        for j, left, right in columns:
            yield Block(f"{crs}:{i},{j}", Window(top, left, bottom - top, right - left))


def _cuts(origin: float, step: float, length: int, block: float) -> list[tuple[int, int, int]]:
    """Number of the block, first pixel and the one after the last, along one axis."""
    # The centre of a pixel decides where it belongs.
    numbers = np.floor((origin + step * (np.arange(length) + 0.5)) / block).astype(np.int64)
    starts = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), length]
    return [(int(numbers[first]), first, last) for first, last in pairwise(starts)]


def inside(block: Block, height: int, width: int, gap: int) -> Window:
    """A block's area less half of ``gap`` pixels on each side that is not an edge of the raster."""
    area, half = block.area, (gap + 1) // 2
    top = area.row + (half if area.row > 0 else 0)
    left = area.column + (half if area.column > 0 else 0)
    bottom = area.bottom - (half if area.bottom < height else 0)
    right = area.right - (half if area.right < width else 0)
    return Window(top, left, bottom - top, right - left)


def fits(area: Window, height: int, width: int, tile_size: int) -> bool:
    """Whether a tile fits into an area, or only reaches beyond the raster itself."""
    tall = area.height >= tile_size or area.height == height
    return tall and (area.width >= tile_size or area.width == width) and min(area[2:]) > 0


def deal(
    groups: list[str], val_fraction: float, test_fraction: float
) -> list[Literal["train", "val", "test"]]:
    """The split of each of a list of tiles, whole groups at a time, by the names of the groups.

    Raises:
        DataError: There are too few groups for three splits.
    """
    if len(set(groups)) < 3:
        raise DataError(
            f"there are {len(set(groups))} blocks or files for training, validation and testing: "
            "give more, or smaller blocks (data.block)."
        )
    test = held_out_groups(groups, test_fraction)
    rest = [group for group, out in zip(groups, test, strict=True) if not out]
    val = iter(held_out_groups(rest, val_fraction / (1 - test_fraction)))
    return ["test" if out else "val" if next(val) else "train" for out in test]
