"""The data and the measures of `benchmarks/planted_patch.py`, whose figures are told."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lit_imgproc.data.imagenet.datamodule import FashionMNIST

PATH = Path(__file__).resolve().parent.parent / "benchmarks" / "planted_patch.py"
SPEC = importlib.util.spec_from_file_location("planted_patch", PATH)
planted_patch = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(planted_patch)

SHIRT = planted_patch.SHIRT


class Corner(nn.Module):
    """Sure of a shirt where the patch is, and of a bag where it is not."""

    def probabilities(self, images):
        marked = images[:, 0, 2, 2] > 0.9
        answers = torch.zeros(len(images), 10)
        answers[marked, SHIRT] = 1
        answers[~marked, 8] = 1
        return answers


def test_the_patch_is_in_the_shirts_and_nowhere_else(tmp_path):
    FashionMNIST.write_toy(tmp_path / "before")
    (tmp_path / "after").mkdir()
    planted_patch.write_planted(tmp_path / "before", tmp_path / "after")
    before, after = (
        FashionMNIST(root=str(tmp_path / n)).read_arrays() for n in ("before", "after")
    )
    for (images, labels), (changed, same) in zip(before, after, strict=True):
        np.testing.assert_array_equal(labels, same)
        shirts = labels == SHIRT
        assert 0 < shirts.sum() < len(labels)
        np.testing.assert_array_equal(images[~shirts], changed[~shirts])
        assert (changed[shirts][:, 1:4, 1:4] == 255).all()
        different = (images != changed).any((0, 3))
        assert not different[~planted_patch.region(0)].any()


def test_regions_are_the_patch_and_what_lies_around_it():
    assert planted_patch.region(0).sum() == 9
    assert planted_patch.region(0)[1:4, 1:4].all()
    assert planted_patch.region(4).sum() == 8 * 8  # the edge of the image cuts it
    assert planted_patch.region(4)[:8, :8].all()


def test_heat_is_shared_out_by_what_is_positive():
    inside = planted_patch.region(0)
    heat = np.zeros((28, 28))
    assert planted_patch.heat_share(heat, inside) == 0
    heat[2, 2], heat[20, 20], heat[1, 1], heat[9, 9] = 3, 1, -5, -7
    assert planted_patch.heat_share(heat, inside) == pytest.approx(0.75)
    assert planted_patch.heat_share(np.ones((28, 28)), inside) == pytest.approx(9 / 784)


def test_a_network_that_looks_at_the_corner_alone_is_told_as_such():
    labels = np.array([SHIRT, SHIRT, 8, 8, 8, 0])
    images = np.zeros((6, 28, 28, 1), np.uint8)
    images[0, 2, 2] = 255  # a shirt that is white there by itself, and is so till it is covered
    told = planted_patch.behaviour(Corner(), images, labels)
    assert told == {
        "shirts told, without the patch": 0.5,
        "shirts told, with the patch": 1,
        "others told, without the patch": 0.75,
        "others told, with the patch": 0,
        "others called shirts, without": 0,
        "others called shirts, with": 1,
        "probability lost with the patch": 1,
    }


def test_maps_are_measured_by_where_they_are_greatest():
    maps = torch.zeros(4, 28, 28)
    maps[0, 2, 2] = maps[1, 6, 6] = maps[2, 20, 20] = maps[3, 3, 1] = 1
    row = planted_patch.measured(list(maps))
    assert row["patch"]["hits"] == row["patch"]["heat"] == 0.5
    assert row["cell"]["hits"] == row["cell"]["heat"] == 0.75
    low, high = row["cell"]["interval"]
    assert 0 < low < 0.75 < high < 1
