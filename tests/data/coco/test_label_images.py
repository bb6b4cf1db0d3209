import csv

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from lit_imgproc.data.coco.label_images import LabelImages
from lit_imgproc.data.errors import DataError


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
