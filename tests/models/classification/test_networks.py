import inspect
import math

import pytest
import timm
import torch
import torchvision

from lit_imgproc.errors import UserError
from lit_imgproc.models.backbones import attribution_layer
from lit_imgproc.models.classification import networks, small

# Published counts for 1,000 classes (torchvision's metadata, timm, the papers), each network at
# the three channels and the size of image that it was published for.
IMAGENET_PARAMETERS = {
    "alexnet": 61_100_840,
    "vgg11": 132_863_336,
    "vgg13": 133_047_848,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "vgg11_bn": 132_868_840,
    "vgg13_bn": 133_053_736,
    "vgg16_bn": 138_365_992,
    "vgg19_bn": 143_678_248,
    "googlenet": 13_004_888,
    "inception_v3": 27_161_264,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "efficientnet_b0": 5_288_548,
    "efficientnet_b1": 7_794_184,
    "efficientnet_b2": 9_109_994,
    "efficientnet_b3": 12_233_232,
    "efficientnet_b4": 19_341_616,
    "efficientnet_b5": 30_389_784,
    "efficientnet_b6": 43_040_704,
    "efficientnet_b7": 66_347_960,
    "efficientnetv2_s": 21_458_488,
    "efficientnet_lite0": 4_652_008,
    "efficientnet_lite1": 5_416_680,
    "efficientnet_lite2": 6_092_072,
    "vit_ti_16": 5_717_416,
    "vit_s_16": 22_050_664,
    "vit_b_16": 86_567_656,
    "vit_b_32": 88_224_232,
    "vit_l_16": 304_326_632,
}
CIFAR_PARAMETERS = {
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
}


def count(network):
    return sum(p.numel() for p in network.parameters())


def on_meta(name, *args, **kwargs):
    """A network without memory behind its parameters: enough to count them."""
    with torch.device("meta"):
        return getattr(networks, name)(*args, **kwargs)


def made(build, *args, **kwargs):
    torch.manual_seed(0)
    return build(*args, **kwargs).eval()


@pytest.mark.parametrize(("name", "expected"), IMAGENET_PARAMETERS.items())
def test_parameters_of_imagenet_networks(name, expected):
    assert count(on_meta(name, 1000)) == expected


@pytest.mark.parametrize(("name", "expected"), CIFAR_PARAMETERS.items())
def test_parameters_of_cifar_resnets(name, expected):
    assert count(on_meta(name, 10)) == expected


@pytest.mark.parametrize("name", ["alexnet", "vgg16_bn", "inception_v3", "googlenet", "resnet50"])
def test_parameters_are_those_that_torchvision_states(name):
    stated = torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"]
    without_heads = {"auxiliary": False} if name == "googlenet" else {}
    assert count(on_meta(name, 1000, **without_heads)) == stated


def test_parameters_without_auxiliary_heads():
    assert count(on_meta("googlenet", 1000, auxiliary=False)) == 6_624_904
    assert count(on_meta("inception_v3", 1000, auxiliary=False)) == 23_834_568


def test_parameters_of_the_cifar_stem():
    assert count(on_meta("resnet18", 10, stem="cifar")) == 11_173_962


@pytest.mark.parametrize(
    ("name", "arguments", "theirs", "size"),
    [
        ("alexnet", {}, {}, 63),
        ("vgg11", {}, {}, 32),
        ("googlenet", {}, {"init_weights": False}, 64),
        ("inception_v3", {"auxiliary": False}, {"aux_logits": False, "init_weights": False}, 75),
    ],
)
def test_logits_are_torchvisions(name, arguments, theirs, size):
    ours = made(getattr(networks, name), 7, **arguments)
    if name == "googlenet":
        theirs = {"aux_logits": True, **theirs}
    with torch.device("meta"):
        reference = torchvision.models.get_model(name, num_classes=7, **theirs).eval()
    reference.load_state_dict(ours.state_dict(), assign=True)
    images = torch.randn(1, 3, size, size)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), reference(images), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_logits_of_timms_resnets_are_torchvisions(name):
    ours = made(getattr(networks, name), 7)
    reference = torchvision.models.get_model(name, num_classes=7).eval()
    reference.load_state_dict(ours.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), reference(images))


def test_logits_of_timms_efficientnet_are_torchvisions():
    ours = made(networks.efficientnet_b0, 7)
    reference = torchvision.models.efficientnet_b0(num_classes=7).eval()
    # The same layers in the same order, under other names.
    names = dict(zip(reference.state_dict(), ours.state_dict().values(), strict=True))
    reference.load_state_dict(names)
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), reference(images))


def test_logits_of_timms_vit_are_torchvisions():
    ours = made(networks.vit_ti_16, 7, image_size=32)
    reference = torchvision.models.VisionTransformer(
        image_size=32,
        patch_size=16,
        num_layers=12,
        num_heads=3,
        hidden_dim=192,
        mlp_dim=768,
        num_classes=7,
    ).eval()
    state = ours.state_dict()
    renamed = {
        "class_token": state["cls_token"],
        "encoder.pos_embedding": state["pos_embed"],
        **{f"conv_proj.{p}": state[f"patch_embed.proj.{p}"] for p in ("weight", "bias")},
        **{f"encoder.ln.{p}": state[f"norm.{p}"] for p in ("weight", "bias")},
        **{f"heads.head.{p}": state[f"head.{p}"] for p in ("weight", "bias")},
    }
    layers = {
        "norm1.": "ln_1.",
        "attn.qkv.": "self_attention.in_proj_",
        "attn.proj.": "self_attention.out_proj.",
        "norm2.": "ln_2.",
        "mlp.fc1.": "mlp.0.",
        "mlp.fc2.": "mlp.3.",
    }
    for i in range(12):
        for mine, theirs in layers.items():
            for p in ("weight", "bias"):
                key = f"encoder.layers.encoder_layer_{i}.{theirs}{p}"
                renamed[key] = state[f"blocks.{i}.{mine}{p}"]
    reference.load_state_dict(renamed)
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), reference(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "model", "arguments"),
    [
        ("efficientnet_lite0", "tf_efficientnet_lite0", {}),
        ("test_resnet", "test_resnet", {}),
        ("test_efficientnet", "test_efficientnet", {"drop_rate": 0.1, "drop_path_rate": 0.1}),
        ("test_vit", "test_vit", {"image_size": (32, 48)}),
    ],
)
def test_logits_are_timms(name, model, arguments):
    ours = made(getattr(networks, name), 7, 1, **arguments)
    size = arguments.get("image_size", (32, 48))
    theirs = {"img_size": size} if "image_size" in arguments else {}
    reference = timm.create_model(model, num_classes=7, in_chans=1, **theirs).eval()
    reference.load_state_dict(ours.state_dict())
    images = torch.randn(2, 1, *size)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), reference(images), rtol=0, atol=0)


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize(
    ("name", "arguments", "size"),
    [
        ("googlenet", {"auxiliary": False}, 32),
        ("inception_v3", {"auxiliary": False}, 75),
        ("resnet18", {"stem": "cifar"}, 16),
        ("resnet20", {}, 16),
        ("efficientnet_b0", {}, 32),
        ("vit_ti_16", {"image_size": 32}, 32),
        ("convnet", {}, 28),
    ],
)
def test_any_number_of_channels(name, arguments, size, channels):
    network = made(getattr(networks, name), 5, channels, **arguments)
    with torch.inference_mode():
        logits = network(torch.randn(2, channels, size, size))
    assert logits.shape == (2, 5)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", ["alexnet", "vgg11", "vgg19_bn"])
def test_any_number_of_channels_of_large_networks(name):
    network = on_meta(name, 5, 2)
    assert network(torch.empty(1, 2, 63, 63, device="meta")).shape == (1, 5)
    assert network.features[0].stride == on_meta(name, 5).features[0].stride


def test_auxiliary_heads_answer_in_training_alone():
    network = networks.googlenet(4)
    images = torch.randn(2, 3, 64, 64)
    assert [tuple(head.shape) for head in network(images)] == [(2, 4)] * 3
    assert network.eval()(images).shape == (2, 4)


def test_inceptions_auxiliary_head_answers_in_training():
    network = on_meta("inception_v3", 4)
    main, auxiliary = network(torch.empty(2, 3, 299, 299, device="meta"))
    assert main.shape == auxiliary.shape == (2, 4)


def test_cifar_stem_keeps_the_size():
    network = made(networks.resnet18, 5, stem="cifar")
    with torch.inference_mode():
        features = network.forward_features(torch.randn(1, 3, 32, 32))
    assert features.shape == (1, 512, 4, 4)


def test_shortcut_takes_every_second_pixel_and_pads_channels():
    block = small.CifarBlock(2, 4, stride=2).eval()
    torch.nn.init.zeros_(block.bn2.weight)
    x = torch.rand(1, 2, 4, 4)
    expected = torch.zeros(1, 4, 2, 2)
    expected[:, 1:3] = x[:, :, ::2, ::2]
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_depth_counts_the_layers_with_weights(depth):
    with torch.device("meta"):
        network = small.CifarResNet(depth, 10)
    layers = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert len(layers) == depth


def test_convnet_is_small():
    assert count(networks.convnet(10, 1)) == 41_338


def test_signature_is_that_of_the_family_without_its_model():
    signature = inspect.signature(networks.vit_b_16)
    assert list(signature.parameters) == [
        "num_classes",
        "in_channels",
        "drop_rate",
        "drop_path_rate",
        "image_size",
    ]
    assert inspect.get_annotations(networks.vit_b_16)["drop_rate"] == networks.Rate
    assert networks.vit_b_16.__doc__.startswith("ViT-B/16")


def test_timm_makes_any_classifier():
    network = made(networks.timm, "convnext_atto", 3, 2, drop_path_rate=0.1, image_size=(32, 32))
    with torch.inference_mode():
        assert network(torch.randn(1, 2, 32, 32)).shape == (1, 3)


def test_timm_passes_the_size_to_networks_made_for_one():
    network = networks.timm("test_vit", 3, image_size=(32, 64))
    assert network.patch_embed.num_patches == math.prod((2, 4))


def test_unknown_model_has_its_neighbours_named():
    with pytest.raises(UserError, match="Did you mean resnet18"):
        networks.timm("resnet_18", 3)


def test_argument_that_the_model_does_not_take():
    with (
        pytest.raises(UserError, match=r"vgg11 cannot be made with .*drop_path_rate"),
        torch.device("meta"),
    ):
        networks.timm("vgg11", 3, drop_path_rate=0.1)


@pytest.mark.parametrize(("name", "size"), [("vit_ti_16", 28), ("vit_b_32", (32, 48))])
def test_images_that_cannot_be_cut_into_patches(name, size):
    with pytest.raises(UserError, match="not a multiple of that"):
        on_meta(name, 3, image_size=size)


def test_networks_without_a_fixed_size_take_any():
    assert count(on_meta("timm", "test_resnet", 10, image_size=(30, 31))) == 373_658


def test_convnet_is_explained_after_its_activation():
    """Before it, half of what is weighed is below zero, and half of the maps were empty."""
    network = networks.convnet(10, 1).eval()
    seen = []
    attribution_layer(network).register_forward_hook(lambda *args: seen.append(args[-1]))
    network(torch.rand(2, 1, 28, 28))
    assert seen[0].shape == (2, 96, 7, 7)
    assert seen[0].min() == 0
