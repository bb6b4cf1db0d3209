"""Explanation maps of segmenters, whose images may differ in size and may be volumes."""

import logging

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import nn

from lit_imgproc import pictures
from lit_imgproc.callbacks.explain import Explain
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


class Voxels(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv3d(1, 2, 1)

    def forward(self, volumes):
        return self.layer(volumes)


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


def test_the_gradient_of_each_place_is_what_counts(monkeypatch):
    asked = []

    def remembered(score, images, layer, feature_map, local):
        asked.append(local)
        return torch.zeros(len(images), *images.shape[2:])

    monkeypatch.setattr("lit_imgproc.callbacks.explain.grad_cam", remembered)
    Explain(images=1).picture(segmenter(), batch_of((128, 128)))
    assert asked == [True]


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


def test_volumes_are_said_not_to_be_drawn_and_are_not(monkeypatch, caplog, tmp_path):
    def never(*_):
        raise AssertionError("a volume was drawn")

    monkeypatch.setattr(Explain, "picture", never)
    module = segmenter(Voxels(), channels=1, num_classes=2)
    batch = {
        "image": torch.rand(1, 1, 4, 8, 8),
        "mask": torch.randint(2, (1, 4, 8, 8)),
        "geometry": [{"voxel": (1.0, 1.0, 1.0)}],
        "id": ["volume"],
    }
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        callbacks=[Explain()],
    )  # fmt: skip
    loader = torch.utils.data.DataLoader([batch], batch_size=None)
    with caplog.at_level(logging.WARNING, "lit_imgproc"):
        trainer.fit(module, loader, loader)
    said = [one.getMessage() for one in caplog.records if one.name.startswith("lit_imgproc")]
    assert len(said) == 1
    assert "not of volumes" in said[0]
