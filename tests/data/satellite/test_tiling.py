from collections import Counter
from typing import NamedTuple

import numpy as np
import pytest

from lit_imgproc.data.errors import DataError
from lit_imgproc.data.satellite.tiling import (
    Block,
    Window,
    crs_blocks,
    deal,
    fits,
    grid,
    inside,
    pixel_blocks,
)


class Affine(NamedTuple):
    a: float
    b: float
    c: float
    d: float
    e: float
    f: float


@pytest.mark.parametrize("height", [64, 65, 100, 128, 200])
@pytest.mark.parametrize("overlap", [0, 1, 13, 63])
def test_a_grid_covers_an_area_exactly(height, overlap):
    area = Window(5, 7, height, 64 + height // 3)
    hits = np.zeros((400, 400), int)
    fresh = np.zeros((400, 400), int)
    for tile in grid(area, 64, overlap):
        row, column = tile.window[:2]
        hits[row : row + 64, column : column + 64] += 1
        fresh[row + tile.seen[0] : row + 64, column + tile.seen[1] : column + 64] += 1
        assert tile.area == area
    within = np.zeros_like(hits)
    within[area.row : area.bottom, area.column : area.right] = 1
    np.testing.assert_array_equal(hits > 0, within)
    np.testing.assert_array_equal(fresh, within)


def test_a_small_area_has_one_tile_that_reaches_beyond():
    (tile,) = grid(Window(0, 0, 10, 20), 64)
    assert tile.window == (0, 0, 64, 64)


def test_an_overlap_is_less_than_a_tile():
    with pytest.raises(DataError, match=r"data.overlap: 64 is not less"):
        grid(Window(0, 0, 100, 100), 64, 64)


def test_pixel_blocks_part_a_raster_into_blocks_that_are_no_smaller():
    hits = np.zeros((250, 330), int)
    names = set()
    for name, (row, column, height, width) in pixel_blocks("a.tif", 250, 330, 100):
        hits[row : row + height, column : column + width] += 1
        assert min(height, width) >= 100
        names.add(name)
    assert (hits == 1).all()
    assert len(names) == 6


def test_blocks_of_the_ground_are_the_same_in_overlapping_rasters():
    first, second = Affine(10, 0, 1000, 0, -10, 5000), Affine(10, 0, 1500, 0, -10, 4700)

    def ground(transform):
        found = {}
        for name, (row, column, height, width) in crs_blocks("a", 80, 90, 400, transform, "EPSG:1"):
            for y in range(row, row + height):
                for x in range(column, column + width):
                    found[transform.c + 10 * x, transform.f - 10 * y] = name
        return found

    one, other = ground(first), ground(second)
    assert len(one) == len(other) == 80 * 90
    shared = one.keys() & other.keys()
    assert len(shared) > 1000
    assert all(one[point] == other[point] for point in shared)


def test_blocks_of_the_ground_need_a_crs_and_no_rotation():
    with pytest.raises(DataError, match="has no CRS"):
        list(crs_blocks("a", 9, 9, 5, Affine(1, 0, 0, 0, -1, 0), None))
    with pytest.raises(DataError, match="is rotated"):
        list(crs_blocks("a", 9, 9, 5, Affine(1, 0.2, 0, 0.2, -1, 0), "EPSG:1"))


def test_a_gap_lies_between_blocks_and_not_at_the_edges():
    areas = [inside(block, 200, 100, 10) for block in pixel_blocks("a", 200, 100, 100)]
    assert areas == [Window(0, 0, 95, 100), Window(105, 0, 95, 100)]


def test_tiles_fit_into_blocks_or_span_the_raster():
    assert fits(Window(0, 0, 64, 64), 200, 200, 64)
    assert not fits(Window(0, 0, 63, 64), 200, 200, 64)
    assert fits(Window(0, 0, 40, 64), 40, 200, 64)
    assert not fits(Window(0, 0, 64, -1), 200, 200, 64)


def test_whole_groups_are_dealt_always_alike():
    groups = [f"block {number // 10}" for number in range(400)]
    splits = deal(groups, 0.15, 0.15)
    owner = {}
    for group, split in zip(groups, splits, strict=True):
        assert owner.setdefault(group, split) == split
    assert Counter(splits) == {"train": 280, "val": 60, "test": 60}
    assert deal(groups, 0.15, 0.15) == splits
    with pytest.raises(DataError, match="there are 2 blocks or files"):
        deal(["a", "b", "b"], 0.1, 0.1)


def test_a_block_is_a_name_and_an_area():
    assert Block("a", Window(1, 2, 3, 4)).area.bottom == 4
