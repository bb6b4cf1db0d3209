"""MedMNIST archives, and crops of nuclei."""

import hashlib

import numpy as np
import pytest
import torch

from lit_imgproc.data.errors import DataError
from lit_imgproc.data.medical import toy
from lit_imgproc.data.medical.archives import CLASSES, URL
from lit_imgproc.data.medical.medmnist import MedMNIST, MedMNIST3D
from lit_imgproc.data.medical.nuclei import NucleiCrops


def test_classes_are_those_of_medmnist():
    info = pytest.importorskip("medmnist").INFO
    known = CLASSES["2d"] | CLASSES["3d"]
    assert known.keys() == info.keys()
    for name, classes in known.items():
        assert list(classes) == list(info[name]["label"].values())
        assert URL.format(name=name) == info[name]["url"]


def test_grey_and_colour_archives(tmp_path):
    MedMNIST.write_toy(tmp_path)
    for name, channels in (("pathmnist", 3), ("pneumoniamnist", 1)):
        data = MedMNIST(root=str(tmp_path), dataset=name, augment={"train": "flip"}, num_workers=0)
        assert data.splits() == {"train": 66, "val": 22, "test": 22}
        with np.load(tmp_path / f"{name}.npz") as file:
            sample = data.dataset("val")[3]
            expected = file["val_images"][3].reshape(28, 28, -1).transpose(2, 0, 1)
            assert sample["label"] == file["val_labels"][3, 0]
        np.testing.assert_array_equal(sample["image"], expected)
        assert sample["image"].dtype == torch.uint8
        facts = data.facts()
        assert facts["in_channels"] == channels
        assert facts["class_names"] == list(CLASSES["2d"][name])
        assert facts["value_range"] == [0, 255]


def test_several_labels(tmp_path):
    toy.write_archive(tmp_path / "chestmnist.npz", classes=14, several=True)
    data = MedMNIST(root=str(tmp_path), dataset="chestmnist", num_workers=0)
    assert data.facts()["multilabel"]
    assert data.facts()["num_classes"] == 14
    assert data.dataset("train")[15]["label"].tolist() == [0, 1] + [0] * 12


def test_volumes(tmp_path):
    toy.write_archive(tmp_path / "organmnist3d_64.npz", classes=11, side=64, depth=64)
    data = MedMNIST3D(
        root=str(tmp_path), dataset="organmnist3d", size=64, augment={"train": "flip_intensity"}
    )
    data.num_workers = 0
    first, again, other = (data.dataset("train")[key] for key in ((0, 1), (0, 1), (0, 2)))
    assert first["image"].shape == (1, 64, 64, 64)
    assert first["image"].dtype == torch.uint8
    assert torch.equal(first["image"], again["image"])
    assert not torch.equal(first["image"], other["image"])
    assert data.facts()["image_size"] == [64, 64, 64]
    assert len(data.facts()["mean"]) == 1
    assert data.batch("val", [0, 1])["image"].shape == (2, 1, 64, 64, 64)


def test_ones_own_archive(tmp_path):
    toy.write_archive(tmp_path / "mine.npz", classes=4)
    data = MedMNIST(root=str(tmp_path), dataset="mine", num_workers=0)
    assert data.facts()["class_names"] == ["0", "1", "2", "3"]
    with np.load(tmp_path / "mine.npz") as file:
        named = dict(file) | {"class_names": np.array(["a", "b", "c", "d"])}
    np.savez(tmp_path / "mine.npz", **named)
    data = MedMNIST(root=str(tmp_path), dataset="mine", num_workers=0)
    assert data.facts()["class_names"] == ["a", "b", "c", "d"]


def test_what_is_wrong_with_an_archive(tmp_path):
    def problem(**settings):
        with pytest.raises(DataError) as caught:
            MedMNIST(**({"root": str(tmp_path), "dataset": "pathmnist"} | settings)).prepare()
        return str(caught.value)

    assert problem(size=64).endswith(
        "download https://zenodo.org/records/10519652/files/pathmnist_64.npz?download=1 to there."
    )
    assert "MedMNIST's 2d sets are pathmnist, chestmnist" in problem(dataset="patmnist")
    path = tmp_path / "pathmnist.npz"
    toy.write_archive(path, classes=10)
    assert "has 10 classes where 9 are named" in problem()
    with np.load(path) as file:
        arrays = dict(file)
    for change, sentence in (
        ({"val_labels": arrays["val_labels"][:-1]}, "val_labels is uint8 of shape [21, 1] for 22"),
        ({"test_images": arrays["test_images"] / 2}, "test_images is float64"),
        ({"train_images": np.zeros((66, 9, 9, 9), np.uint8)}, "volumes are for"),
    ):
        np.savez(path, **(arrays | change))
        assert sentence in problem()
    del arrays["val_images"]
    np.savez(path, **arrays)
    assert "has no val_images" in problem()
    for content in (b"", path.read_bytes()[:-300], b"PK\x03\x04 no archive"):
        path.write_bytes(content)
        assert "not an archive that can be read" in problem()


def test_order_of_volumes_does_not_depend_on_workers(tmp_path):
    toy.write_archive(tmp_path / "organmnist3d.npz", classes=11, depth=28)

    def hashes(workers, epoch=0):
        data = MedMNIST3D(
            root=str(tmp_path),
            dataset="organmnist3d",
            augment={"train": "flip_intensity"},
            num_workers=workers,
            batch_size=16,
        )
        loader = data.train_dataloader()
        loader.batch_sampler.set_epoch(epoch)
        return [hashlib.sha256(batch["image"].numpy().tobytes()).hexdigest() for batch in loader]

    assert hashes(0) == hashes(2)
    assert not set(hashes(0)) & set(hashes(0, epoch=1))


def test_toy_nuclei(tmp_path):
    NucleiCrops.write_toy(tmp_path)
    data = NucleiCrops(root=str(tmp_path), num_workers=0, augment={"train": "dihedral"})
    facts = data.facts()
    assert facts["class_names"] == ["background", "single", "touching"]
    # Of each image 4 single nuclei, 4 pairs of touching ones and as much background as the most.
    assert facts["class_counts"] == [64, 32, 64]
    dataset = data.dataset("val")
    assert len(set(dataset.groups)) == 1
    for index in range(len(dataset)):
        sample = dataset[index]
        assert sample["image"].shape == (3, 32, 32)
        assert (sample["image"][0, 16, 16] > 100) == (sample["label"] > 0)
    few = NucleiCrops(root=str(tmp_path), per_image=3, num_workers=0)
    assert few.facts()["class_counts"] == [24, 24, 24]


def test_what_is_wrong_with_nuclei(tmp_path):
    def problem():
        with pytest.raises(DataError) as caught:
            NucleiCrops(root=str(tmp_path)).prepare()
        return str(caught.value)

    assert "index.csv: cannot be read" in problem()
    NucleiCrops.write_toy(tmp_path)
    path = tmp_path / "images" / "toy1.png"
    path.write_bytes(path.read_bytes()[:400])
    (tmp_path / "labels" / "toy9.png").unlink()
    problems = problem().splitlines()
    assert len(problems) == 2
    assert "toy1.png" in problems[0]
    assert "toy9.png: " in problems[1]
    (tmp_path / "index.csv").write_text("id,split\ntoy1,first\n")
    assert "index.csv:2: an `id` and a `split`" in problem()


def test_nuclei(shared_data):
    data = NucleiCrops(root=str(shared_data / "nuclei"), num_workers=0)
    assert data.splits() == {"train": 6324, "val": 839, "test": 1781}
    images = [set(data.dataset(split).groups) for split in data.splits()]
    assert sum(map(len, images)) == len(set.union(*images)) == 323
    shares = np.bincount(data.dataset("test").labels) / len(data.dataset("test"))
    assert shares.max() < 0.4
