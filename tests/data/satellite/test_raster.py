import multiprocessing
import warnings

import numpy as np
import pytest

from lit_imgproc.data.errors import DataError
from lit_imgproc.data.satellite import handles
from lit_imgproc.data.satellite.bands import INDICES, Selection, normalized_difference
from lit_imgproc.data.satellite.moments import Moments, moments, value_range_of
from lit_imgproc.data.satellite.raster import Raster, Read
from lit_imgproc.data.satellite.tiling import Window

rasterio = pytest.importorskip("rasterio")

MAGNITUDE = Selection(complex_values="magnitude")
SOUND = [
    *(
        f"rasterio/{name}.tif"
        for name in ("RGB.byte", "RGBA.uint16", "all-nodata", "float_nan", "goes", "red")
    ),
    "rasterio/float_raster_with_nodata.tif",
    *(
        f"spacenet/{name}.tif"
        for name in ("ms1", "pan1", "rgb_unmasked", "sample_geotiff", "sar_vv")
    ),
]


def stored(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path) as file:
            return file.read(), file.dataset_mask() > 0, file


@pytest.mark.parametrize("name", SOUND)
def test_real_files_equal_what_rasterio_reads(shared_data, name):
    path = shared_data / "geo_samples" / name
    raster = Raster(path, MAGNITUDE)
    read = raster.read()
    expected, valid, file = stored(path)
    expected = np.abs(expected[: raster.channels])
    found = np.abs(read.image.transpose(2, 0, 1))
    assert found.dtype == (np.uint8 if expected.dtype == np.uint8 else np.float32)
    assert np.isfinite(found).all()
    sound = ~read.missing.transpose(2, 0, 1) if read.missing is not None else np.isfinite(expected)
    np.testing.assert_array_equal(found[sound], expected.astype(found.dtype)[sound])
    np.testing.assert_array_equal(read.valid, valid)
    assert (raster.height, raster.width) == file.shape
    assert raster.transform == file.transform
    assert (raster.crs is None) == (file.crs is None)
    if file.crs:
        assert rasterio.crs.CRS.from_user_input(raster.crs) == file.crs


@pytest.mark.parametrize("name", SOUND)
def test_statistics_of_real_files_equal_numpys(shared_data, name):
    path = shared_data / "geo_samples" / name
    found, read = moments(path, MAGNITUDE), Raster(path, MAGNITUDE).read()
    for band in range(read.image.shape[2]):
        values = read.image[:, :, band].astype(np.float64)
        if read.missing is not None:
            values = values[~read.missing[:, :, band]]
        assert found.count[band] == values.size
        if values.size:
            np.testing.assert_allclose(found.mean[band], values.mean(), rtol=1e-12)
            np.testing.assert_allclose(found.std[band], values.std(), rtol=1e-9)
            assert (found.low[band], found.high[band]) == (values.min(), values.max())


def test_a_truncated_file_is_one_sentence(shared_data):
    path = shared_data / "geo_samples/rasterio/corrupt.tif"
    with pytest.raises(DataError) as error:
        Raster(path).read()
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"{path}: rows 0 to 1024 cannot be read; the file is cut short")


@pytest.mark.parametrize("kind", ["uint8", "uint16", "int16", "int32", "float32", "float64"])
def test_sample_types(write_raster, kind):
    bands = np.arange(2 * 5 * 7).reshape(2, 5, 7).astype(kind)
    raster = Raster(write_raster("a.tif", bands))
    image = raster.read().image
    assert image.dtype.name == raster.dtype == ("uint8" if kind == "uint8" else "float32")
    np.testing.assert_array_equal(image.transpose(2, 0, 1), bands)
    assert raster.stored == kind


def test_complex_values_are_refused_or_their_magnitude_is_taken(write_raster):
    path = write_raster("a.tif", np.full((1, 2, 2), 3 + 4j, np.complex64))
    with pytest.raises(DataError, match=r"complex; data.complex_values=magnitude"):
        Raster(path)
    assert (Raster(path, MAGNITUDE).read().image == 5).all()


def test_missing_values_are_zero_but_8_bits_stay(write_raster):
    bands = np.float32([[[1, -9999], [np.nan, np.inf]], [[5, -9999], [6, 7]]])
    read = Raster(write_raster("a.tif", bands, nodata=-9999)).read()
    np.testing.assert_array_equal(
        read.image.transpose(2, 0, 1), [[[1, 0], [0, 0]], [[5, 0], [6, 7]]]
    )
    np.testing.assert_array_equal(read.valid, [[True, False], [True, True]])
    bands = np.uint8([[[255, 7]], [[255, 255]]])
    read = Raster(write_raster("b.tif", bands, nodata=255)).read()
    np.testing.assert_array_equal(read.image.transpose(2, 0, 1), bands)
    np.testing.assert_array_equal(read.valid, [[False, True]])


def test_a_number_that_float32_does_not_have_is_missing(write_raster):
    read = Raster(write_raster("a.tif", np.float64([[[1e300, 2]]]))).read()
    np.testing.assert_array_equal(read.image[:, :, 0], [[0, 2]])
    np.testing.assert_array_equal(read.valid, [[False, True]])


def test_mask_bands_and_alpha(write_raster):
    bands = np.full((1, 2, 2), 9, np.uint16)
    mask = np.uint8([[255, 0], [255, 255]])
    for read in (
        Raster(write_raster("a.tif", bands, mask=mask)).read(),
        Raster(write_raster("b.tif", np.uint16([*np.repeat(bands, 3, 0), mask]), alpha="yes",
                            photometric="rgb")).read(),
    ):  # fmt: skip
        np.testing.assert_array_equal(read.valid, mask > 0)
        np.testing.assert_array_equal(read.image[:, :, 0], np.where(mask, 9, 0))
    assert read.image.shape[2] == 3


def test_windows_beyond_the_edges_are_reflected(write_raster):
    bands = np.arange(2 * 6 * 8, dtype=np.uint16).reshape(2, 6, 8)
    raster = Raster(write_raster("a.tif", bands))
    read = raster.read(Window(-2, 3, 6, 9))
    expected = np.pad(bands, ((0, 0), (2, 0), (0, 4)), mode="reflect")[:, :6, 3:]
    np.testing.assert_array_equal(read.image.transpose(2, 0, 1), expected)
    assert not read.valid[:2].any()
    assert not read.valid[:, 5:].any()
    assert read.valid[2:, :5].all()
    small = Raster(write_raster("b.tif", bands[:, :1, :2]))
    assert small.read(Window(0, 0, 9, 9)).image.shape == (9, 9, 2)


def test_without_a_crs(write_raster):
    raster = Raster(write_raster("a.tif", np.ones((1, 3, 3), np.uint8), crs=None))
    assert raster.crs is None
    assert raster.transform == rasterio.Affine.identity()


def test_bands_by_number_and_name(write_raster):
    bands = np.arange(4, dtype=np.uint16)[:, np.newaxis, np.newaxis] * np.ones((1, 2, 2), np.uint16)
    named = write_raster("a.tif", bands, names=["blue", "Green", "red", "nir"])
    raster = Raster(named, Selection(bands=("red", 1)))
    assert raster.band_names == ["red", "blue"]
    assert raster.read().image[0, 0].tolist() == [2, 0]
    plain = write_raster("b.tif", bands)
    assert Raster(plain).band_names == ["band 1", "band 2", "band 3", "band 4"]
    names = ("B02", "B03", "B04", "B08")
    raster = Raster(plain, Selection(bands=("b08",), band_names=names))
    assert (raster.band_names, raster.read().image[0, 0].tolist()) == (["B08"], [3])
    with pytest.raises(DataError, match=r"has no band 'swir'.*it has 4: blue, green, red, nir"):
        Raster(named, Selection(bands=("swir",)))
    with pytest.raises(DataError, match="has no band 5"):
        Raster(named, Selection(bands=(5,)))
    with pytest.raises(DataError, match=r"has 4 bands where data.band_names names 1"):
        Raster(plain, Selection(band_names=("a",)))


def test_indices_are_further_bands(write_raster):
    red, nir = np.uint16([[10, 0, 7]]), np.uint16([[30, 0, 0]])
    names = ("B04", "B08")
    path = write_raster("a.tif", np.stack([red, nir]), names=names, nodata=7)
    raster = Raster(path, Selection(bands=("B04",), indices=("ndvi",)))
    read = raster.read()
    assert raster.band_names == ["B04", "ndvi"]
    np.testing.assert_allclose(read.image[0, :, 1], [0.5, 0, 0])
    np.testing.assert_array_equal(read.missing[0], [[0, 0], [0, 0], [1, 1]])
    with pytest.raises(DataError, match="ndwi needs a band named green or b03"):
        Raster(path, Selection(indices=("ndwi",)))


def test_indices_of_8_bits_do_not_overflow(write_raster):
    path = write_raster("a.tif", np.uint8([[[200]], [[250]]]), names=["red", "nir"])
    raster = Raster(path, Selection(indices=("ndvi",)))
    assert raster.dtype == "float32"
    np.testing.assert_allclose(raster.read().image[0, 0], [200, 250, 50 / 450], rtol=1e-6)


@pytest.mark.parametrize("index", INDICES)
def test_every_index_is_between_minus_one_and_one(index):
    random = np.random.default_rng(0)
    a, b = random.integers(0, 3, (2, 40), np.uint16)
    found = normalized_difference(a, b)
    assert np.isfinite(found).all()
    assert (np.abs(found) <= 1).all()
    assert set(INDICES[index]) <= {"blue", "green", "red", "nir", "swir1", "swir2"}


def test_a_palette_is_refused(write_raster):
    path = write_raster("a.tif", np.zeros((1, 2, 2), np.uint8), photometric="palette")
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {0: (255, 0, 0, 255)})
    with pytest.raises(DataError, match="numbers of colours in a palette"):
        Raster(path)


def test_files_that_are_no_rasters(tmp_path):
    (tmp_path / "empty.tif").touch()
    (tmp_path / "text.tif").write_text("nothing")
    for name, why in (
        ("empty.tif", "is empty"),
        ("text.tif", "cannot be opened"),
        ("no.tif", "No such"),
    ):
        with pytest.raises(DataError, match=why) as error:
            Raster(tmp_path / name)
        assert str(error.value).startswith(str(tmp_path / name))
        assert "\n" not in str(error.value)


def test_statistics_lose_no_digits_far_from_zero():
    random = np.random.default_rng(0)
    values = 1e6 + random.normal(size=(300, 200, 2)).astype(np.float32)
    found = Moments(2)
    for start in range(0, 300, 7):
        found.add(Read(values[start : start + 7], None))
    exact = values.astype(np.float64).reshape(-1, 2)
    np.testing.assert_allclose(found.mean, exact.mean(0), rtol=1e-14)
    np.testing.assert_allclose(found.std, exact.std(0), rtol=1e-9)


def test_the_range_of_other_types_is_never_that_of_8_bits(write_raster):
    path = write_raster("a.tif", np.float32([[[0, 255]]]))
    low, high = value_range_of("float32", moments(path))
    assert (low, round(high, 6)) == (0, 255)
    assert (low, high) != (0.0, 255.0)
    assert value_range_of("uint8", moments(path)) == (0, 255)


def test_handles_are_few_kept_and_reopened_when_a_file_is_replaced(write_raster, monkeypatch):
    monkeypatch.setattr(handles, "HANDLES", 2)
    paths = [write_raster(f"{n}.tif", np.full((1, 2, 2), n, np.uint8)) for n in range(4)]
    for path in paths:
        Raster(path).read()
    assert len(handles._POOL.opened) <= 2
    first = handles.handle(paths[3])
    assert handles.handle(paths[3]) is first
    paths[3].unlink()
    write_raster("3.tif", np.full((1, 2, 3), 9, np.uint8))
    assert Raster(paths[3]).read().image.shape == (2, 3, 1)


def _in_child(raster, queue):
    process = handles.handle(raster.path)
    queue.put((int(raster.read().image.sum()), id(process)))


def test_handles_are_not_shared_over_a_fork(write_raster):
    raster = Raster(write_raster("a.tif", np.ones((1, 64, 64), np.uint8), compress="deflate"))
    assert raster.read().image.sum() == 64 * 64
    parent = handles.handle(raster.path)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(raster, queue))
    child.start()
    total, where = queue.get(timeout=30)
    child.join()
    assert total == 64 * 64
    assert where != id(parent)
