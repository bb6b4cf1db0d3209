"""Explanation maps of segmenters, whose images may differ in size and may be volumes."""

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import nn

from lit_imgproc import pictures
from lit_imgproc.callbacks.explain import Explain
from lit_imgproc.data.readable import collate
from lit_imgproc.models.segmentation.module import Segmenter
from lit_imgproc.models.segmentation.networks import unet
from lit_imgproc.optim import SGD

NAMES = ["background", "red", "green"]


class Cells(nn.Module):
    """Judges cells of 8x8 pixels by their mean colour: red is class 1, green class 2."""

    def __init__(self):
        super().__init__()
        self.cells = nn.AvgPool2d(8)
        self.pretrained_cfg = {"attribution_layer": "cells"}

    def forward(self, images):
        red, green, _ = self.cells(images).split(1, 1)
        logits = torch.cat([torch.full_like(red, 0.5), red, green], 1)
        return nn.functional.interpolate(logits, size=images.shape[2:])


def segmenter(network=None, channels=3, num_classes=3, **more):
    return Segmenter(
        network=network or Cells(), num_classes=num_classes,
        mean=[0.0] * channels, std=[1.0] * channels, optimizer=SGD(lr=0.1), **more,
    ).eval()  # fmt: skip


def batch_of(*sizes):
    """A red square of 24 pixels, and a green one of 8."""
    images = [torch.zeros(3, *size) for size in sizes]
    for image in images:
        image[0, 16:40, 32:56] = 1
        image[1, 80:88, 8:16] = 1
    masks = [(image[0] + 2 * image[1]).long() for image in images]
    same = len(set(sizes)) == 1
    return {
        "image": torch.stack(images) if same else images,
        "mask": torch.stack(masks) if same else masks,
        "weight": torch.ones(len(sizes)),
        "id": [str(number) for number in range(len(images))],
    }


def maps(picture, sizes):
    """The map at the end of each row: it has a margin of 4, and another of the cell's own."""
    height, width = max(h for h, _ in sizes), max(w for _, w in sizes)
    rows = (picture.shape[0] - 4) // len(sizes)
    for row, size in enumerate(sizes):
        top = 8 + row * rows
        columns = (picture.shape[1] - 4) // 2
        left = 8 + columns
        assert rows >= height
        assert columns >= width
        yield picture[top : top + size[0], left : left + size[1]]


@pytest.mark.parametrize("sizes", [((128, 128), (128, 128)), ((128, 160), (144, 120))])
def test_the_map_of_each_image_is_of_the_class_that_covers_most(sizes):
    module = segmenter(class_names=NAMES)
    for picture in maps(Explain(images=2).picture(module, batch_of(*sizes)), sizes):
        seen = picture.astype(int)
        assert (seen[20:36, 36:52, 0] > seen[20:36, 36:52, 2] + 50).all()  # red: the large square
        seen[12:44, 28:60] = [0, 0, 1]
        assert (seen[..., 2] > seen[..., 0]).all()  # blue: all else, the green square too


def test_where_all_is_background_the_map_is_empty():
    module = segmenter(class_names=NAMES)
    batch = batch_of((128, 128))
    batch["image"] = torch.zeros(1, 3, 128, 128)
    (seen,) = maps(Explain(images=1).picture(module, batch), [(128, 128)])
    blank = pictures.overlay(np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1)))[0, 0]
    assert (seen == blank).all()


@pytest.mark.parametrize(("method", "used"), [(None, "hires_cam"), ("layer_cam", "layer_cam")])
def test_the_gradient_of_each_place_is_what_counts(monkeypatch, method, used):
    asked = []

    def remembered(module, images, targets, method):
        asked.append(method)
        return [torch.zeros(image.shape[1:]) for image in images]

    monkeypatch.setattr("lit_imgproc.callbacks.explain.attribution_maps", remembered)
    explain, module = Explain(images=1, method=method), segmenter()
    explain.picture(module, batch_of((128, 128)))
    assert asked == [used]
    assert explain.key(module) == f"explanations/{used}"


@pytest.mark.parametrize("sizes", [((8, 8), (8, 8)), ((8, 8), (4, 16))])
def test_how_wrong_a_segmenter_is(sizes):
    """The share of the pixels that count, of each image on its own."""
    module = segmenter(nn.Identity())
    masks = [torch.arange(height * width).view(height, width) % 3 for height, width in sizes]
    images = [nn.functional.one_hot(mask, 3).movedim(2, 0).float() for mask in masks]
    masks[0][:2] = (masks[0][:2] + 1) % 3  # 16 of 64 pixels
    masks[0][6:] = 255
    same = sizes[0] == sizes[1]
    batch = {
        "image": torch.stack(images) if same else images,
        "mask": torch.stack(masks) if same else masks,
        "id": ["a", "b"],
    }
    wrong = module.validation_step(batch, 0)["wrong"]
    assert wrong.tolist() == pytest.approx([16 / 48, 0])
    nothing = {"image": images[0][None], "mask": torch.full((1, *sizes[0]), 255), "id": ["c"]}
    assert module.validation_step(nothing, 0)["wrong"].tolist() == [0]


@pytest.mark.parametrize("sizes", [((96, 96), (96, 96)), ((96, 128), (80, 61))])
def test_a_network_stays_as_it_was(sizes):
    torch.manual_seed(0)
    module = segmenter(unet("test_resnet", 3, decoder_channels=(16, 16, 8, 8, 8)))
    batch = batch_of(*sizes)
    batch["image"] = [torch.rand(3, *size) for size in sizes]
    if len(set(sizes)) == 1:
        batch["image"] = torch.stack(batch["image"])
    before = {name: value.clone() for name, value in module.state_dict().items()}
    picture = Explain(images=2).picture(module, batch)
    assert picture.dtype == np.uint8
    assert all(value.equal(module.state_dict()[name]) for name, value in before.items())
    assert all(parameter.grad is None for parameter in module.parameters())


# Volumes -----------------------------------------------------------------------------------------


class Scans(pl.LightningDataModule):
    """Volumes with a bright block of class 1, all but the first with labels that are wrong."""

    def __init__(self, *sizes):
        super().__init__()
        self.names = [f"scan {number}" for number in range(len(sizes))]
        self.samples = []
        for number, size in enumerate(sizes):
            image = torch.zeros(1, *size)
            image[0, 2:5, 8:16, 8:16] = 1
            image[0, 3, 8:16, 8:16] = 3  # the brightest slice
            mask = (image[0] > 0).long()
            mask[:number] = 1 - mask[:number]
            geometry = {"voxel": (1.0, 1.0, 1.0)}
            sample = {"image": image, "mask": mask, "geometry": geometry, "id": self.names[number]}
            self.samples.append(sample)

    def __len__(self):
        return len(self.samples)

    def dataset(self, split):
        return self

    def batch(self, split, indices):
        return collate(([self.samples[index] for index in indices], []))

    def train_dataloader(self):
        batches = [self.batch("train", [index]) for index in range(len(self))]
        return torch.utils.data.DataLoader(batches, batch_size=None)

    val_dataloader = train_dataloader


class Bright(nn.Module):
    """Says class 1 of what is bright."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv3d(1, 1, 1, bias=False)
        nn.init.ones_(self.layer.weight)
        self.head = nn.Conv3d(1, 2, 1)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1, 1))
            self.head.bias.copy_(torch.tensor([0.5, 0.0]))
        self.pretrained_cfg = {"attribution_layer": "layer"}

    def forward(self, volumes):
        return self.head(self.layer(volumes))


@pytest.fixture
def drawn(monkeypatch):
    """What segmenters are told to draw: batches of one image, and what is said of it."""
    told, draw = [], Segmenter.draw

    def remembered(self, batch, output):
        told.append((batch, output))
        return draw(self, batch, output)

    monkeypatch.setattr(Segmenter, "draw", remembered)
    return told


@pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer`")
@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
@pytest.mark.parametrize("sizes", [((6, 24, 24),) * 3, ((6, 24, 24), (6, 24, 28), (7, 20, 24))])
def test_of_volumes_the_slice_of_the_greatest_heat_is_drawn(tmp_path, precision, sizes, drawn):
    module = segmenter(Bright(), channels=1, num_classes=2, class_names=NAMES[:2])
    module.optimizer = SGD(lr=1e-12)  # nothing is learned
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        precision=precision, num_sanity_val_steps=0, callbacks=[Explain(images=2, most_wrong=2)],
    )  # fmt: skip
    data = Scans(*sizes)
    trainer.fit(module, datamodule=data)
    # The two that are followed, and those that are most wrong, the worst first.
    assert [batch["id"] for batch, _ in drawn] == [
        ["scan 0"], ["scan 1"], ["scan 2"], ["scan 1"]
    ]  # fmt: skip
    for batch, (answer,) in drawn:
        sample = data.samples[int(batch["id"][0][-1])]
        (image,), (mask,) = batch["image"], batch["mask"]
        assert image.dtype == (torch.bfloat16 if precision == "bf16-true" else torch.float32)
        assert image.float().equal(sample["image"][:, 3])
        assert mask.equal(sample["mask"][3])
        assert np.array_equal(answer["mask"], sample["image"][0, 3] > 0)


def test_the_class_and_the_slice_are_named(monkeypatch):
    named = []
    monkeypatch.setattr(pictures, "caption", lambda seen, lines: named.append(lines) or seen)
    module = segmenter(Bright(), channels=1, num_classes=2, class_names=NAMES[:2])
    (seen,) = maps(Explain().picture(module, Scans((6, 128, 128)).batch("val", [0])), [(128, 128)])
    assert [NAMES[1], "slice 3"] in named
    inside, outside = seen[12, 12].astype(int), seen[60, 60].astype(int)
    assert inside[0] > inside[2] + 50  # red
    assert outside[2] > outside[0]  # blue


def test_a_volume_in_which_nothing_is_found_is_seen_in_its_middle(drawn):
    module = segmenter(Bright(), channels=1, num_classes=2, class_names=NAMES[:2])
    volume = torch.arange(9.0).view(1, 1, 9, 1, 1).expand(1, 1, 9, 16, 16) / 100
    batch = {"image": volume, "mask": torch.zeros(1, 9, 16, 16).long(), "id": ["scan"]}
    Explain().picture(module, batch)
    ((batch, _),) = drawn
    assert batch["image"][0].unique().tolist() == [pytest.approx(0.04)]
