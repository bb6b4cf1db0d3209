"""What is fast about files must not show in what training sees."""

import pickle

import cv2
import numpy as np
import pytest
import torch

from lit_imgproc.data.decode import read_image
from lit_imgproc.data.errors import DataError
from lit_imgproc.data.imagenet.datasets import ArrayDataset, FileDataset
from lit_imgproc.data.readable import Readable, collate
from lit_imgproc.data.transforms import Augment
from lit_imgproc.inputs import InputSpec

SIDE = 32
SPEC = InputSpec(3, (SIDE, SIDE), crop_fraction=0.875)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Eight images of different sizes, one of them no JPEG."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for number in range(8):
        small = random.integers(0, 256, (6 + number, 9, 3), np.uint8)
        image = cv2.resize(small, (160, 96 + 16 * number), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{number}.{'png' if number == 3 else 'jpg'}"), image)
    return folder


def dataset(root, augment, spec=SPEC):
    names = sorted(path.name for path in root.iterdir())
    labels = np.arange(len(names), dtype=np.int64) % 2
    choice = None if augment is None else Augment(augment, SIDE, spec.channels)
    return FileDataset(root, names, labels, ["a", "b"], spec, choice)


def plainly(data, index, seed):
    """Decoded whole, then all of albumentations' Compose."""
    image = read_image(data.root / data.names[index], data.spec.channels)
    data.augment._seed(seed)
    return data.augment._compose(image=image)["image"].transpose(2, 0, 1)


SPELLED_OUT = [
    {"name": "RandomResizedCrop", "size": [SIDE, SIDE]},
    {"name": "HorizontalFlip"},
    {"name": "RandomBrightnessContrast"},
]


def test_a_spelled_out_crop_gives_the_pixels_of_the_plain_path(root):
    data = dataset(root, SPELLED_OUT)
    for index in range(len(data)):
        for seed in range(10):
            image = data[index, seed]["image"].numpy()
            np.testing.assert_array_equal(image, plainly(data, index, seed))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_preset_gives_nearly_the_pixels_of_the_plain_path(root, channels):
    data = dataset(root, "random_resized_crop", InputSpec(channels, (SIDE, SIDE)))
    for index in range(len(data)):
        for seed in range(10):
            image = data[index, seed]["image"].numpy().astype(int)
            assert np.abs(image - plainly(data, index, seed)).mean() < 3


@pytest.mark.parametrize("augment", [None, "flip", "random_resized_crop", SPELLED_OUT])
def test_items_keep_their_contract(root, augment):
    data = dataset(root, augment)
    for key in (2, (2, 5), (3, 7)):
        sample = data[key]
        assert sample["image"].dtype == torch.uint8
        assert sample["image"].shape == (3, SIDE, SIDE)
        assert isinstance(sample["label"], int)
        assert sample["id"] == data.names[key if isinstance(key, int) else key[0]]
        rows = data.fetch(key)["image"]
        np.testing.assert_array_equal(rows.transpose(2, 0, 1), sample["image"].numpy())
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(copy[1, 9]["image"], data[1, 9]["image"])


def test_evaluation_sees_what_the_specification_makes_of_the_file(root):
    data = dataset(root, "random_resized_crop")
    for index, name in enumerate(data.names):
        expected = SPEC(read_image(root / name, 3))
        np.testing.assert_array_equal(data[index]["image"].permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("augment", ["flip", "random_resized_crop"])
def test_batches_are_the_items_in_order(root, augment):
    data = dataset(root, augment)
    keys = [(index, 11 * index) for index in (5, 3, 0, 3)]
    batch = collate(Readable(data, "stop").__getitems__(keys))
    assert batch["image"].shape == (4, 3, SIDE, SIDE)
    assert batch["image"].dtype == torch.uint8
    assert batch["label"].tolist() == [1, 1, 0, 1]
    for image, key in zip(batch["image"], keys, strict=True):
        assert torch.equal(image, data[key]["image"])


def test_an_item_is_not_a_part_of_what_is_kept():
    images = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)
    images.flags.writeable = False
    data = ArrayDataset(images, ["0", "1"], np.array([0, 1]), ["a", "b"], SPEC)
    data[0]["image"].fill_(0)  # with no warning of memory that cannot be written to
    assert images[0].any()


def test_sizes_come_from_headers(root, tmp_path):
    data = dataset(root, None)
    for index in range(len(data)):
        assert data.size(index) == data.image(index).shape[:2]
    (tmp_path / "cut.jpg").write_bytes((root / "0.jpg").read_bytes()[:-100])
    (tmp_path / "empty.jpg").write_bytes(b"")
    broken = dataset(tmp_path, None)
    for index, name in enumerate(("cut.jpg", "empty.jpg")):
        with pytest.raises(DataError, match=name):
            broken.size(index)


def test_a_damaged_file_is_told_of_in_training(root, tmp_path):
    data = (root / "0.jpg").read_bytes()
    (tmp_path / "0.jpg").write_bytes(data[: len(data) // 2] + b"\xff\xd9")
    with pytest.raises(DataError, match=r"0\.jpg: the JPEG is damaged"):
        dataset(tmp_path, "random_resized_crop")[0, 1]
