import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from lit_imgproc.data.coco.mask_images import MaskImages
from lit_imgproc.data.coco.patterns import find_matches
from lit_imgproc.data.decode import IMAGE_SUFFIXES
from lit_imgproc.data.errors import DataError
from lit_imgproc.errors import UserError
from lit_imgproc.recipes.registry import resolve

NAMES = ["ground", "disc", "square"]


@pytest.fixture
def toy(tmp_path):
    MaskImages.write_toy(tmp_path)
    return tmp_path


def make(root, **settings):
    defaults = {"class_names": NAMES, "num_workers": 0, "resize": "none"}
    return MaskImages(root=str(root), **(defaults | settings))


def write(root, image, mask, values, size=(20, 30)):
    """An image and its mask, of which each half has a value."""
    for name in (image, mask):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((*size, 3), len(image), np.uint8)
    cv2.imwrite(str(root / image), pixels)
    content = np.full(size, values[0], np.uint8)
    content[:, size[1] // 2 :] = values[-1]
    cv2.imwrite(str(root / mask), content)


def test_masks_are_those_of_the_files_and_names_as_given(toy):
    data = make(toy)
    assert data.splits() == {"train": 16, "val": 6, "test": 6}
    facts = data.facts()
    assert (facts["class_names"], facts["num_classes"]) == (NAMES, 3)
    counts = np.zeros(256, np.int64)
    for index, name in enumerate(data.dataset("train").names):
        stem = name.split("/")[-1].removesuffix(".jpg")
        stored = cv2.imread(str(toy / f"masks/train/{stem}.png"), cv2.IMREAD_UNCHANGED)
        sample = data.dataset("train")[index]
        assert sample["mask"].dtype == torch.int64
        assert (sample["mask"].numpy() == stored).all()
        assert sample["geometry"]["size"] == list(stored.shape)
        counts += np.bincount(stored.ravel(), minlength=256)
    assert counts[255] > 0
    assert facts["class_counts"] == counts[:3].tolist()
    assert "instances" not in sample
    assert resolve("datamodule", "mask_images") is MaskImages


def test_masks_take_the_nearest_pixel(toy):
    whole, half = make(toy), make(toy, resize="fit", image_size=32)
    first, second = whole.dataset("val")[0]["mask"], half.dataset("val")[0]["mask"]
    assert second.shape == (32, 48)
    assert (second == first[::2, ::2]).all()
    moved = make(toy, augment={"train": "dihedral"}).dataset("train")[0, 3]
    plain = whole.dataset("train")[0]
    assert sorted(moved["mask"].ravel()) == sorted(plain["mask"].ravel())


LAYOUTS = {
    "cityscapes": (
        "leftImg8bit/{split}/*/*_leftImg8bit.png",
        "gtFine/{split}/*/*_gtFine_labelIds.png",
        "leftImg8bit/{}/ulm/ulm_{:06}_leftImg8bit.png",
        "gtFine/{}/ulm/ulm_{:06}_gtFine_labelIds.png",
        ("train", "val"),
    ),
    "loveda": (
        "{split}/*/images_png/*.png",
        "{split}/*/masks_png/*.png",
        "{}/Rural/images_png/{}.png",
        "{}/Rural/masks_png/{}.png",
        ("Train", "Val"),
    ),
    "ade20k": (
        "images/{split}/*.jpg",
        "annotations/{split}/*.png",
        "images/{}/ADE_{:08}.jpg",
        "annotations/{}/ADE_{:08}.png",
        ("training", "validation"),
    ),
    "deep": (
        "images/{split}/**/*.jpg",
        "masks/{split}/**/*.png",
        "images/{}/a/b{}/c.jpg",
        "masks/{}/a/b{}/c.png",
        ("train", "valid"),
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_is_a_pair_of_patterns(tmp_path, layout):
    images, masks, image, mask, words = LAYOUTS[layout]
    for word in words:
        for number in range(4):
            write(tmp_path, image.format(word, number), mask.format(word, number), (1, 2))
    (tmp_path / "gtFine/train/ulm").mkdir(parents=True, exist_ok=True)
    (tmp_path / "gtFine/train/ulm/ulm_000000_gtFine_color.png").write_bytes(b"")
    data = make(tmp_path, images=images, masks=masks)
    assert data.splits() == {"train": 4, "val": 4, "test": 4}
    assert data.dataset("test") is data.dataset("val")
    assert data.dataset("val").names[2] == image.format(words[1], 2)


def test_two_folders_are_split_by_an_index_or_by_names(tmp_path):
    for number in range(20):
        write(tmp_path, f"images/{number}.jpg", f"masks/{number}.png", (0, 1, 2))
    flat = {"images": "images/*", "masks": "masks/*"}
    data = make(tmp_path, **flat)
    assert data.splits() == {"train": 14, "val": 3, "test": 3}
    assert data.splits() == make(tmp_path, seed=4, **flat).splits()
    lines = [f"{number},{'val' if number < 5 else 'train'}" for number in range(20)]
    (tmp_path / "index.csv").write_text("\n".join(["id,split", *lines]))
    data = make(tmp_path, index="index.csv", **flat)
    assert data.splits() == {"train": 15, "val": 5, "test": 5}
    assert sorted(data.dataset("val").names) == [f"images/{number}.jpg" for number in range(5)]
    (tmp_path / "index.csv").write_text("\n".join(["id,split", *lines[1:]]))
    with pytest.raises(DataError, match=r"0: is not listed in .*index\.csv"):
        make(tmp_path, index="index.csv", **flat).prepare()


def test_values_become_classes(tmp_path):
    for split in ("train", "val"):
        for number in range(3):
            write(tmp_path, f"images/{split}/{number}.png", f"masks/{split}/{number}.png", (7, 11))

    def mask(**settings):
        return set(make(tmp_path, **settings).dataset("train")[0]["mask"].unique().tolist())

    assert mask(values=[7, 8, 11]) == {0, 2}
    assert mask(values=[[5, 11], 8, 7]) == {0, 2}
    assert mask(values=[8, 9, 7], ignore=[11]) == {2, 255}
    assert mask(values=[8, 9, 7], ignore="others") == {2, 255}
    assert mask(class_names=list("abcde"), values=7) == {0, 4}
    with pytest.raises(DataError) as caught:
        make(tmp_path, values=[7, 8, 9]).prepare()
    said = str(caught.value).splitlines()
    assert len(said) == 6
    assert said[0] == (
        f"{tmp_path}/masks/train/0.png: has pixels of the values [11], which are of no class "
        "(data.values, data.ignore)."
    )
    with pytest.raises(DataError, match="no pixel of the train masks is of a class"):
        make(tmp_path, ignore="others").prepare()
    ours, theirs = (
        make(tmp_path, values=values).fingerprint() for values in ([7, 8, 11], [11, 8, 7])
    )
    assert ours != theirs


def test_palettes_are_read_as_indices_and_255_is_ignored(tmp_path):
    for number in range(8):
        write(tmp_path, f"images/{number}.jpg", f"masks/{number}.png", (0, 1))
        values = np.array([[0, 1, 2], [2, 255, 0]], np.uint8).repeat(10, 0).repeat(10, 1)
        image = Image.fromarray(values, "P")
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
        image.save(tmp_path / f"masks/{number}.png")
    sample = make(tmp_path, images="images/*", masks="masks/*").dataset("train")[0]
    assert (sample["mask"].numpy() == values).all()


def test_what_is_wrong_is_named_and_can_be_skipped(toy):
    stored = cv2.imread(str(toy / "masks/train/train_000.png"), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(toy / "masks/train/train_000.png"), stored[:-1])
    (toy / "masks/train/train_001.png").unlink()
    (toy / "images/train/train_002.jpg").unlink()
    cv2.imwrite(str(toy / "masks/train/train_004.png"), np.zeros((96, 64, 3), np.uint8))
    (toy / "masks/val/val_000.png").write_bytes(b"")
    twin = (toy / "masks/val/val_001.png").read_bytes()
    (toy / "masks/val/val_001.tif").write_bytes(twin)
    with pytest.raises(DataError) as caught:
        make(toy).prepare()
    said = sorted(line.removeprefix(f"{toy}/") for line in str(caught.value).splitlines())
    assert [line.partition(":")[0] for line in said] == [
        "images/train/train_001.jpg",
        "images/val/val_001.jpg",
        "masks/train/train_000.png",
        "masks/train/train_002.png",
        "masks/train/train_004.png",
        "masks/val/val_000.png",
    ]
    assert "there are 1 images images/{split}/* and 0 masks masks/{split}/* of train_001" in said[0]
    assert "1 images images/{split}/* and 2 masks" in said[1]
    assert "is 63x96, and its image 64x96" in said[2]
    assert "0 images" in said[3]
    assert "is an image of kind RGB" in said[4]
    skipping = make(toy, on_error="skip")
    assert skipping.splits() == {"train": 12, "val": 4, "test": 6}
    assert len(skipping.left_out) == 6


def test_test_images_whose_masks_are_kept_back_are_not_used(toy):
    for path in (toy / "masks/test").iterdir():
        path.unlink()
    data = make(toy)
    assert data.splits() == {"train": 16, "val": 6, "test": 6}
    assert data.dataset("test") is data.dataset("val")


def test_a_folder_without_what_is_asked_for_is_told(toy):
    with pytest.raises(DataError, match="no such folder"):
        make(toy / "none").prepare()
    with pytest.raises(DataError, match=r"holds no training images pictures/\{split\}/\*"):
        make(toy, images="pictures/{split}/*").prepare()
    with pytest.raises(DataError, match=r"holds no masks labels/\{split\}/\*"):
        make(toy, masks="labels/{split}/*").prepare()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"images": "a/{split}.png"}, "has no wildcard"),
        ({"images": "a/{split}/*/*.png"}, "need as many wildcards each"),
        ({"masks": "masks/*"}, "both or none"),
        ({"index": "index.csv"}, "give one of them"),
        ({"values": [1, 2]}, "has 2 entries for 3 data.class_names"),
        ({"values": [1, 2, [3, 1]]}, r"have \[1\] more than once"),
        ({"ignore": [2]}, r"have \[2\] more than once"),
    ],
)
def test_arguments_that_do_not_fit_are_told(settings, said):
    with pytest.raises(UserError, match=said):
        make("nowhere", **settings)


def test_patterns_match_whole_names(tmp_path):
    for name in (
        "a.png",
        "train_a.png",
        "train/b.png",
        "train/x/c.PNG",
        "Test/d.jpg",
        "other/e.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def found(pattern):
        return find_matches(tmp_path, pattern, IMAGE_SUFFIXES)

    assert found("*") == {"train": {"a": ["a.png"], "train_a": ["train_a.png"]}}
    assert found("{split}/*") == {"train": {"b": ["train/b.png"]}, "test": {"d": ["Test/d.jpg"]}}
    assert found("{split}/**/*") == {
        "train": {"b": ["train/b.png"], "x/c": ["train/x/c.PNG"]},
        "test": {"d": ["Test/d.jpg"]},
    }
    assert found("{split}_*.png") == {"train": {"a": ["train_a.png"]}}
    assert found("{split}/*/{split}_*") == {}
