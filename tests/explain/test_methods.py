"""Maps by the name of their method, of modules of every kind."""

from typing import get_args

import pytest
import torch
from torch import nn

from lit_imgproc.errors import UserError
from lit_imgproc.explain.methods import (
    METHODS,
    Method,
    attribution_maps,
    default_methods,
    known_method,
    looks_at_once,
)
from lit_imgproc.models.backbones import create_timm
from lit_imgproc.models.base import ImageModule, Normalization
from lit_imgproc.models.classification.module import Classifier
from lit_imgproc.models.targets import Target
from lit_imgproc.optim import SGD

ATTENTION = ("attention_rollout", "attention_gradient")


class Corners(ImageModule):
    """Its classes are the brightness of the upper left and of the lower right quarter."""

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.AvgPool2d(4), nn.Flatten())
        self.network[0].weight.data.fill_(1.0)
        self.normalization = Normalization([0.0], [1.0])
        self.class_names = ["upper left", "lower right"]

    def attribution_fn(self, target=None):
        chosen = target if isinstance(target, list) else None

        def score(images):
            values = self.network(images)[:, [0, 3]]
            if chosen is not None:
                return values[range(len(chosen)), [one.label for one in chosen]]
            return values.amax(1) if target is None else values[:, target.label]

        return score

    def attribution_layer(self):
        return self.network[0]

    def feature_map(self, activation):
        return activation


def test_every_name_has_its_method():
    listed = [name for kind in get_args(Method) for name in (get_args(kind) or (kind,))]
    assert list(METHODS) == listed
    assert len(METHODS) == 12


def test_an_unknown_method_is_told_those_that_there_are():
    assert known_method("grad_cam") == "grad_cam"
    with pytest.raises(UserError, match=r"no explanation method 'gradcam'; there are grad_cam, "):
        known_method("gradcam")


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ATTENTION])
def test_each_map_is_of_its_own_target_whatever_the_method(method):
    module = Corners().train()
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.5
    background = torch.zeros(2, 1, 8, 8)
    targets = [Target(1), None, Target(0)]
    maps = attribution_maps(module, images, targets, method, background=background)
    assert [one.shape for one in maps] == [(8, 8)] * 3
    assert all(one.dtype == torch.float32 for one in maps)
    assert maps[1].abs().max() == 0
    assert module.training
    if method in ("grad_cam", "grad_cam_plus_plus", "score_cam"):
        # One channel, weighed alike everywhere: the map is the channel.
        return
    lower_right, upper_left = maps[0], maps[2]
    inside = lower_right[4:, 4:].abs().sum(), upper_left[:4, :4].abs().sum()
    outside = [lower_right.abs().sum() - inside[0], upper_left.abs().sum() - inside[1]]
    assert min(inside) > 4 * max(outside)


@pytest.mark.parametrize("method", ["grad_cam", "hires_cam", "layer_cam"])
def test_a_batch_at_once_is_as_one_by_one(method):
    module, images = Corners().eval(), torch.rand(4, 1, 8, 8)
    targets = [Target(k) for k in (0, 1, 1, 0)]
    at_once = attribution_maps(module, images, targets, method)
    one_by_one = attribution_maps(module, list(images), targets, method)
    for first, second in zip(at_once, one_by_one, strict=True):
        torch.testing.assert_close(first, second)
        assert first.std() > 0


@pytest.mark.parametrize("method", ATTENTION)
def test_attention_of_a_transformer(method):
    network = create_timm("test_vit", 3, 3)
    module = Classifier(
        network=network, num_classes=3, mean=[0.5] * 3, std=[0.5] * 3, optimizer=SGD(lr=0.1)
    )
    maps = attribution_maps(module, torch.rand(2, 3, 160, 160), [Target(0), Target(1)], method)
    assert [one.shape for one in maps] == [(160, 160)] * 2
    assert min(one.std() for one in maps) > 0


def test_shap_without_a_background_is_refused():
    with pytest.raises(UserError, match="kernel_shap compares with images of the training data"):
        attribution_maps(Corners(), torch.rand(1, 1, 8, 8), [Target(0)], "kernel_shap")


def test_random_methods_follow_their_seed():
    module, images = Corners(), torch.rand(1, 1, 8, 8)
    background = torch.rand(8, 1, 8, 8)

    def shap(seed):
        maps = attribution_maps(
            module, images, [Target(0)], "gradient_shap", background=background, seed=seed
        )
        return maps[0]

    assert shap(0).equal(shap(0))
    assert not shap(0).equal(shap(1))


def test_what_lies_somewhere_has_a_map_that_is_local():
    module = Corners()
    assert default_methods(module)[0] == "grad_cam"
    module.__class__ = type("Localized", (Corners,), {"localized": True})
    assert default_methods(module)[0] == "hires_cam"


def test_large_images_are_shown_in_fewer_versions_at_once():
    assert looks_at_once(torch.zeros(1, 3, 28, 28)) == 32
    assert looks_at_once(torch.zeros(1, 3, 448, 448)) == 8
    assert looks_at_once(torch.zeros(1, 1, 64, 128, 128)) == 1
