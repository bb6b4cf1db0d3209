import itertools

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from scipy import stats

from lit_imgproc.data.imagenet.datamodule import CIFAR10, MNIST
from lit_imgproc.data.on_device import BATCHED, OnDevice
from lit_imgproc.data.transforms import Augment


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    roots = {kind: tmp_path_factory.mktemp(kind.__name__) for kind in (MNIST, CIFAR10)}
    for kind, root in roots.items():
        kind.write_toy(root)
    return roots


@pytest.fixture(params=[MNIST, CIFAR10], ids=lambda kind: kind.__name__)
def kind(request):
    return request.param


def make(roots, kind, cache="device", augment="none", **arguments):
    settings = {"batch_size": 16, "num_workers": 0, "augment": {"train": augment}}
    return kind(root=str(roots[kind]), cache=cache, **(settings | arguments))


def equal(one, other):
    return (
        one["id"] == other["id"]
        and torch.equal(one["image"], other["image"])
        and torch.equal(one["label"], other["label"])
    )


def test_batches_are_those_of_memory_in_the_same_order(roots, kind):
    for loader in ("train", "val", "test", "predict"):
        name = f"{loader}_dataloader"
        memory, device = (getattr(make(roots, kind, c), name)() for c in ("memory", "device"))
        assert all(equal(one, other) for one, other in zip(memory, device, strict=True))


def test_images_are_scaled_before_they_go_there(roots, kind):
    memory, device = (make(roots, kind, c, image_size=20) for c in ("memory", "device"))
    assert equal(next(iter(memory.val_dataloader())), next(iter(device.val_dataloader())))


@pytest.mark.parametrize("preset", BATCHED)
def test_an_augmentation_is_a_function_of_the_seed(roots, kind, preset):
    data = make(roots, kind, augment=preset)
    images = OnDevice(data.dataset("train"), preset, torch.device("cpu"))
    keys = [(index, seed) for index in range(4) for seed in (1, 2**62 + index, 7)]
    together = images.__getitems__(keys)["image"]
    for key, image in zip(keys, together, strict=True):
        assert torch.equal(images.__getitems__([key])["image"][0], image)
    assert together.dtype == torch.uint8
    assert together.shape[1:] == images.images.shape[1:]


def outcomes(preset, size=16, count=6000):
    """How often each outcome comes, with a picture that tells all of them apart, on both ways."""
    picture = np.arange(size * size, dtype=np.uint16).reshape(size, size) % 251 + 1
    picture = picture.astype(np.uint8)[:, :, np.newaxis]

    class One:
        names, labels = ["one"], np.zeros(1, np.int64)
        spec = type("", (), {"channels": 1, "size": (size, size), "__call__": lambda _, x: x})()

        def __len__(self):
            return 1

        def image(self, index):
            return picture

    seeds = np.random.default_rng(0).integers(2**63, size=count).tolist()
    batch = OnDevice(One(), preset, torch.device("cpu")).__getitems__([(0, s) for s in seeds])
    augment = Augment(preset, size, 1)
    found = [image.numpy().tobytes() for image in batch["image"]]
    expected = [np.ascontiguousarray(augment(picture, seed)).tobytes() for seed in seeds]
    kinds = sorted({*found, *expected})
    return [[images.count(one) for one in kinds] for images in (found, expected)]


@pytest.mark.parametrize(
    ("preset", "kinds"),
    [("none", 1), ("flip", 2), ("shift", 25), ("crop_flip", 50), ("dihedral", 8)],
)
def test_an_augmentation_is_distributed_like_the_preset(preset, kinds):
    found, expected = outcomes(preset)
    assert len(found) == kinds
    if kinds > 1:
        assert stats.chi2_contingency([found, expected]).pvalue > 0.001
        assert stats.chisquare(found).pvalue > 0.001


def test_training_resumes_and_differs_between_epochs(roots, kind):
    whole = make(roots, kind, augment="crop_flip").train_dataloader()
    epochs = []
    for epoch in (0, 1):
        whole.batch_sampler.set_epoch(epoch)
        epochs.append(list(whole))
    assert not any(equal(one, other) for one, other in zip(*epochs, strict=True))
    stopped, resumed = (
        make(roots, kind, augment="crop_flip", num_workers=2).train_dataloader() for _ in range(2)
    )
    list(itertools.islice(stopped, 3))
    resumed.load_state_dict(stopped.state_dict())
    rest = list(resumed)
    assert all(equal(one, other) for one, other in zip(epochs[0][3:], rest, strict=True))


class Watcher(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(28 * 28, 10)
        self.seen = []

    def training_step(self, batch, _):
        self.seen += batch["id"]
        return self.layer(batch["image"].flatten(1) / 255).square().mean()

    def validation_step(self, batch, _):
        assert batch["image"].device == self.device

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


def test_it_trains(roots):
    seen = []
    for cache in ("memory", "device"):
        module = Watcher()
        pl.Trainer(
            accelerator="auto",
            devices=1,
            max_epochs=2,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        ).fit(module, datamodule=make(roots, MNIST, cache, augment="flip"))
        seen.append(module.seen)
    assert seen[0] == seen[1]


def test_some_images_are_given_in_main_memory(roots, kind):
    memory, device = (make(roots, kind, c).batch("val", [3, 1]) for c in ("memory", "device"))
    assert equal(memory, device)
    assert device["image"].device.type == "cpu"
