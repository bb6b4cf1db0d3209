import json

import numpy as np
import pytest

from lit_imgproc.data.errors import DataError
from lit_imgproc.data.satellite.masks import encode
from lit_imgproc.data.satellite.segmentation import RasterTiles

pytest.importorskip("rasterio")
CLASSES = ["a", "b", "c"]


@pytest.fixture
def put(write_raster):
    """Writes an image of 60x80 and its mask."""

    def put(number, bands=None, mask=None, *, image=None, labels=None):
        random = np.random.default_rng(number)
        bands = random.integers(1, 900, (2, 60, 80), np.uint16) if bands is None else bands
        mask = random.integers(0, 3, (1, 60, 80), np.uint8) if mask is None else mask
        where = {"origin": (1000 * number, 0)}
        write_raster(f"images/{number}.tif", bands, **where | {"nodata": 0} | (image or {}))
        write_raster(f"masks/{number}.tif", mask, **where | (labels or {}))

    return put


@pytest.fixture
def root(tmp_path, put):
    for number in range(6):
        put(number)
    return tmp_path


def tiles(root, **settings):
    settings = {"class_names": CLASSES, "tile_size": 32, "num_workers": 0} | settings
    return RasterTiles(root=str(root), **settings)


def problems(data):
    with pytest.raises(DataError) as error:
        data.prepare()
    return str(error.value).splitlines()


def test_in_evaluation_each_pixel_counts_once(root):
    data = tiles(root, overlap=11)
    for split in ("val", "test"):
        dataset = data.dataset(split)
        masks = [dataset[index]["mask"].numpy() for index in range(len(dataset))]
        assert sum((mask != 255).sum() for mask in masks) == 60 * 80
    assert sum(data.facts()["class_counts"]) == 4 * 60 * 80


def test_statistics_are_of_the_training_pixels(root):
    data = tiles(root, overlap=11)
    train = data.dataset("train")
    files = {train.sources[piece.source].raster for piece in train.pieces}
    pixels = np.concatenate([raster.read().image.reshape(-1, 2) for raster in files])
    np.testing.assert_allclose(data.facts()["mean"], pixels.mean(0, dtype=np.float64))
    np.testing.assert_allclose(data.facts()["std"], pixels.std(0, dtype=np.float64))
    assert data.facts()["value_range"] == [pixels.min(), pixels.max()]


def test_an_image_and_its_mask_move_together(tmp_path, put):
    for number in range(3):
        mask = np.random.default_rng(number).integers(0, 3, (1, 60, 80), np.uint8)
        put(number, (mask + 1).astype(np.uint16) * 100, mask)
    data = tiles(tmp_path, sampling="random", augment={"train": "dihedral"})
    train = data.dataset("train")
    seen = set()
    for seed in range(30):
        sample = train[0, seed]
        assert (sample["image"][0] == (sample["mask"] + 1) * 100).all()
        row, column, height, width = sample["geometry"]["window"]
        assert 0 <= row <= 60 - height
        assert 0 <= column <= 80 - width
        seen.add((row, column))
    assert len(seen) > 20
    assert sample["mask"].dtype.is_floating_point is False


def test_random_windows_stay_in_their_block(tmp_path, put):
    for number in range(2):
        bands = np.arange(1, 120 * 160 + 1, dtype=np.uint32).reshape(1, 120, 160)
        put(number, bands, np.zeros((1, 120, 160), np.uint8))
    data = tiles(tmp_path, tile_size=20, block=40, gap=6, sampling="random")
    owners = {}
    for split in ("train", "val", "test"):
        dataset = data.dataset(split)
        for index, piece in enumerate(dataset.pieces):
            for key in [index] + [(index, seed) for seed in range(8)] * (split == "train"):
                row, column, height, width = dataset[key]["geometry"]["window"]
                for point in ((row, column), (row + height - 1, column + width - 1)):
                    owner = owners.setdefault((piece.source, *point), split)
                    assert owner == split
    masks = {split: np.zeros((2, 120, 160), bool) for split in data.splits()}
    for (source, row, column), split in owners.items():
        masks[split][source, row, column] = True
    assert all(mask.any() for mask in masks.values())


def test_nodata_is_ignored_and_tiles_of_nothing_else_are_left_out(tmp_path, put):
    for number in range(3):
        bands = np.full((2, 64, 96), 7, np.uint16)
        bands[:, :, 20:] = 0
        put(number, bands, np.ones((1, 64, 96), np.uint8))
    data = tiles(tmp_path)
    assert data.splits() == {"train": 2, "val": 2, "test": 2}
    assert data.repaired["train tiles without data or labels left out"] == 4
    sample = data.dataset("val")[0]
    assert (sample["mask"][:, :20] == 1).all()
    assert (sample["mask"][:, 20:] == 255).all()
    assert data.facts()["mean"] == [7, 7]


def test_random_windows_look_for_data(tmp_path, put):
    for number in range(3):
        bands = np.zeros((1, 200, 200), np.uint16)
        bands[:, :40, :40] = 5
        put(number, bands, np.ones((1, 200, 200), np.uint8))
    train = tiles(tmp_path, sampling="random").dataset("train")
    assert all((train[0, seed]["image"] > 0).any() for seed in range(40))


def test_a_raster_smaller_than_a_tile_is_reflected_and_ignored_beyond(root):
    sample = tiles(root, tile_size=100).dataset("val")[0]
    assert sample["image"].shape == (2, 100, 100)
    assert (sample["image"] > 0).all()
    assert (sample["mask"][60:] == 255).all()
    assert (sample["mask"][:, 80:] == 255).all()
    assert (sample["mask"][:60, :80] < 3).all()


def test_splits_by_pattern(root):
    data = tiles(root, splits={"train": ["[012].tif"], "val": ["3.tif"], "test": ["4*"]})
    groups = {split: set(data.dataset(split).groups) for split in data.splits()}
    assert groups == {"train": {"0.tif", "1.tif", "2.tif"}, "val": {"3.tif"}, "test": {"4.tif"}}
    data = tiles(root, splits={"train": ["[012].tif"], "val": ["3.tif"]})
    assert data.dataset("test").names == data.dataset("val").names
    both = {"train": ["*"], "val": ["3.tif"]}
    assert "3.tif: is of train and of val" in problems(tiles(root, splits=both))[0]
    assert "for train and val are needed" in problems(tiles(root, splits={"train": ["*"]}))[0]
    assert "no val tiles" in problems(tiles(root, splits={"train": ["*"], "val": ["x"]}))[0]


def test_blocks_of_the_ground(root):
    data = tiles(root, block=400, block_unit="crs", tile_size=16)
    train, val, test = (set(data.dataset(split).groups) for split in ("train", "val", "test"))
    assert all(name.startswith("EPSG:32633:") for name in train | val | test)
    assert len(train | val | test) == len(train) + len(val) + len(test)


def test_settings_that_contradict_each_other(root):
    assert "give one of them" in problems(tiles(root, block=64, splits={"train": ["*"]}))[0]
    assert "is less than a tile and the gap, 32 + 9" in problems(tiles(root, block=40, gap=9))[0]
    assert "leave no training" in problems(tiles(root, val_fraction=0.5, test_fraction=0.5))[0]


def test_masks_that_do_not_belong_to_their_images(root, put):
    put(0, mask=np.zeros((1, 60, 79), np.uint8))
    put(1, labels={"crs": "EPSG:32634"})
    put(2, labels={"origin": (2010, 0)})
    put(3, mask=np.zeros((1, 60, 80), np.float32))
    put(4, mask=np.full((1, 60, 80), 9, np.uint8))
    (root / "masks/5.tif").unlink()
    found = problems(tiles(root, splits={"train": ["*"], "val": ["none"]}))
    expected = {
        "masks/0.tif": "is 60x79, and its image 60x80",
        "masks/1.tif": "another CRS",
        "masks/2.tif": "another transform",
        "masks/3.tif": "has 1 bands of float32",
        "images/5.tif": "has no mask",
    }
    assert len(found) == 5
    for line, (name, why) in zip(found, expected.items(), strict=True):
        assert line.startswith(f"{root}/{name}: ")
        assert why in line


def test_values_of_no_class_and_damaged_files_are_found_before_training(root, put):
    put(0, mask=np.full((1, 60, 80), 9, np.uint8))
    put(1, mask=np.full((1, 60, 80), -3, np.int16))
    for name in ("images/2.tif", "masks/3.tif"):
        path = root / name
        path.write_bytes(path.read_bytes()[:-3000])
    found = sorted(problems(tiles(root)))
    assert [line.removeprefix(f"{root}/")[:13] for line in found] == [
        "images/2.tif:",
        "masks/0.tif: ",
        "masks/1.tif: ",
        "masks/3.tif: ",
    ]
    assert "has the values [9], which are of no class" in found[1]
    assert "has the values [-3]" in found[2]
    assert "cut short" in found[0]


def test_what_cannot_be_used_is_skipped_and_told(root, put):
    put(0, mask=np.full((1, 60, 80), 9, np.uint8))
    (root / "masks/1.tif").unlink()
    put(2, bands=np.ones((3, 60, 80), np.uint16))
    splits = {"train": ["[0123].tif"], "val": ["4.tif"], "test": ["5.tif"]}
    data = tiles(root, on_error="skip", splits=splits)
    assert set(data.dataset("train").groups) == {"3.tif"}
    assert len(data.left_out) == 3


def test_nothing_to_read(tmp_path):
    assert "there is no such folder" in problems(tiles(tmp_path))[0]
    (tmp_path / "images").mkdir()
    assert "holds no images" in problems(tiles(tmp_path))[0]
    assert "give data.class_names" in problems(tiles(tmp_path, class_names=None))[0]
    (tmp_path / "classes.json").write_text("{}")
    assert "has no list of `classes`" in problems(tiles(tmp_path, class_names=None))[0]


def test_values_to_ignore():
    names, codes = encode(["none", "a", "b"], 0)
    assert names == ["a", "b"]
    assert codes[[0, 1, 2, 3, 255]].tolist() == [255, 0, 1, -1, 255]
    with pytest.raises(DataError, match="0 classes"):
        encode(["a"], 0)


def test_the_nodata_of_a_mask_is_ignored(root, put):
    put(0, mask=np.full((1, 60, 80), 77, np.int16), labels={"nodata": 77})
    splits = {"train": ["[0123].tif"], "val": ["4.tif"], "test": ["5.tif"]}
    data = tiles(root, splits=splits)
    data.prepare()
    assert data.repaired == {"train tiles without data or labels left out": 6}


def test_real_aerial_photographs(shared_data):
    splits = {"train": ["t[1235]_*"], "val": ["t4_*"], "test": ["t6_*"]}
    data = RasterTiles(
        root=str(shared_data / "dubai_aerial"), tile_size=512, splits=splits, num_workers=0
    )
    facts = data.facts()
    classes = json.loads((shared_data / "dubai_aerial/classes.json").read_text())["classes"]
    assert facts["class_names"] == classes[:5]
    assert facts["value_range"] == [0, 255]
    for split, groups in (("train", 36), ("val", 9), ("test", 9)):
        assert len(set(data.dataset(split).groups)) == groups
    sample = data.dataset("test")[0]
    assert set(sample["mask"].unique().tolist()) <= {0, 1, 2, 3, 4, 255}
    assert sample["image"].shape == (3, 512, 512)
