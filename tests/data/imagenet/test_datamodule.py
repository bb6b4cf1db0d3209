import json
import shutil

import cv2
import numpy as np
import pytest
import torch

from lit_imgproc.data.base import DataError
from lit_imgproc.data.imagenet.datamodule import CIFAR10, MNIST, Digits, FashionMNIST, ImageFolder
from lit_imgproc.data.imagenet.datasets import pixel_statistics
from lit_imgproc.data.imagenet.toy import write_folder

KINDS = [ImageFolder, FashionMNIST, MNIST, CIFAR10, Digits]


@pytest.fixture(scope="session")
def toys(tmp_path_factory):
    """The toy source of every datamodule, by class."""
    roots = {kind: tmp_path_factory.mktemp(kind.__name__) for kind in KINDS}
    for kind, root in roots.items():
        kind.write_toy(root)
    return roots


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def kind(request):
    return request.param


def make(kind, root, **arguments):
    size = {"image_size": 32} if kind is ImageFolder else {}
    return kind(root=str(root), batch_size=16, num_workers=0, **(size | arguments))


def test_facts_are_plain_and_complete(kind, toys):
    data = make(kind, toys[kind])
    facts = data.facts()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["num_classes"] == len(facts["class_names"]) == len(facts["class_counts"])
    assert facts["image_size"] == list(data.input_spec().size)
    assert facts["in_channels"] == len(facts["mean"]) == len(facts["std"])
    assert sum(facts["class_counts"]) == data.splits()["train"]
    assert facts["value_range"] == [0, 255]
    assert facts["multilabel"] is False


def test_mean_and_deviation_are_those_of_the_training_images(kind, toys):
    data = make(kind, toys[kind])
    pixels = torch.stack([item["image"] for item in data.dataset("train")]) / 255
    facts = data.facts()
    np.testing.assert_allclose(facts["mean"], pixels.mean((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(facts["std"], pixels.std((0, 2, 3), correction=0), rtol=1e-5)


def test_batches(kind, toys):
    data = make(kind, toys[kind], augment={"train": "crop_flip"})
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        batch = next(iter(loader))
        count = len(batch["id"])
        channels, size = data.input_spec().channels, data.input_spec().size
        assert batch["image"].shape == (count, channels, *size)
        assert batch["image"].dtype == torch.uint8
        assert batch["label"].dtype == torch.int64
        assert all(isinstance(name, str) for name in batch["id"])


def test_splits_share_no_image(kind, toys):
    data = make(kind, toys[kind])
    names = {split: set(data.dataset(split).names) for split in data.splits()}
    if kind is Digits:  # its test images come out of the one file
        names = {
            split: {item["image"].numpy().tobytes() for item in data.dataset(split)}
            for split in names
        }
    assert names["train"].isdisjoint(names["val"])
    assert names["test"].isdisjoint(names["train"] | names["val"])
    assert data.splits() == {split: len(data.dataset(split)) for split in names}


def test_toys_are_always_the_same(kind, toys, tmp_path):
    kind.write_toy(tmp_path)
    assert make(kind, tmp_path).fingerprint() == make(kind, toys[kind]).fingerprint()


def test_the_fingerprint_knows_the_data_alone(kind, toys):
    data = make(kind, toys[kind])
    other = make(kind, toys[kind], seed=1, image_size=24, augment={"train": "flip"})
    assert data.fingerprint() == other.fingerprint()
    assert len(data.fingerprint()) == 64


def test_the_fingerprint_knows_names_labels_and_bytes(tmp_path):
    def fingerprint():
        return make(ImageFolder, tmp_path).fingerprint()

    write_folder(tmp_path)
    seen = {fingerprint()}
    (tmp_path / "test/disc/disc_0.jpg").rename(tmp_path / "test/disc/renamed.jpg")
    seen.add(fingerprint())
    (tmp_path / "test/disc/renamed.jpg").rename(tmp_path / "test/ring/renamed.jpg")
    seen.add(fingerprint())
    cv2.imwrite(str(tmp_path / "test/ring/renamed.jpg"), np.zeros((8, 8, 3), np.uint8))
    seen.add(fingerprint())
    assert len(seen) == 4


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 3])
def test_augmentation_is_the_same_for_any_number_of_workers(kind, toys, workers):
    augment = {"train": "crop_flip_erase"}
    alone = make(kind, toys[kind], augment=augment).train_dataloader()
    data = make(kind, toys[kind], augment=augment)
    data.num_workers = workers
    for ours, theirs in zip(alone, data.train_dataloader(), strict=True):
        assert ours["id"] == theirs["id"]
        assert torch.equal(ours["image"], theirs["image"])


def test_augmentation_differs_between_epochs_and_samples(toys):
    data = make(FashionMNIST, toys[FashionMNIST], augment={"train": "crop_flip"})
    loader = data.train_dataloader()

    def epoch(number):
        loader.batch_sampler.set_epoch(number)
        return {
            name: image
            for batch in loader
            for name, image in zip(batch["id"], batch["image"], strict=True)
        }

    first, second = epoch(0), epoch(1)
    common = first.keys() & second.keys()
    differ = sum(not torch.equal(first[name], second[name]) for name in common)
    assert differ > 0.9 * len(common)
    dataset = data.dataset("train")
    images = [dataset[0, seed]["image"].numpy().tobytes() for seed in range(50)]
    assert len(set(images)) > 30
    assert torch.equal(dataset[0]["image"], torch.from_numpy(dataset.image(0)).permute(2, 0, 1))


def test_evaluation_is_not_augmented(kind, toys):
    data = make(kind, toys[kind], augment={"train": "strong"})
    plain = make(kind, toys[kind])
    for split in ("val", "test"):
        assert torch.equal(data.dataset(split)[3]["image"], plain.dataset(split)[3]["image"])


def test_images_are_scaled(kind, toys):
    data = make(kind, toys[kind], image_size=20)
    assert data.facts()["image_size"] == [20, 20]
    assert data.dataset("test")[0]["image"].shape[1:] == (20, 20)


def test_seeds_shuffle_differently(toys):
    first, second = (
        next(iter(make(MNIST, toys[MNIST], seed=seed).train_dataloader()))["id"] for seed in (0, 1)
    )
    assert first != second


def test_held_out_images_do_not_depend_on_the_seed(kind, toys):
    first, second = (make(kind, toys[kind], seed=seed).dataset("val").names for seed in (0, 1))
    assert first == second


def test_grey_images_of_a_folder(toys):
    data = make(ImageFolder, toys[ImageFolder], in_channels=1)
    assert data.dataset("test")[0]["image"].shape == (1, 32, 32)
    assert len(data.facts()["mean"]) == 1


def test_a_crop_of_random_size_sees_the_whole_image(toys):
    data = make(ImageFolder, toys[ImageFolder], augment={"train": "random_resized_crop"})
    assert data.dataset("train")[0, 5]["image"].shape == (3, 32, 32)


def test_images_per_class(toys):
    data = make(ImageFolder, toys[ImageFolder], images_per_class=5)
    assert data.facts()["class_counts"] == [5, 5, 5]
    names = [make(ImageFolder, toys[ImageFolder], images_per_class=5, seed=seed) for seed in (0, 1)]
    assert names[0].dataset("train").names != names[1].dataset("train").names
    with pytest.raises(DataError, match="17 asked for, but class 'disc' has 16"):
        make(ImageFolder, toys[ImageFolder], images_per_class=17).prepare()


def test_several_labels_an_image(toys, tmp_path):
    shutil.copytree(toys[ImageFolder], tmp_path, dirs_exist_ok=True)
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    rows = [f"{file},{'big|' if number % 2 else ''}shape" for number, file in enumerate(files)]
    (tmp_path / "index.csv").write_text("\n".join(["path,label", *rows]))
    data = make(ImageFolder, tmp_path, index="index.csv")
    assert data.facts()["multilabel"] is True
    assert "class_counts" not in data.facts()
    batch = next(iter(data.train_dataloader()))
    assert batch["label"].shape == (len(batch["id"]), 2)
    assert batch["label"].dtype == torch.float32
    assert batch["label"][:, 1].all()


def test_every_broken_image_is_named(tmp_path):
    write_folder(tmp_path)
    for name in ("train/ring/ring_3.png", "test/disc/disc_1.png"):
        (tmp_path / name).write_bytes(b"no image")
    data = (tmp_path / "val/square/square_0.jpg").read_bytes()
    (tmp_path / "val/square/square_0.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError) as error:
        make(ImageFolder, tmp_path).prepare()
    found = str(error.value).splitlines()
    assert len(found) == 3
    for name in ("ring_3.png", "disc_1.png", "square_0.jpg"):
        assert sum(name in line for line in found) == 1


def test_another_set_in_the_place_of_a_known_one(toys):
    data = MNIST(root=str(toys[FashionMNIST]))
    data.image_shape = (32, 32, 3)
    with pytest.raises(DataError, match=r"not MNIST: its images have shape \[200, 28, 28, 1\]"):
        data.prepare()


def test_a_wrong_augmentation_is_refused(toys):
    with pytest.raises(DataError, match="did you mean crop_flip"):
        make(MNIST, toys[MNIST], augment={"train": "crop_flop"}).prepare()


def test_statistics_weigh_images_by_their_pixels():
    images = [np.full((2, 2, 1), 255, np.uint8), np.zeros((2, 6, 1), np.uint8)]
    mean, std = pixel_statistics(images)
    assert mean == pytest.approx([0.25])
    assert std == pytest.approx([np.sqrt(0.25 * 0.75)])


def test_fashion_mnist(shared_data):
    data = FashionMNIST(root=str(shared_data / "fashion_mnist"), num_workers=0)
    facts = data.facts()
    assert data.splits() == {"train": 55000, "val": 5000, "test": 10000}
    assert facts["class_counts"] == [5500] * 10
    assert facts["mean"] == pytest.approx([0.2860], abs=1e-3)
    assert facts["std"] == pytest.approx([0.3530], abs=1e-3)
    assert np.bincount(data.dataset("val").labels).tolist() == [500] * 10
    assert data.dataset("test")[0]["label"] == 9


def test_mnist(shared_data):
    data = MNIST(root=str(shared_data / "mnist"), num_workers=0)
    assert sum(data.splits().values()) == 70000
    assert data.facts()["mean"] == pytest.approx([0.1307], abs=1e-3)
    assert data.facts()["std"] == pytest.approx([0.3081], abs=1e-3)
    assert [data.dataset("test")[index]["label"] for index in range(5)] == [7, 2, 1, 0, 4]


def test_fruits(shared_data):
    root = shared_data / "fruits" / "cls3"
    data = ImageFolder(root=str(root), image_size=112, images_per_class=150, num_workers=0)
    assert data.facts()["class_names"] == ["apple", "cherry", "tomato"]
    assert data.splits() == {"train": 450, "val": 106, "test": 360}
    assert data.dataset("test")[0]["image"].shape == (3, 112, 112)


def test_scikit_learns_digits():
    data = Digits(num_workers=0)
    splits = data.splits()
    assert sum(splits.values()) == 1797
    assert splits["val"] / 1797 == pytest.approx(0.15, abs=0.005)
    assert splits["test"] / 1797 == pytest.approx(0.15, abs=0.005)
