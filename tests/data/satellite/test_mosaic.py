import tracemalloc

import numpy as np
import pytest

from lit_imgproc.data.errors import DataError
from lit_imgproc.data.satellite.mosaic import Mosaic, mosaic, read_tiles
from lit_imgproc.data.satellite.raster import Raster
from lit_imgproc.data.satellite.tiling import Window

rasterio = pytest.importorskip("rasterio")


def same(images):
    return images


def read(path):
    with rasterio.open(path) as file:
        return file.read(), file


@pytest.mark.parametrize("kind", ["uint8", "uint16", "int16", "int32", "float32"])
@pytest.mark.parametrize("taper", ["gaussian", "linear", "uniform"])
def test_identity_returns_the_raster(write_raster, tmp_path, kind, taper):
    random = np.random.default_rng(0)
    limit = 2**20 if kind in ("int32", "float32") else np.iinfo(kind).max
    bands = random.integers(0, limit, (3, 700, 333)).astype(kind)
    if kind == "float32":
        bands = bands + random.normal(size=bands.shape).astype(np.float32)
    source = write_raster("a.tif", bands)
    for tile_size, overlap in ((128, 31), (64, 0), (1000, 0)):
        mosaic(source, same, tmp_path / "b.tif", dtype=kind, tile_size=tile_size, overlap=overlap,
               taper=taper)  # fmt: skip
        found, file = read(tmp_path / "b.tif")
        np.testing.assert_array_equal(found, bands)
        _, given = read(source)
        assert (file.crs, file.transform, file.shape) == (given.crs, given.transform, given.shape)


def test_the_file_is_tiled_and_compressed(write_raster, tmp_path):
    source = write_raster("a.tif", np.ones((1, 700, 333), np.uint8))
    mosaic(source, same, tmp_path / "b.tif")
    with rasterio.open(tmp_path / "b.tif") as file:
        assert file.block_shapes == [(256, 256)]
        assert file.compression.name == "deflate"


def test_nodata_stays_nodata(write_raster, tmp_path):
    bands = np.random.default_rng(0).integers(1, 99, (1, 300, 300), np.uint16)
    bands[:, :150, 40:] = 0  # whole tiles of it, and parts of others
    source = write_raster("a.tif", bands, nodata=0)
    mosaic(source, lambda images: images + 500, tmp_path / "b.tif", dtype="uint16", tile_size=64,
           overlap=16)  # fmt: skip
    found, file = read(tmp_path / "b.tif")
    np.testing.assert_array_equal(found, np.where(bands == 0, 0, bands + 500))
    assert file.nodata == 0


@pytest.mark.parametrize("where", [np.s_[:, :600], np.s_[:, 600:], np.s_[:, 100:900]])
def test_rows_without_any_data_are_written_too(write_raster, tmp_path, where):
    bands = np.ones((1, 1000, 40), np.float32)
    bands[where] = np.nan
    source = write_raster("a.tif", bands)
    mosaic(source, same, tmp_path / "b.tif", tile_size=32, overlap=0)
    found, file = read(tmp_path / "b.tif")
    np.testing.assert_array_equal(found, bands)
    assert np.isnan(file.nodata)


def test_scores_become_classes(write_raster, tmp_path):
    bands = np.random.default_rng(0).integers(1, 5, (1, 200, 210), np.uint8)
    bands[:, :10] = 0
    source = write_raster("a.tif", bands, nodata=0)

    def scores(images):
        return (images == np.arange(1, 5).reshape(1, 4, 1, 1)).astype(np.float32)

    mosaic(source, scores, tmp_path / "b.tif", values="scores", tile_size=64, overlap=20)
    found, file = read(tmp_path / "b.tif")
    np.testing.assert_array_equal(found, np.where(bands == 0, 255, bands - 1))
    assert (file.dtypes, file.nodata) == (("uint8",), 255)


def test_scores_are_weighted_by_where_they_lie_in_their_tile(write_raster, tmp_path):
    raster = Raster(write_raster("a.tif", np.ones((1, 64, 96), np.uint8)))
    for name, taper in (("even.tif", "uniform"), ("tapered.tif", "linear")):
        with Mosaic(tmp_path / name, raster, dtype="float32", taper=taper) as output:
            output.add(Window(0, 0, 64, 64), np.zeros((1, 64, 64), np.float32))
            output.add(Window(0, 32, 64, 64), np.ones((1, 64, 64), np.float32))
    even, tapered = (read(tmp_path / name)[0][0, 32] for name in ("even.tif", "tapered.tif"))
    np.testing.assert_array_equal(even, np.repeat([0, 0.5, 1], 32))
    assert (np.diff(tapered[31:65]) > 0).all()
    assert tapered[30] == 0
    assert tapered[64] == 1


def test_of_labels_the_one_nearest_to_the_middle_of_its_tile_is_written(write_raster, tmp_path):
    raster = Raster(write_raster("a.tif", np.ones((1, 64, 96), np.uint8)))
    with Mosaic(tmp_path / "b.tif", raster, values="labels") as output:
        output.add(Window(0, 0, 64, 64), np.full((1, 64, 64), 7))
        output.add(Window(0, 32, 64, 64), np.full((1, 64, 64), 3))
    found, file = read(tmp_path / "b.tif")
    np.testing.assert_array_equal(found[0], np.tile(np.repeat([7, 3], 48), (64, 1)))
    assert file.nodata == 255


def test_memory_is_that_of_some_rows(write_raster, tmp_path):
    source = write_raster("a.tif", np.ones((1, 6000, 256), np.uint8), compress="deflate")
    tracemalloc.start()
    mosaic(source, same, tmp_path / "b.tif", tile_size=64, overlap=16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    whole = 6000 * 256 * 2 * 4
    assert peak < whole / 3
    assert (read(tmp_path / "b.tif")[0] == 1).all()


def test_a_failure_leaves_nothing(write_raster, tmp_path):
    source = write_raster("in/a.tif", np.ones((1, 400, 400), np.uint8))
    (tmp_path / "out").mkdir()

    def fails(images):
        fails.calls += 1
        if fails.calls > 3:
            raise RuntimeError("no")
        return images

    fails.calls = 0
    with pytest.raises(RuntimeError, match="no"):
        mosaic(source, fails, tmp_path / "out/b.tif", tile_size=64, overlap=0)
    assert not list((tmp_path / "out").iterdir())


def test_a_failure_keeps_the_file_before(write_raster, tmp_path):
    source = write_raster("a.tif", np.ones((1, 64, 64), np.uint8))
    (tmp_path / "b.tif").write_text("before")
    with pytest.raises(ZeroDivisionError):
        mosaic(source, lambda images: 1 / 0, tmp_path / "b.tif", tile_size=64, overlap=0)
    assert (tmp_path / "b.tif").read_text() == "before"


def test_what_cannot_be_written(write_raster, tmp_path):
    source = write_raster("a.tif", np.ones((1, 64, 64), np.uint8))
    with pytest.raises(DataError, match="nowhere"):
        mosaic(source, same, tmp_path / "nowhere/b.tif", tile_size=64, overlap=0)


def test_missing_pixels_need_a_value(write_raster, tmp_path):
    mask = np.full((64, 64), 255, np.uint8)
    mask[:5] = 0
    source = write_raster("a.tif", np.ones((1, 64, 64), np.uint8), mask=mask)
    with pytest.raises(DataError, match="give one"):
        mosaic(source, same, tmp_path / "b.tif", tile_size=64, overlap=0)
    mosaic(source, same, tmp_path / "b.tif", tile_size=64, overlap=0, nodata=9)
    np.testing.assert_array_equal(read(tmp_path / "b.tif")[0][0], np.where(mask, 1, 9))
    plain = Raster(write_raster("c.tif", np.ones((1, 64, 64), np.uint8)))
    with (
        pytest.raises(DataError, match="were not all predicted"),
        Mosaic(tmp_path / "d.tif", plain) as output,
    ):
        output.add(Window(0, 0, 32, 32), np.ones((1, 32, 32), np.uint8))
    with pytest.raises(DataError, match="no data at all"), Mosaic(tmp_path / "d.tif", plain):
        pass


def test_tiles_come_from_top_to_bottom(write_raster, tmp_path):
    raster = Raster(write_raster("a.tif", np.ones((1, 64, 64), np.uint8)))
    one = np.ones((1, 32, 32), np.uint8)
    with Mosaic(tmp_path / "b.tif", raster, nodata=0) as output:
        output.add(Window(32, 0, 32, 32), one)
        with pytest.raises(ValueError, match="row 0 came after"):
            output.add(Window(0, 0, 32, 32), one)


def test_tiles_to_predict(write_raster):
    bands = np.arange(100 * 100, dtype=np.uint16).reshape(1, 100, 100)
    raster = Raster(write_raster("a.tif", bands, nodata=0))
    tiles = list(read_tiles(raster, 64, 28))
    assert [tile.window[:2] for tile in tiles] == [(0, 0), (0, 36), (36, 0), (36, 36)]
    np.testing.assert_array_equal(tiles[3].image, bands[:, 36:, 36:])
    assert tiles[0].image.flags.c_contiguous
    assert not tiles[0].valid[0, 0]


def test_the_first_and_the_later_tiles_may_differ_in_height(write_raster, tmp_path):
    raster = Raster(write_raster("a.tif", np.ones((1, 900, 64), np.uint8)))
    with Mosaic(tmp_path / "b.tif", raster) as output:
        output.add(Window(0, 0, 100, 64), np.full((1, 100, 64), 1, np.uint8))
        output.add(Window(100, 0, 800, 64), np.full((1, 800, 64), 2, np.uint8))
    np.testing.assert_array_equal(
        read(tmp_path / "b.tif")[0][0, :, 0], np.repeat([1, 2], [100, 800])
    )
