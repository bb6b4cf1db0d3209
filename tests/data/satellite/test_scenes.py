import cv2
import numpy as np
import pytest

from lit_imgproc.data.errors import DataError
from lit_imgproc.data.satellite.eurosat import EuroSAT
from lit_imgproc.data.satellite.scenes import SceneFolder

pytest.importorskip("rasterio")


@pytest.fixture
def scenes(tmp_path, write_raster):
    """Two classes of 12 float images with two bands each."""
    random = np.random.default_rng(0)
    for name in ("dry", "wet"):
        for number in range(12):
            bands = random.normal(5, 2, (2, 9, 9)).astype(np.float32)
            write_raster(f"{name}/{number}.tif", bands, names=["red", "nir"])
    return tmp_path


def problems(data):
    with pytest.raises(DataError) as error:
        data.prepare()
    return str(error.value).splitlines()


def test_any_bands_keep_their_values(scenes):
    data = SceneFolder(root=str(scenes), indices=["ndvi"])
    facts = data.facts()
    assert (facts["in_channels"], facts["image_size"]) == (3, [9, 9])
    train = data.dataset("train")
    pixels = np.stack([train[i]["image"].numpy() for i in range(len(train))]).astype(np.float64)
    np.testing.assert_allclose(facts["mean"], pixels.mean((0, 2, 3)), rtol=1e-9)
    np.testing.assert_allclose(facts["std"], pixels.std((0, 2, 3)), rtol=1e-9)
    assert facts["value_range"] == [pixels.min(), pixels.max()]
    assert train.size(0) == (9, 9)


def test_pictures_of_8_bits_are_in_0_to_1(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(12):
            suffix = ".png" if number % 2 else ".jpg"
            pixels = np.full((8, 8, 3), (0, 51, 255), np.uint8)
            cv2.imwrite(str(tmp_path / name / f"{number}{suffix}"), pixels)
    data = SceneFolder(root=str(tmp_path), image_size=4)
    facts = data.facts()
    np.testing.assert_allclose(facts["mean"], [1, 0.2, 0], atol=0.01)
    assert facts["value_range"] == [0, 255]
    assert facts["band_names"] == ["red", "green", "blue"]
    sample = data.dataset("train")[0]
    assert sample["image"].shape == (3, 4, 4)
    assert sample["image"].dtype.is_floating_point is False
    assert data.dataset("train").size(0) == (8, 8)


def test_every_damaged_image_is_named(scenes, write_raster):
    (scenes / "dry/0.tif").write_bytes((scenes / "dry/0.tif").read_bytes()[:300])
    (scenes / "wet/1.tif").write_bytes(b"")
    write_raster("wet/2.tif", np.zeros((3, 9, 9), np.float32))
    write_raster("dry/3.tif", np.zeros((2, 9, 9), np.uint8))
    found = problems(SceneFolder(root=str(scenes)))
    named = sorted(line.split(": ")[0].removeprefix(f"{scenes}/") for line in found)
    assert named == ["dry/0.tif", "dry/3.tif", "wet/1.tif", "wet/2.tif"]
    data = SceneFolder(root=str(scenes), on_error="skip")
    assert sum(data.splits().values()) == 20
    assert len(data.left_out) == 4
    for split in data.splits():
        for index in range(len(data.dataset(split))):
            assert np.isfinite(data.dataset(split)[index]["image"].numpy()).all()


def test_missing_values_do_not_count(tmp_path, write_raster):
    for name in ("a", "b"):
        for number in range(12):
            bands = np.float32([[[1, np.nan, np.inf, -9999], [3, 3, 1, 1]]])
            write_raster(f"{name}/{number}.tif", bands, nodata=-9999)
    data = SceneFolder(root=str(tmp_path))
    facts = data.facts()
    np.testing.assert_allclose([*facts["mean"], *facts["std"]], [1.8, np.sqrt(0.96)])
    assert facts["value_range"] == [1, 3]
    assert data.dataset("train")[0]["image"].tolist() == [[[1, 0, 0, 0], [3, 3, 1, 1]]]


def test_lists_of_splits(scenes):
    lists = {"train": "0 1 2 3", "val": "4", "test": "5 6"}
    for split, numbers in lists.items():
        for name in ("dry", "wet"):
            for number in numbers.split():
                target = scenes / name / f"{name}_{number}.tif"
                (scenes / name / f"{number}.tif").rename(target)
        lines = [f"{name}_{number}.jpg" for name in ("dry", "wet") for number in numbers.split()]
        (scenes / f"{split}.txt").write_text("\n".join(lines))
    names = {split: f"{split}.txt" for split in lists}
    data = SceneFolder(root=str(scenes), split_lists=names)
    assert data.splits() == {"train": 8, "val": 2, "test": 4}
    (scenes / "val.txt").write_text("dry_0.jpg\nnone.jpg\n")
    found = problems(SceneFolder(root=str(scenes), split_lists=names))
    assert "val.txt:1: dry_0 is in train.txt already" in found[0]
    assert "val.txt:2: there is no image none" in found[1]
    del names["val"]
    assert "has none for val" in problems(SceneFolder(root=str(scenes), split_lists=names))[0]


def test_an_image_that_is_far_too_large(scenes, write_raster):
    wide = np.zeros((1, 1, 1), np.uint8)
    path = write_raster("wet/0.tif", wide)
    path.unlink()
    from lit_imgproc.data.satellite.handles import open_quietly

    with open_quietly(path, "w", driver="GTiff", dtype="float32", count=2, width=40_000,
                      height=40_000, sparse_ok=True, tiled=True):  # fmt: skip
        pass
    (line,) = problems(SceneFolder(root=str(scenes)))
    assert "wet/0.tif: is too large for one image (40000x40000)" in line


def test_where_eurosat_is_to_be_had(tmp_path):
    (line,) = problems(EuroSAT(root=str(tmp_path)))
    assert line.startswith(f"{tmp_path}: EuroSAT is not there; download EuroSAT_MS.zip")
    assert "zenodo.org" in line
    EuroSAT.write_toy(tmp_path / "one")
    EuroSAT.write_toy(tmp_path / "two")
    assert "EuroSAT is there twice" in problems(EuroSAT(root=str(tmp_path)))[0]
