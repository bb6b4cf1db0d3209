import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from lit_imgproc.data.errors import DataError
from lit_imgproc.data.medical.isbi import ISBI2012, read_pages
from lit_imgproc.data.verify import verify


@pytest.fixture
def root(tmp_path):
    ISBI2012.write_toy(tmp_path)
    return tmp_path


def make(root, **settings):
    return ISBI2012(root=str(root), num_workers=0, **settings)


def by_pillow(path):
    with Image.open(path) as file:
        return np.stack([np.array(page) for page in ImageSequence.Iterator(file)])


def test_the_last_pages_are_held_out_one_after_another(root):
    data = make(root, val_pages=2)
    images, labels = (by_pillow(root / f"train-{what}.tif") for what in ("volume", "labels"))
    assert data.splits() == {"train": 7, "val": 2, "test": 3}
    assert data.dataset("train").class_names == ("membrane", "cell")
    start = 0
    for split, count in data.splits().items():
        for page in range(count):
            sample = data.dataset(split)[page]
            assert sample["id"] == f"train-volume.tif/{start + page}"
            assert sample["image"].dtype == torch.uint8
            assert (sample["image"].numpy() == images[start + page]).all()
            assert (sample["mask"].numpy() == (labels[start + page] == 255)).all()
            assert sample["geometry"]["size"] == [64, 64]
        start += count


def test_facts_are_those_of_the_training_pages(root):
    facts = make(root).facts()
    images, labels = (by_pillow(root / f"train-{what}.tif")[:6] for what in ("volume", "labels"))
    assert facts["class_counts"] == [(labels == 0).sum(), (labels == 255).sum()]
    assert facts["mean"] == pytest.approx([images.mean() / 255])
    assert facts["std"] == pytest.approx([images.std() / 255])
    assert facts["image_size"] == [64, 64]
    assert make(root).input_spec().size == (64, 64)


def test_image_and_labels_move_together(root):
    data = make(root, augment={"train": "dihedral"}, batch_size=2)
    train = data.dataset("train")
    for page in range(len(train)):
        plain, moved = train[page], train[page, 11 + page]
        assert sorted(moved["image"].ravel()) == sorted(plain["image"].ravel())
        grey = moved["image"][0].float()
        assert grey[moved["mask"] == 1].mean() > 160
        assert grey[moved["mask"] == 0].mean() < 70
    batches = list(data.train_dataloader())
    assert [batch["mask"].shape for batch in batches] == [(2, 64, 64)] * 3
    assert "geometry" not in batches[0]
    assert data.fingerprint() == make(root).fingerprint()
    assert verify(data, lambda values, what, total: values).problems == []


def test_a_file_of_one_page_is_read_without_the_data_set(root, tmp_path):
    pages = read_pages(root / "train-volume.tif")
    cv2.imwrite(str(tmp_path / "one.png"), pages[3])
    reader = make("")
    assert (reader.open(tmp_path / "one.png")[:, :, 0] == pages[3]).all()
    with pytest.raises(DataError, match="has 12 pages where an image is needed"):
        reader.open(root / "train-volume.tif")


def write(path, pages):
    cv2.imwritemulti(str(path), list(pages))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda root: (root / "train-labels.tif").unlink(), r"train-labels\.tif: cannot be read"),
        (lambda root: (root / "train-volume.tif").write_bytes(b"II*\0"), "no images that can be"),
        (
            lambda root: write(root / "train-labels.tif", np.zeros((11, 64, 64), np.uint8)),
            "labels.tif: is 11 pages of 64x64, and its images 12 pages of 64x64",
        ),
        (
            lambda root: write(root / "train-labels.tif", np.full((12, 64, 64), 7, np.uint8)),
            r"has the values \[7\]",
        ),
        (
            lambda root: write(root / "train-volume.tif", np.zeros((12, 64, 64, 3), np.uint8)),
            "its pages must be grey, of 8 bits, and of one size",
        ),
    ],
)
def test_what_is_wrong_is_told(root, change, said):
    change(root)
    with pytest.raises(DataError, match=said):
        make(root).prepare()


def test_pages_have_to_be_left_to_train_on(root):
    with pytest.raises(DataError, match="leave none of its 12 pages"):
        make(root, val_pages=6, test_pages=6).prepare()
