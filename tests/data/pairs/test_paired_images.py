import json
import shutil

import cv2
import numpy as np
import pytest
import torch

from lit_imgproc.data.errors import DataError
from lit_imgproc.data.pairs.paired import PairedImages
from lit_imgproc.errors import UserError
from lit_imgproc.geometry import geometry_of
from lit_imgproc.recipes.registry import resolve

AERIAL = {
    "source": "masks/*.png",
    "target": "images/*.jpg",
    "source_palette": "classes.json",
    "splits": {"train": ["t[1235]_*"], "val": ["t4_*"], "test": ["t6_*"]},
}
COLOURS = {(60, 110, 50), (210, 190, 90), (50, 100, 190)}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("pairs")
    PairedImages.write_toy(root)
    return root


@pytest.fixture
def toy(written, tmp_path):
    return shutil.copytree(written, tmp_path / "toy")


def make(root, **settings):
    return PairedImages(root=str(root), **({"image_size": 64, "num_workers": 0} | settings))


def rgb(path):
    return cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)


def colours(picture):
    """Of a tensor ``[3,H,W]``."""
    return {tuple(one) for one in picture.flatten(1).T.tolist()}


def write_twins(root, **sizes):
    """Pictures of which every pixel says where it is, for two folders A and B."""
    for folder in ("A", "B"):
        for split, count in sizes.items():
            (root / folder / split).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                rows, columns = np.mgrid[:90, :120].astype(np.uint8)
                picture = np.stack([np.full_like(rows, number), columns, rows], 2)
                cv2.imwrite(str(root / folder / split / f"{number}.png"), picture)


def test_the_halves_of_the_authors_files_are_source_and_target(written):
    left, right = make(written), make(written, source="right")
    assert left.splits() == {"train": 16, "val": 4, "test": 4}
    stored = rgb(written / "train/1.jpg")
    first, second = left.dataset("train")[0], right.dataset("train")[0]
    assert first["image"].dtype == torch.uint8
    assert (first["image"].numpy() == stored[:, :64].transpose(2, 0, 1)).all()
    assert (first["target"].numpy() == stored[:, 64:].transpose(2, 0, 1)).all()
    assert (second["image"] == first["target"]).all()
    assert (second["target"] == first["image"]).all()
    assert left.dataset("train").size(0) == (64, 64)
    assert first["id"] == "train/1.jpg"
    assert first["geometry"] == geometry_of(str(written / "train/1.jpg"), (64, 64), (64, 64))
    assert resolve("datamodule", "paired_images") is PairedImages


def test_facts_are_those_that_networks_from_minus_one_to_one_need(written):
    assert make(written, in_channels=1).facts() == {
        "class_names": [],
        "in_channels": 1,
        "out_channels": 3,
        "mean": [0.5],
        "std": [0.5],
        "value_range": [0.0, 255.0],
        "image_size": [64, 64],
    }
    sample = make(written, in_channels=1).dataset("val")[0]
    assert (sample["image"].shape, sample["target"].shape) == ((1, 64, 64), (3, 64, 64))
    assert make(written, source="erased").input_spec().channels == 4


@pytest.mark.parametrize(
    "settings",
    [
        {"load_size": 72, "augment": {"train": "flip"}},
        {"resize": "crop", "load_size": 80, "augment": {"train": "dihedral"}},
        {"resize": "none", "augment": {"train": "crop_flip"}},
        {"augment": {"train": "random_resized_crop"}},
        {"augment": {"train": [{"name": "Affine", "rotate": (-30, 30), "p": 1.0}]}},
    ],
)
def test_both_pictures_are_moved_alike(tmp_path, settings):
    write_twins(tmp_path, train=2, val=2)
    data = make(tmp_path, source="A/{split}/*", target="B/{split}/*", **settings)
    train = data.dataset("train")
    samples = [train[0, seed] for seed in range(6)]
    for sample in samples:
        assert sample["image"].shape == (3, 64, 64)
        assert (sample["image"] == sample["target"]).all()
    assert len({sample["image"].numpy().tobytes() for sample in samples}) > 3
    again = train[0, 3]
    assert (again["image"] == samples[3]["image"]).all()


def test_crops_are_anywhere_in_training_and_in_the_middle_in_evaluation(tmp_path):
    write_twins(tmp_path, train=2, val=2)
    data = make(tmp_path, source="A/{split}/*", target="B/{split}/*", resize="crop", image_size=90)
    columns = [int(data.dataset("train")[0, seed]["image"][1, 0, 0]) for seed in range(60)]
    assert {min(columns), max(columns)} <= {*range(5), *range(26, 31)}
    assert int(data.dataset("val")[0]["image"][1, 0, 0]) == 15


def test_large_pictures_are_seen_as_they_are_in_tiles_that_cover_them(toy):
    data = make(toy, resize="none", **AERIAL)
    val = data.dataset("val")
    stored = rgb(toy / "images/t4_001.jpg")
    covered = np.zeros(stored.shape[:2], bool)
    for index, name in enumerate(val.names):
        sample = val[index]
        row, column, height, width = sample["geometry"]["window"]
        if name.startswith("masks/t4_001"):
            assert name == f"masks/t4_001.png@{row},{column}"
            part = stored[row : row + height, column : column + width]
            assert (sample["target"].numpy() == part.transpose(2, 0, 1)).all()
            covered[row : row + height, column : column + width] = True
        assert (height, width) == (64, 64)
        assert sample["geometry"]["size"] == [64, 64]
    assert covered.all()
    assert set(val.groups) == {"masks/t4_001.png", "masks/t4_002.png"}
    # An epoch has as many crops as there are tiles, from anywhere.
    order = list(data.training_order(0))
    assert len(order) == data.splits()["train"]
    with pytest.raises(DataError, match=r"smaller than data.image_size=200: lower that"):
        make(toy, resize="none", image_size=200, **AERIAL).prepare()
    with pytest.raises(DataError, match=r"4_001.png: is a picture of .* smaller than"):
        list(make(toy, resize="none", image_size=200, **AERIAL).parts(toy / "masks/t4_001.png"))


def test_class_numbers_are_painted_and_never_mixed(toy):
    augment = {"train": [{"name": "Affine", "rotate": (-45, 45), "p": 1.0}]}
    data = make(toy, load_size=80, augment=augment, **AERIAL)
    for sample in [data.dataset("train")[0, seed] for seed in range(5)] + [data.dataset("val")[0]]:
        assert colours(sample["image"]) <= COLOURS
        assert len(colours(sample["target"])) > 100
    whole = make(toy, resize="none", **AERIAL).dataset("val")[0]["image"].numpy()
    numbers = cv2.imread(str(toy / "masks/t4_001.png"), cv2.IMREAD_UNCHANGED)[:64, :64]
    table = [(60, 110, 50), (210, 190, 90), (50, 100, 190)]
    assert (whole.transpose(1, 2, 0) == np.array(table)[numbers]).all()
    back = AERIAL | {"source": "images/*.jpg", "target": "masks/*.png", "source_palette": None}
    target = make(toy, target_palette=["#000000", "#FFFFFF", "#ff0000"], **back)
    assert colours(target.dataset("val")[0]["target"]) <= {(0, 0, 0), (255, 255, 255), (255, 0, 0)}


def test_numbers_without_a_colour_are_named(toy):
    with pytest.raises(DataError) as caught:
        make(toy, **(AERIAL | {"source_palette": ["#000000", "#FFFFFF"]})).prepare()
    said = str(caught.value).splitlines()
    assert len(said) > 5
    assert said[0].endswith(
        "has pixels of the values [2], and data.source_palette has 2 colours, of 0 to 1."
    )
    with pytest.raises(DataError, match="a list of colours #RRGGBB is needed"):
        make(toy, **(AERIAL | {"source_palette": ["black"]})).prepare()
    with pytest.raises(DataError, match=r"none\.json: cannot be read"):
        make(toy, **(AERIAL | {"source_palette": "none.json"})).prepare()
    by_name = {"ground": "#3C6E32", "field": "#D2BE5A", "pond": "#3264BE"}
    (toy / "by_name.json").write_text(json.dumps(by_name))
    named = make(toy, **(AERIAL | {"source_palette": "by_name.json"})).dataset("val")[0]
    assert (named["image"] == make(toy, **AERIAL).dataset("val")[0]["image"]).all()


def test_a_source_is_made_of_its_target(written):
    def first(source, **settings):
        data = make(written, source=source, target="images/*", **settings)
        return data.dataset("train")[0]

    sample = first("edges", in_channels=1)
    assert set(sample["image"].unique().tolist()) == {0, 255}
    assert 0.01 < (sample["image"] == 0).float().mean() < 0.5
    sample = first("grey")
    expected = cv2.cvtColor(sample["target"].numpy().transpose(1, 2, 0), cv2.COLOR_RGB2GRAY)
    assert (sample["image"].numpy() == expected).all()
    sample = first("erased")
    missing = sample["image"][3] == 255
    assert set(sample["image"][3].unique().tolist()) == {0, 255}
    assert (sample["image"][:3, ~missing] == sample["target"][:, ~missing]).all()
    assert (sample["image"][:3, missing] == 128).all()
    assert 1 / 16 * 0.9 < missing.float().mean() < 1 / 4 * 1.1


def test_holes_are_anew_in_training_and_fixed_in_evaluation(written):
    data = make(written, source="erased")
    train, val = data.dataset("train"), data.dataset("val")
    holes = {train[0, seed]["image"][3].numpy().tobytes() for seed in range(8)}
    assert len(holes) == 8
    other = make(written, source="erased", seed=5, batch_size=2).dataset("val")
    for index in range(4):
        assert (val[index]["image"] == other[index]["image"]).all()
    assert len({val[index]["image"][3].numpy().tobytes() for index in range(4)}) == 4


def test_a_file_alone_is_seen_as_in_evaluation(toy):
    for settings in (
        AERIAL,
        AERIAL | {"resize": "none"},
        {"source": "erased", "target": "images/*"},
        {"source": "edges", "target": "images/*", "resize": "none"},
    ):
        data = make(toy, **settings)
        val, path = data.dataset("val"), None
        for index in range(len(val)):
            sample = val[index]
            if path != sample["geometry"]["path"]:
                path = sample["geometry"]["path"]
                parts = data.parts(toy / val.names[index].partition("@")[0])
            image, geometry = next(parts)
            assert geometry == sample["geometry"]
            assert (data.input_spec()(image).transpose(2, 0, 1) == sample["image"].numpy()).all()
        assert data.open(toy / val.names[0].partition("@")[0]).ndim == 3


def test_what_is_transparent_in_a_file_is_what_is_missing(written, tmp_path):
    picture = np.full((64, 64, 4), 200, np.uint8)
    picture[10:20, 30:50, 3] = 0
    cv2.imwrite(str(tmp_path / "torn.png"), picture)
    ((image, geometry),) = make(written, source="erased").parts(tmp_path / "torn.png")
    assert geometry["size"] == [64, 64]
    assert ((image[:, :, 3] == 255) == (picture[:, :, 3] == 0)).all()
    assert (image[10:20, 30:50, :3] == 128).all()
    assert (image[:10, :, :3] == 200).all()


def test_splits_are_given_by_folders_patterns_or_an_index_or_held_out(toy, caplog):
    flat = {"source": "masks/*", "target": "images/*", "source_palette": "classes.json"}
    held = make(toy, **flat)
    assert held.splits() == {"train": 8, "val": 2, "test": 2}
    assert held.dataset("test").names == make(toy, seed=3, **flat).dataset("test").names
    some = make(toy, splits={"train": ["t1_*"], "val": ["t[23]_*"]}, **flat)
    assert some.splits() == {"train": 2, "val": 4, "test": 4}
    assert some.dataset("test") is some.dataset("val")
    assert "6 of 12 files are of no split (data.splits): not used" in caplog.text
    with pytest.raises(DataError, match="t2_001: is of train and of val"):
        make(toy, splits={"train": ["t[12]_*"], "val": ["t2_*"]}, **flat).prepare()
    lines = [f"t{t}_00{n},{'val' if t == 2 else 'train'}" for t in range(1, 7) for n in (1, 2)]
    (toy / "index.csv").write_text("\n".join(["id,split", *lines]))
    assert make(toy, index="index.csv", **flat).splits() == {"train": 10, "val": 2, "test": 2}
    (toy / "val").rename(toy / "other")
    assert make(toy).splits() == {"train": 14, "val": 2, "test": 4}


def test_what_is_wrong_is_named_at_once_and_can_be_skipped(toy):
    (toy / "images/t1_001.jpg").write_bytes((toy / "images/t1_001.jpg").read_bytes()[:3000])
    cv2.imwrite(str(toy / "images/t1_002.jpg"), np.zeros((70, 80, 3), np.uint8))
    (toy / "masks/t2_001.png").unlink()
    deep = cv2.imread(str(toy / "masks/t2_002.png"), cv2.IMREAD_UNCHANGED).astype(np.uint16)
    cv2.imwrite(str(toy / "masks/t2_002.png"), deep)
    broken = bytearray((toy / "masks/t3_001.png").read_bytes())
    broken[60] ^= 255
    (toy / "masks/t3_001.png").write_bytes(broken)
    with pytest.raises(DataError) as caught:
        make(toy, **AERIAL).prepare()
    said = sorted(line.removeprefix(f"{toy}/") for line in str(caught.value).splitlines())
    assert len(said) == 5
    assert said[0].startswith("images/t1_001.jpg: the file is cut short")
    assert said[1].startswith("images/t2_001.jpg: there are 0 sources and 1 targets of t2_001")
    assert said[2].startswith("masks/t1_002.png: is ")
    assert said[2].endswith("and its target images/t1_002.jpg 70x80.")
    assert "masks/t2_002.png: has 16 bits a channel where 8 bits" in said[3]
    assert said[4].startswith("masks/t3_001.png: is no label image that can be read")
    skipping = make(toy, on_error="skip", **AERIAL)
    assert skipping.splits() == {"train": 3, "val": 2, "test": 2}
    assert len(skipping.left_out) == 5


def test_the_fingerprint_is_of_all_files_and_colours_and_nothing_else(toy, written):
    same = make(written, **AERIAL)
    first = make(toy, image_size=32, augment={"train": "flip"}, **AERIAL).fingerprint()
    assert first == same.fingerprint()
    told = json.loads((toy / "classes.json").read_text())
    told["original_mask_rgb"]["pond"] = "#000000"
    (toy / "classes.json").write_text(json.dumps(told))
    assert make(toy, **AERIAL).fingerprint() != first
    shutil.copy(written / "classes.json", toy / "classes.json")
    shutil.copy(toy / "images/t1_001.jpg", toy / "images/t1_002.jpg")
    shutil.copy(toy / "masks/t1_001.png", toy / "masks/t1_002.png")
    assert make(toy, **AERIAL).fingerprint() != first


def test_batches_do_not_depend_on_the_number_of_workers(written):
    def batches(workers):
        data = make(
            written, load_size=72, augment={"train": "flip"}, batch_size=5, num_workers=workers
        )
        return list(data.train_dataloader())

    alone, helped = batches(0), batches(1)
    assert [len(batch["id"]) for batch in alone] == [5, 5, 5]
    for one, other in zip(alone, helped, strict=True):
        assert one["image"].shape[1:] == (3, 64, 64)
        assert one["id"] == other["id"]
        assert (one["image"] == other["image"]).all()
        assert (one["target"] == other["target"]).all()
        assert len(one["geometry"]) == len(one["id"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"source": "lft"}, "neither one of left, right, edges, erased, grey nor a pattern"),
        ({"target": "a.png"}, r"data.target=a.png has no wildcard"),
        ({"source": "A/*"}, "need as many wildcards each"),
        ({"source": "A/*/*", "target": "B/*"}, "need as many wildcards each"),
        ({"source_palette": ["#000000"]}, "with data.source=left there are none"),
        ({"index": "index.csv"}, "both say of which split a file is"),
        ({"target": "*", "splits": {"train": ["a"]}}, "patterns for train and val are needed"),
        ({"target": "*", "val_fraction": 0.5, "test_fraction": 0.5}, "leave no training images"),
        ({"load_size": 32}, "data.load_size=32 is less than data.image_size=64"),
        ({"load_size": 72, "resize": "none"}, "data.load_size scales, which data.resize=none"),
        ({"augment": {"train": "strong"}}, "would change colours"),
        (
            {"augment": {"train": [{"name": "OneOf", "transforms": [{"name": "Solarize"}]}]}},
            "data.augment.train: Solarize would change colours",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_told(settings, said):
    with pytest.raises(UserError, match=said):
        make("nowhere", **settings)


def test_folders_without_what_is_asked_for_are_told(toy):
    with pytest.raises(DataError, match="no such folder"):
        make(toy / "none").prepare()
    with pytest.raises(DataError, match=r"holds no training images \{split\}/x_\* \(data.target\)"):
        make(toy, target="{split}/x_*").prepare()
    with pytest.raises(DataError, match=r"holds no images sketches/\* \(data.source\)"):
        make(toy, source="sketches/*", target="images/*").prepare()
    (toy / "other").mkdir()
    cv2.imwrite(str(toy / "other/x.png"), np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(DataError, match="there are 0 sources and 1 targets of x"):
        make(toy, source="masks/*", target="other/*").prepare()


def test_dubai_is_maps_and_photographs(shared_data):
    data = make(shared_data / "dubai_aerial", image_size=256, resize="crop", **AERIAL)
    assert data.splits() == {"train": 36, "val": 9, "test": 9}
    sample = data.dataset("test")[0]
    table = json.loads((shared_data / "dubai_aerial/classes.json").read_text())
    known = {tuple(bytes.fromhex(one[1:])) for one in table["original_mask_rgb"].values()}
    assert colours(sample["image"]) <= known
    assert sample["target"].shape == (3, 256, 256)
