"""Images explained and measured: a network whose reasons are known."""

import numpy as np
import pytest
import torch
from torch import nn

from lit_imgproc.explain import sanity
from lit_imgproc.explain.report import RANDOM, explain
from lit_imgproc.models.classification.module import Classifier
from lit_imgproc.optim import SGD

SIDE = 32


class Halves(nn.Module):
    """Class 1 where there is something in the left half, class 0 otherwise."""

    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(1, 4, 3, padding=1)
        self.classifier = nn.Linear(4 * 64, 2)
        torch.manual_seed(0)
        nn.init.uniform_(self.features.weight, 0.1, 0.3)
        nn.init.zeros_(self.features.bias)
        left = torch.zeros(4, 8, 8)
        left[:, :, :4] = 0.2
        self.classifier.weight.data = torch.stack([-left.flatten(), left.flatten()])
        self.classifier.bias.data = torch.tensor([4.0, -4.0])

    def forward(self, images):
        return self.classifier(nn.functional.avg_pool2d(self.features(images), 4).flatten(1))


@pytest.fixture
def module():
    return Classifier(
        network=Halves(), num_classes=2, class_names=["empty", "left"], mean=[0.0], std=[1.0],
        optimizer=SGD(lr=0.1),
    ).eval()  # fmt: skip


def square(row, column, side=10):
    image = torch.zeros(1, 1, SIDE, SIDE)
    image[..., row : row + side, column : column + side] = 1
    return image


def batch(name, image, **truth):
    return {"id": [name], "image": image, **truth}


def boxes(row, column, side=10, label=1):
    corners = [float(column), float(row), float(column + side), float(row + side)]
    return {"boxes": [torch.tensor([corners])], "labels": [torch.tensor([label])]}


def test_what_is_said_of_an_image(module):
    labelled = batch("a.png", square(4, 3), label=torch.tensor([1]))
    (one,) = explain(module, [labelled], ["hires_cam"], measure=False).explanations
    assert (one.id, one.target_name, one.truth, one.target.label) == ("a.png", "left", "left", 1)
    assert one.prediction["label"] == "left"
    assert one.image.shape == (1, SIDE, SIDE)
    assert one.maps["hires_cam"].shape == (SIDE, SIDE)
    assert one.maps["hires_cam"].dtype == np.float32
    assert one.numbers == {}


def test_without_measuring_there_are_only_maps(module):
    report = explain(module, [batch("a", square(4, 3))], ["hires_cam"], measure=False)
    assert (report.means, report.similarity, report.agreement, report.failed) == ({}, {}, {}, [])


def test_a_class_that_is_asked_for_is_explained(module):
    (one,) = explain(
        module, [batch("a", square(4, 3))], ["hires_cam"], label=0, measure=False
    ).explanations
    assert (one.target_name, one.prediction["label"]) == ("empty", "left")


def test_a_faithful_map_is_told_from_noise(module):
    looks = [batch(str(i), square(4 * i, i), **boxes(4 * i, i)) for i in range(4)]
    report = explain(module, looks, ["hires_cam", "occlusion"])
    for method in ("hires_cam", "occlusion"):
        found, noise = report.means[method], report.means[RANDOM]
        assert found["deletion"] < noise["deletion"] - 0.1
        assert found["insertion"] > noise["insertion"]
        assert found["pointing"] == 1
        assert found["pointing_low"] == pytest.approx(0.5101, abs=1e-4)  # Wilson's of 4 of 4
        assert found["pointing_high"] == pytest.approx(1)
    assert report.agreement["hires_cam"]["hires_cam"] == pytest.approx(1)
    assert report.agreement["hires_cam"]["occlusion"] > 0.3
    # A method of many looks is checked with all weights random alone.
    lengths = {method: len(row) for method, row in report.similarity.items()}
    assert lengths == {"hires_cam": 4, "occlusion": 1}
    assert set(report.explanations[0].numbers) == {"hires_cam", "occlusion", RANDOM}


def test_only_the_objects_of_the_target_are_pointed_at(module):
    truth = boxes(4, 3)
    elsewhere = {
        "boxes": [torch.tensor([[20.0, 20.0, 30.0, 30.0]])], "labels": [torch.tensor([1])]
    }  # fmt: skip
    other = {**truth, "labels": [torch.tensor([0])]}
    for there, expected in ((truth, 1.0), (elsewhere, 0.0), (other, None)):
        report = explain(module, [batch("a", square(4, 3), **there)], ["hires_cam"])
        assert report.means["hires_cam"].get("pointing") == expected


def test_masks_are_pointed_at_too(module):
    mask = square(4, 3)[:, 0].long()
    report = explain(module, [batch("a", square(4, 3), mask=mask)], ["hires_cam"])
    assert report.means["hires_cam"]["pointing"] == 1


def test_a_method_that_ignores_the_network_fails(module, monkeypatch):
    from lit_imgproc.explain import report as reports

    def edges(module, images, targets, method, **options):
        return [image[0].diff(dim=1, prepend=image[0, :, :1]).abs() for image in images]

    monkeypatch.setattr(reports, "attribution_maps", edges)
    looks = [batch(str(i), square(4 * i, i)) for i in range(3)]
    found = explain(module, looks, ["smooth_grad"])
    assert found.similarity["smooth_grad"] == pytest.approx([1])
    assert found.failed == ["smooth_grad"]
    monkeypatch.setattr(sanity, "FAILED", 1.1)
    assert explain(module, looks, ["smooth_grad"]).failed == []


def test_where_nothing_is_found_there_is_no_map(module, monkeypatch):
    monkeypatch.setattr(module, "attribution_targets", lambda *_: [None])
    report = explain(module, [batch("a", square(4, 3))], ["hires_cam"])
    (one,) = report.explanations
    assert (one.target, one.target_name, one.maps, one.numbers) == (None, "", {}, {})
    assert (report.means, report.similarity["hires_cam"], report.failed) == ({}, [], [])


def test_the_module_is_as_it_was(module):
    module.train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = torch.get_rng_state()
    explain(
        module, [batch("a", square(4, 3))], ["hires_cam", "kernel_shap"],
        background=torch.zeros(2, 1, SIDE, SIDE),
    )  # fmt: skip
    assert module.training
    assert all(value.equal(before[name]) for name, value in module.state_dict().items())
    assert torch.get_rng_state().equal(state)
    assert all(parameter.grad is None for parameter in module.parameters())
