"""Data sets with one thing wrong each: it is told, and nothing else is."""

import hashlib
from pathlib import Path

import cv2
import pytest
import torch
from given import Given, Samples, noise, silent

from lit_imgproc.data.imagenet.datamodule import Digits, ImageFolder
from lit_imgproc.data.inspect import inspect
from lit_imgproc.data.verify import verify


def test_a_sound_data_set_has_nothing():
    report = verify(Digits(num_workers=0), silent)
    assert report.problems == []
    assert report.images == {"train": 1259, "val": 269, "test": 269}
    assert report.fingerprint == Digits().fingerprint()


def test_what_breaks_the_reading_is_told_a_line_each(tmp_path):
    ImageFolder.write_toy(tmp_path)
    (tmp_path / "train/disc/disc_0.jpg").write_bytes(b"")
    (tmp_path / "train/ring/ring_1.png").write_bytes(b"no image")
    report = verify(ImageFolder(root=str(tmp_path), num_workers=0), silent)
    assert len(report.problems) == 2
    assert "disc_0.jpg" in report.problems[0]
    assert "ring_1.png" in report.problems[1]
    assert report.fingerprint == ""


def test_files_that_are_left_out_are_problems_too(tmp_path):
    ImageFolder.write_toy(tmp_path)
    (tmp_path / "train/disc/disc_0.jpg").write_bytes(b"")
    data = ImageFolder(root=str(tmp_path), num_workers=0, image_size=32, on_error="skip")
    report = verify(data, silent)
    assert ["disc_0.jpg" in problem for problem in report.problems] == [True]
    assert report.images["train"] == 47


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        (noise("a", mask=torch.zeros(16, 32).long()), "its mask is [16, 32], the image [32, 32]"),
        (
            noise("a", mask=torch.full((32, 32), 7)),
            "its mask has the values [7], and there are 2 classes",
        ),
        (
            noise("a", boxes=torch.tensor([[-1.0, 0, 5, 5]]), labels=torch.tensor([0])),
            "1 boxes lie outside of the image, 0 are empty",
        ),
        (
            noise("a", boxes=torch.tensor([[5.0, 5, 5, 9]]), labels=torch.tensor([0])),
            "0 boxes lie outside of the image, 1 are empty",
        ),
        (
            noise("a", boxes=torch.tensor([[1.0, 1, 5, 9]]), labels=torch.tensor([2])),
            "it has 1 boxes and the labels [2]",
        ),
        (
            {"image": torch.tensor([[[1.0, torch.nan], [torch.inf, 2.0]]]), "id": "a"},
            "2 values are NaN or infinite",
        ),
    ],
)
def test_annotations_that_do_not_belong_to_their_image_are_told(sample, said):
    report = verify(Given(train=Samples([sample, noise("b")])), silent)
    assert report.problems == [f"a: {said}."]


def test_sound_annotations_are_not_told():
    sound = [
        noise("a", mask=torch.full((32, 32), 255)),
        noise("b", boxes=torch.tensor([[0.0, 0, 32, 32]]), labels=torch.tensor([1])),
        noise("c", boxes=torch.zeros(0, 4), labels=torch.zeros(0).long()),
    ]
    assert verify(Given(train=Samples(sound)), silent).problems == []


def test_the_same_pixels_in_two_splits_are_a_leak_and_in_one_a_remark():
    train = Samples([noise("a", 1), noise("b", 2), noise("c", 2)])
    report = verify(Given(train=train, test=Samples([noise("d", 3), noise("e", 1)])), silent)
    assert report.problems == ["e of test is the same pixels as a of train."]
    assert report.remarks == ["c of train has the same pixels as b."]


def test_a_group_on_two_sides_is_a_leak():
    train = Samples([noise("a"), noise("b")], ["p1", "p2"])
    test = Samples([noise("c"), noise("d"), noise("e")], ["p3", "p2", "p2"])
    report = verify(Given(train=train, test=test), silent)
    assert report.problems == ["d of test is of the same group as b of train (p2)."]


def test_near_duplicates_of_two_splits_are_remarks():
    original = noise("a", 1)
    again = {**original, "id": "again", "image": original["image"].clone()}
    again["image"][:, :2, :2] ^= 3  # saved anew with some loss
    report = verify(
        Given(train=Samples([original, noise("b", 2)]), val=Samples([again, noise("c", 3)])), silent
    )
    assert report.problems == []
    assert [remark[:38] for remark in report.remarks] == ["again of val is much like a of train ("]


def test_images_without_contrast_are_like_no_other_and_no_leak():
    blank = [{"image": torch.zeros(3, 32, 32), "id": name} for name in "ab"]
    report = verify(Given(train=Samples(blank[:1]), test=Samples(blank[1:])), silent)
    assert report.problems == report.remarks == []
    flat = [{"image": torch.full((3, 32, 32), v, dtype=torch.uint8), "id": str(v)} for v in (5, 9)]
    report = verify(Given(train=Samples(flat[:1]), test=Samples(flat[1:])), silent)
    assert report.problems == report.remarks == []


def test_validation_images_that_are_the_test_images_are_no_leak():
    shared = Samples([noise("c", 3)])
    report = verify(Given(train=Samples([noise("a", 1)]), val=shared, test=shared), silent)
    assert report.problems == report.remarks == []


def test_checksums_beside_the_data_are_compared(tmp_path):
    ImageFolder.write_toy(tmp_path)
    names = ["train/disc/disc_0.jpg", "train/ring/ring_0.jpg", "train/square/square_0.jpg"]
    lines = [f"{hashlib.sha256((tmp_path / n).read_bytes()).hexdigest()}  {n}\n" for n in names]
    (tmp_path / "SHA256SUMS").write_text("".join(lines) + f"{'0' * 64} *gone.jpg\n")
    image = cv2.imread(str(tmp_path / names[1]))
    cv2.imwrite(str(tmp_path / names[1]), image)
    report = verify(ImageFolder(root=str(tmp_path), num_workers=0, image_size=32), silent)
    assert report.problems == [
        f"{tmp_path / names[1]}: is not what SHA256SUMS says; copy or download it again.",
        f"{tmp_path / 'gone.jpg'}: is listed in SHA256SUMS and cannot be read "
        "(No such file or directory).",
    ]


def test_a_photograph_that_was_saved_anew_in_another_split_is_found(shared_data, tmp_path):
    photographs = sorted(Path(shared_data, "kodak24").glob("*.png"))[:12]
    for number, path in enumerate(photographs):
        for split, chosen in (("train", number < 8), ("test", number >= 8)):
            if chosen:
                place = tmp_path / split / "ab"[number % 2] / path.name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(path.read_bytes())
    image = cv2.resize(cv2.imread(str(photographs[0])), None, fx=0.6, fy=0.6)
    cv2.imwrite(str(tmp_path / "test/a/again.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 60])
    report = verify(ImageFolder(root=str(tmp_path), num_workers=0, image_size=128), silent)
    assert report.problems == []
    (remark,) = report.remarks
    assert remark.startswith("test/a/again.jpg of test is much like train/a/")


def test_workers_see_the_same_as_the_process_itself():
    alone, helped = (list(inspect(Digits(num_workers=n), "test", silent)) for n in (0, 2))
    assert [look.name for look in alone] == [look.name for look in helped]
    assert [look.digest for look in alone] == [look.digest for look in helped]
