import csv

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from lit_imgproc.data.coco.label_images import LabelImages
from lit_imgproc.data.errors import DataError
from lit_imgproc.errors import UserError


def make(root, **settings):
    defaults = {"index": "index.csv", "num_workers": 0, "resize": "none"}
    return LabelImages(root=str(root), **(defaults | settings))


@pytest.fixture
def toy(tmp_path):
    LabelImages.write_toy(tmp_path)
    return tmp_path


def test_every_nucleus_is_an_instance(shared_data):
    root = shared_data / "nuclei"
    data = make(root, class_name="nucleus", augment={"train": "dihedral"})
    assert data.splits() == {"train": 227, "val": 32, "test": 64}
    with (root / "index.csv").open() as file:
        told = {f"images/{row['id']}.png": int(row["n_nuclei"]) for row in csv.DictReader(file)}
    for split, count in data.splits().items():
        dataset = data.dataset(split)
        for index in range(0, count, 5):
            numbers = cv2.imread(
                str(root / dataset.source.instances[index]), cv2.IMREAD_UNCHANGED
            )  # fmt: skip
            sample = dataset[index]
            assert len(sample["masks"]) == told[sample["id"]]
            for number, mask, box, area in zip(
                np.unique(numbers)[1:],
                sample["masks"].numpy(),
                sample["boxes"].int().tolist(),
                sample["area"].tolist(),
                strict=True,
            ):
                assert ((numbers == number) == mask).all()
                assert area == mask.sum()
                rows, columns = np.nonzero(mask)
                assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    turned = data.dataset("train")[0, 5]
    assert len(turned["masks"]) == len(data.dataset("train")[0]["masks"])
    assert turned["masks"].sum() == data.dataset("train")[0]["masks"].sum()


def test_semantic_masks_are_ones_where_objects_are(toy):
    sample = make(toy, target="semantic").dataset("train")[0]
    numbers = cv2.imread(str(toy / "labels/train_000.png"), cv2.IMREAD_UNCHANGED)
    assert (sample["mask"].numpy() == (numbers > 0)).all()
    assert make(toy, target="semantic", class_name="cell").facts()["class_names"] == [
        "background",
        "cell",
    ]


def test_an_image_without_objects_has_none(toy):
    sample = make(toy).dataset("train")[3]
    assert sample["masks"].shape == (0, 64, 96)
    assert sample["boxes"].shape == (0, 4)
    augmented = make(toy, augment={"train": "flip"}).dataset("train")[3, 1]
    assert augmented["masks"].shape == (0, 64, 96)
    assert augmented["labels"].dtype == torch.int64


def test_masks_are_scaled_with_their_image(toy):
    whole = make(toy).dataset("train")[0]
    half = make(toy, resize="fit", image_size=32).dataset("train")[0]
    assert half["masks"].shape == (len(whole["masks"]), 32, 48)
    assert (half["masks"] == whole["masks"][:, ::2, ::2]).all()
    assert (half["boxes"] == whole["boxes"] / 2).all()


def test_what_is_wrong_is_named_and_can_be_skipped(toy):
    stored = cv2.imread(str(toy / "labels/train_000.png"), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(toy / "labels/train_000.png"), stored[:-1])
    (toy / "labels/train_001.png").unlink()
    (toy / "images/train_002.png").unlink()
    Image.fromarray(np.float32(np.zeros((96, 64)))).save(toy / "labels/train_004.tif")
    (toy / "labels/train_004.png").unlink()
    data = (toy / "labels/train_005.png").read_bytes()
    (toy / "labels/train_005.png").write_bytes(data[:60] + bytes([data[60] ^ 255]) + data[61:])
    (toy / "labels/val_000.png").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        make(toy).prepare()
    said = sorted(line.removeprefix(f"{toy}/") for line in str(caught.value).splitlines())
    assert [line.partition(":")[0] for line in said] == [
        "images/train_001",
        "images/train_002",
        "labels/train_000.png",
        "labels/train_004.tif",
        "labels/train_005.png",
        "labels/val_000.png",
    ]
    assert "has 1 images and 0 label images" in said[0]
    assert "is 63x96, and its image 64x96" in said[2]
    assert "is an image of kind F" in said[3]
    skipping = make(toy, on_error="skip")
    assert skipping.splits() == {"train": 11, "val": 5, "test": 6}
    assert len(skipping.left_out) == 6


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ("id\n", "has no column split"),
        ("id,split\ntrain_000,tran\n", r"index\.csv:2: split is 'tran'"),
        ("id,split\ntrain_000,train\ntrain_000,val\n", r"index\.csv:3: train_000 is in line 2"),
        ("id,split\ntrain_000,train\n", r"train_001: is not listed in"),
        ("id,split\n", "lists no training images"),
    ],
)
def test_what_is_wrong_with_the_index_is_told(toy, index, said):
    (toy / "index.csv").write_text(index)
    with pytest.raises(DataError, match=said):
        make(toy).prepare()


def test_without_an_index_images_are_held_out(toy):
    data = make(toy, index=None)
    assert data.splits() == {"train": 20, "val": 4, "test": 4}
    assert data.splits() == make(toy, index=None, seed=5).splits()


def test_evaluation_has_the_numbers_of_the_objects_beside_semantic_masks(toy):
    data = make(toy, target="semantic", resize="fit", image_size=32)
    sample = data.dataset("val")[0]
    numbers = cv2.imread(str(toy / "labels/val_000.png"), cv2.IMREAD_UNCHANGED)[::2, ::2]
    instances = sample["instances"]
    assert instances.dtype == torch.int64
    assert sample["mask"].dtype == torch.int64
    assert (sample["mask"] == (instances > 0)).all()
    found = np.unique(numbers)[1:]
    assert len(found)
    assert instances.max() == len(found)
    for number, stored in enumerate(found, start=1):
        assert ((instances.numpy() == number) == (numbers == stored)).all()
    assert set(data.dataset("train")[0, 1]) == {"image", "mask", "id"}
    batch = data.batch("val", [0, 1])  # one lies, one stands
    assert [one.shape for one in batch["instances"]] == [(32, 48), (48, 32)]
    same = make(toy, target="semantic", resize="squash", image_size=32).batch("val", [0, 1])
    assert same["instances"].shape == (2, 32, 32)


def test_more_than_254_objects_are_told_apart_from_what_is_ignored(toy):
    numbers = np.arange(64 * 96, dtype=np.uint16).reshape(64, 96)
    cv2.imwrite(str(toy / "labels/train_000.png"), numbers)
    crop = {"train": [{"name": "Pad", "padding": 8, "fill_mask": 255}]}
    data = make(toy, target="semantic", augment=crop, border_weight=10)
    instances = data.dataset("train")[0]["instances"].numpy()
    assert len(np.unique(instances)) == 64 * 96
    assert 255 not in instances
    sample = data.dataset("train")[0, 1]
    # All touch, so that there is none left, and what was padded is to be ignored.
    assert (sample["mask"][8:-8, 8:-8] == 0).all()
    assert (sample["mask"] == 255).sum() == 80 * 112 - 64 * 96
    assert (sample["weight"] == (sample["mask"] != 255)).all()


@pytest.mark.parametrize("preset", ["dihedral", "crop_flip", "random_resized_crop", "strong"])
def test_borders_are_those_of_the_augmented_objects(toy, preset):
    given = {"resize": "squash", "image_size": 48, "augment": {"train": preset}}
    data = make(toy, target="semantic", border_weight=10, border_sigma=12, **given)
    plain = make(toy, target="semantic", **given)
    weights = []
    for index in range(12):
        key = index, index
        sample, without = data.dataset("train")[key], plain.dataset("train")[key]
        mask, weight = sample["mask"], sample["weight"]
        assert (mask == without["mask"]).all()  # these discs do not touch
        assert weight.dtype == torch.float32
        assert weight.shape == mask.shape
        assert (weight[mask == 255] == 0).all()
        assert (weight[mask == 1] == 1).all()
        assert (weight[mask == 0] >= 1).all()
        weights.append(weight)
    assert max(weight.max() for weight in weights) > 1.2
    batch = next(iter(data.train_dataloader()))
    assert batch["weight"].shape == batch["mask"].shape == (8, 48, 48)


def test_touching_nuclei_get_a_border(shared_data):
    data = make(
        shared_data / "nuclei", target="semantic", augment={"train": "dihedral"}, border_weight=10
    )
    heaviest = 0.0
    for index in range(0, 60, 6):
        sample, whole = data.dataset("train")[index, 3], data.dataset("train")[index]
        lost = int(whole["mask"].sum() - sample["mask"].sum())
        assert 0 <= lost < 0.3 * whole["mask"].sum()
        heaviest = max(heaviest, float(sample["weight"].max()))
    assert 5 < heaviest <= 11


def test_borders_are_for_semantic_masks(toy):
    with pytest.raises(UserError, match="border_weight is for semantic, not for target=instances"):
        make(toy, border_weight=10)
