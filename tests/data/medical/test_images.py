"""Images with labels, by patient."""

import hashlib

import cv2
import numpy as np
import pytest
import torch

from lit_imgproc.data.errors import DataError
from lit_imgproc.data.medical import toy
from lit_imgproc.data.medical.images import MedicalImages

pydicom = pytest.importorskip("pydicom")


@pytest.fixture
def root(tmp_path):
    MedicalImages.write_toy(tmp_path)
    return tmp_path


def images(root, **settings):
    return MedicalImages(root=str(root), **({"image_size": 32, "num_workers": 0} | settings))


def edit(root, change):
    path = root / "index.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(change(lines)) + "\n")


def problem_of(root, **settings):
    with pytest.raises(DataError) as caught:
        images(root, **settings).prepare()
    return str(caught.value)


def test_patients_are_never_parted(root):
    data = images(root, window=(-400, 1200))
    assert data.splits() == {"train": 32, "val": 8, "test": 8}
    groups = [set(data.dataset(split).groups) for split in data.splits()]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 24


def test_values_and_facts(root):
    native, windowed = images(root), images(root, window=(-400, 1200))
    first, second = native.dataset("train")[0], windowed.dataset("train")[0]
    assert first["image"].dtype == second["image"].dtype == torch.float32
    torch.testing.assert_close(((first["image"] + 1000) / 1200).clamp(0, 1), second["image"])
    facts = native.facts()
    assert facts["class_names"] == ["clear", "nodule"]
    stacked = torch.stack([native.dataset("train")[i]["image"] for i in range(32)])
    assert facts["mean"] == pytest.approx([stacked.mean().item()], rel=1e-4)
    assert facts["std"] == pytest.approx([stacked.std(correction=0).item()], rel=1e-4)
    assert facts["value_range"] == pytest.approx([stacked.min().item(), stacked.max().item()])
    assert windowed.facts()["value_range"] == [0.0, 1.0]
    assert native.input_spec().value_range == tuple(facts["value_range"])
    assert native.dataset("train").size(0) == (48, 40)
    path = root / native.dataset("train").names[0]
    spec = windowed.input_spec()
    torch.testing.assert_close(
        torch.from_numpy(spec(windowed.open(path))).permute(2, 0, 1), second["image"]
    )


def test_the_window_of_the_file(root):
    data = images(root, window="file")
    image = data.dataset("train")[0]["image"]
    assert image.min() >= 0
    assert image.max() <= 1
    edit(root, lambda lines: [*lines[:-1], lines[-1].replace(".dcm", ".png")])
    cv2.imwrite(str(root / "image47.png"), np.zeros((40, 48), np.uint16))
    assert "image47.png: does not say its window" in problem_of(root, window="file")


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_pictures(tmp_path, kind):
    random = np.random.default_rng(0)
    lines = ["path,label,patient,split"]
    for number in range(24):
        pixels = random.integers(0, np.iinfo(kind).max, (20, 24)).astype(kind)
        name = f"{number}.{('png', 'tif')[number % 2]}"
        cv2.imwrite(str(tmp_path / name), pixels)
        split = ("train", "val", "test")[number % 3]
        lines.append(f"{name},{('a', 'b', 'a|b')[number % 2]},{number % 12},{split}")
    (tmp_path / "index.csv").write_text("\n".join(lines))
    data = images(tmp_path, image_size=20, in_channels=3, augment={"train": "dihedral"})
    sample = data.dataset("train")[0, 1]
    assert sample["image"].shape == (3, 20, 20)
    assert sample["image"].dtype == (torch.uint8 if kind == np.uint8 else torch.float32)
    assert data.input_spec().eight_bit == (kind == np.uint8)
    if kind == np.uint8:
        cv2.imwrite(str(tmp_path / "22.png"), np.zeros((20, 24), np.uint16))
        assert "22.png: has more bits where other images have 8" in problem_of(tmp_path)


def test_several_labels_and_frames(root):
    lines = ["path,label,patient,frame"]
    values = np.arange(3 * 24 * 20, dtype=np.int16).reshape(72, 20)
    for patient in range(12):
        dataset = toy.dicom_slice(values, [0.0, 0.0, 0.0], "1.2.3", f"P{patient}")
        dataset.NumberOfFrames, dataset.Rows = 3, 24
        dataset.save_as(root / f"p{patient}.dcm", enforce_file_format=True)
        lines += [f"p{patient}.dcm,{('', 'a', 'a|b')[k]},P{patient},{k}" for k in range(3)]
    (root / "index.csv").write_text("\n".join(lines))
    data = images(root, image_size=20, window=(0, 4000))
    dataset = data.dataset("train")
    assert data.facts()["multilabel"]
    assert dataset.names[2].endswith("#2")
    assert dataset[2]["label"].tolist() == [1, 1]
    assert dataset[0]["label"].tolist() == [0, 0]
    assert dataset[2]["image"].mean() > dataset[0]["image"].mean()
    whole = [f"p{patient}.dcm,{'ab'[patient % 2]},P{patient}" for patient in range(12)]
    (root / "index.csv").write_text("\n".join(["path,label,patient", *whole]))
    assert "p0.dcm: has 3 frames, give the column `frame`" in problem_of(root)


def test_order_does_not_depend_on_workers(root):
    def hashes(workers, epoch=0):
        data = images(root, num_workers=workers, augment={"train": "crop_flip"}, batch_size=8)
        loader = data.train_dataloader()
        loader.batch_sampler.set_epoch(epoch)
        return [hashlib.sha256(batch["image"].numpy().tobytes()).hexdigest() for batch in loader]

    assert hashes(0) == hashes(2)
    assert not set(hashes(0)) & set(hashes(0, epoch=1))


def test_wrong_indices_are_told(root):
    edit(root, lambda lines: [line.rpartition(",")[0] for line in lines])
    assert "no column patient: images of one patient must not be in two" in problem_of(root)
    MedicalImages.write_toy(root)
    split = [",split", *("," + ("train", "val")[k % 2] for k in range(48))]
    edit(root, lambda lines: [a + b for a, b in zip(lines, split, strict=True)])
    problems = problem_of(root).splitlines()
    assert len(problems) == 24
    assert "patient patient00 is in train and in val" in problems[0]
    MedicalImages.write_toy(root)
    edit(root, lambda lines: [*lines, lines[1]])
    assert "index.csv:50: image00.dcm is in line 2 already" in problem_of(root)
    (root / "index.csv").unlink()
    assert "cannot be read" in problem_of(root)


def test_broken_files_are_named_or_left_out(root):
    (root / "image03.dcm").unlink()
    assert "image03.dcm: there is no such file (index.csv:5)" in problem_of(root)
    (root / "image03.dcm").write_bytes((root / "image04.dcm").read_bytes()[:-50])
    (root / "image07.dcm").write_bytes(b"")
    problems = problem_of(root).splitlines()
    assert len(problems) == 2
    assert any("image07.dcm: not a DICOM file" in problem for problem in problems)
    data = images(root, on_error="skip")
    assert sum(data.splits().values()) == 46
    assert len(data.left_out) == 2
    data.facts()


def test_a_class_without_training_images(root):
    edit(
        root,
        lambda lines: [
            lines[0] + ",split",
            *(f"{line},train" for line in lines[1:-1]),
            "image47.dcm,odd,patient99,val",
        ],
    )
    assert "class 'odd' of the val images has no training images" in problem_of(root)
