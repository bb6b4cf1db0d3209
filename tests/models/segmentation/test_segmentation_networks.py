from functools import partial

import pytest
import torch
import torch.nn.functional as F
import torchvision

from lit_imgproc.errors import UserError
from lit_imgproc.models.backbones import attribution_layer, first_convs, head_modules
from lit_imgproc.models.segmentation import networks
from lit_imgproc.models.segmentation.fcn import fcn8s, fcn16s, fcn32s
from lit_imgproc.models.segmentation.networks import (
    deeplabv3_plus,
    segformer,
    unet,
    unet_plus_plus,
)

PUBLISHED = {
    "fcn_resnet50": (35_322_218, 32_957_013),
    "fcn_resnet101": (54_314_346, 51_949_141),
    "deeplabv3_resnet50": (42_004_074, 39_638_869),
    "deeplabv3_resnet101": (60_996_202, 58_630_997),
    "deeplabv3_mobilenet_v3_large": (11_029_328, 11_025_477),
}
"""Parameters for 21 classes, with the auxiliary head and without."""

ON_TIMM = {
    "unet": partial(unet, "test_resnet"),
    "unet_small": partial(unet, "test_efficientnet", decoder_channels=(32, 16, 16, 8, 8)),
    "unet_on_convnext": partial(unet, "test_convnext"),
    "unet_plus_plus": partial(unet_plus_plus, "test_resnet"),
    "deeplabv3_plus": partial(deeplabv3_plus, "test_resnet", decoder_channels=32),
    "deeplabv3_plus_at_8": partial(
        deeplabv3_plus, "test_efficientnet", output_stride=8, decoder_channels=32
    ),
    "segformer": partial(segformer, trunk="mit_b0"),
}
OF_TORCHVISION = {name: getattr(networks, name) for name in PUBLISHED}
FCNS = {make.__name__: partial(make, fc_channels=16) for make in (fcn32s, fcn16s, fcn8s)}


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def on_meta(make, *args, **kwargs):
    with torch.device("meta"):
        return make(*args, **kwargs)


# What they are made of ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "trunk", "parameters"),
    [
        (unet, "resnet18", 14_331_109),
        (unet, "resnet34", 24_439_269),
        (deeplabv3_plus, "resnet34", 22_442_597),
        (deeplabv3_plus, "resnet50", 26_682_725),
        (deeplabv3_plus, "resnet101", 45_674_853),
    ],
)
def test_networks_on_trunks_of_timm_have_as_many_parameters_as_those_of_smp(
    make, trunk, parameters
):
    assert count(on_meta(make, trunk, 21)) == parameters


@pytest.mark.parametrize("name", PUBLISHED)
def test_networks_of_torchvision_have_as_many_parameters_as_it_says(name):
    made = [on_meta(getattr(networks, name), 21, auxiliary=aux) for aux in (True, False)]
    assert tuple(map(count, made)) == PUBLISHED[name]
    published = torchvision.models.get_model_weights(name).DEFAULT
    assert published.meta["num_params"] == PUBLISHED[name][0]


@pytest.mark.parametrize(("trunk", "millions"), [("mit_b0", 3.8), ("mit_b1", 13.7)])
def test_segformer_is_as_large_as_in_the_paper_for_the_150_classes_of_ade20k(trunk, millions):
    assert round(count(segformer(150, trunk)) / 1e6, 1) == millions


@pytest.mark.parametrize(("make", "channels"), [("mit_b1", 256), ("mit_b2", 768)])
def test_segformer_s_decoder_is_as_wide_as_in_the_paper(make, channels):
    assert segformer(3, make).segmentation_head[0].in_channels == channels


@pytest.mark.parametrize("channels", [1, 5, 13])
@pytest.mark.parametrize("name", [*ON_TIMM, *OF_TORCHVISION, *FCNS])
def test_every_network_says_what_it_is_made_of(name, channels):
    make = {**ON_TIMM, **OF_TORCHVISION, **FCNS}[name]
    # Mix Transformers cannot be built on the meta device.
    build = make if name == "segformer" else partial(on_meta, make)
    network = build(7, in_channels=channels)
    (first,) = first_convs(network)
    assert network.get_parameter(f"{first}.weight").shape[1] == channels
    modules = dict(network.named_modules())
    heads = [modules[head] for head in head_modules(network) if head in modules]
    assert all(any(7 in p.shape for p in head.parameters()) for head in heads)
    assert heads
    assert attribution_layer(network) in modules.values()
    assert {"trunk", "trunk_source", "trunk_module", "mean", "std"} <= set(network.pretrained_cfg)
    assert network.get_submodule(network.pretrained_cfg["trunk_module"])
    assert first.startswith(network.pretrained_cfg["trunk_module"] + ".")
    assert (network.margin, network.remainder) == (0, 0)


# What they give ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*ON_TIMM, *OF_TORCHVISION, *FCNS])
def test_logits_are_as_large_as_the_image(name):
    make = {**ON_TIMM, **OF_TORCHVISION, **FCNS}[name]
    build = make if name == "segformer" else partial(on_meta, make)
    network = build(1, in_channels=2).eval()
    device = next(network.parameters()).device
    step = max(network.divisor, 16)
    for height, width in ((step, 2 * step), (3 * step, step)):
        with torch.no_grad():
            logits = network(torch.rand(1, 2, height, width, device=device))
        assert logits.shape == (1, 1, height, width)
        assert logits.dtype == torch.float32


@pytest.mark.parametrize("name", ["fcn_resnet50", "deeplabv3_mobilenet_v3_large"])
def test_the_auxiliary_head_gives_its_logits_in_training_alone(name):
    network = on_meta(OF_TORCHVISION[name], 5)
    images = torch.rand(2, 3, 65, 40, device="meta")  # of any size
    logits, auxiliary = network(images)
    assert logits.shape == auxiliary.shape == (2, 5, 65, 40)
    assert network.eval()(images).shape == (2, 5, 65, 40)
    without = on_meta(OF_TORCHVISION[name], 5, auxiliary=False)
    assert without(images).shape == (2, 5, 65, 40)


def test_computes_what_torchvision_computes():
    torch.manual_seed(0)
    ours = networks.deeplabv3_mobilenet_v3_large(num_classes=4).eval()
    theirs = torchvision.models.get_model(
        "deeplabv3_mobilenet_v3_large",
        weights=None,
        weights_backbone=None,
        num_classes=4,
        aux_loss=True,
    ).eval()
    theirs.load_state_dict(ours.state_dict())
    images = torch.rand(1, 3, 70, 50)
    with torch.no_grad():
        reference = theirs(images)
        torch.testing.assert_close(ours(images), reference["out"])
        ours.training = True  # but not its dropout
        logits, auxiliary = ours(images)
    assert reference["out"].std() > 0
    torch.testing.assert_close(logits, reference["out"])
    torch.testing.assert_close(auxiliary, reference["aux"])


@pytest.mark.parametrize("name", ON_TIMM)
def test_every_parameter_is_learned(name):
    torch.manual_seed(0)
    network = ON_TIMM[name](3)
    network(torch.rand(2, 3, 64, 64)).square().sum().backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all()


def test_trunks_that_were_made_for_one_size_take_others():
    network = on_meta(unet, "swin_tiny_patch4_window7_224", 3).eval()
    assert network(torch.rand(1, 3, 96, 64, device="meta")).shape == (1, 3, 96, 64)


# DeepLab -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stride", "rates"), [(16, [6, 12, 18]), (8, [12, 24, 36])])
def test_deeplabv3_plus_has_the_rates_and_strides_of_the_paper(stride, rates):
    network = on_meta(deeplabv3_plus, "resnet18", 3, output_stride=stride).eval()
    pyramid, decoder = network.decoder.aspp[0], network.decoder
    assert [branch[0][0].dilation[0] for branch in pyramid.convs[1:4]] == rates
    assert decoder.block1[0].out_channels == 48
    seen = {}
    pyramid.register_forward_hook(lambda *call: seen.update(coarse=call[2].shape))
    decoder.register_forward_hook(lambda *call: seen.update(fine=call[2].shape))
    network(torch.rand(1, 3, 96, 64, device="meta"))
    assert seen["coarse"] == (1, 256, 96 // stride, 64 // stride)
    assert seen["fine"] == (1, 256, 24, 16)


def test_torchvision_s_deeplabv3_has_the_rates_of_output_stride_8():
    network = on_meta(networks.deeplabv3_resnet50, 3)
    assert [branch[0].dilation[0] for branch in network.classifier[0].convs[1:4]] == [12, 24, 36]
    features = network.eval().backbone(torch.rand(1, 3, 64, 64, device="meta"))
    assert features["out"].shape[-2:] == (8, 8)


def test_a_dilated_convolution_is_one_with_zeros_in_its_kernel():
    network = deeplabv3_plus("test_resnet", 3, decoder_channels=8)
    convolution = network.decoder.aspp[0].convs[1][0][0]  # of each channel by itself
    rate, channels = convolution.dilation[0], convolution.in_channels
    kernel = torch.zeros(channels, 1, 2 * rate + 1, 2 * rate + 1)
    kernel[..., ::rate, ::rate] = convolution.weight.detach()
    maps = torch.rand(1, channels, 20, 17)
    with torch.no_grad():
        expected = F.conv2d(maps, kernel, padding=rate, groups=channels)
        torch.testing.assert_close(convolution(maps), expected)


def test_weights_of_stride_16_are_evaluated_at_8():
    torch.manual_seed(0)
    at_16 = deeplabv3_plus("resnet18", 3).eval()
    at_8 = deeplabv3_plus("resnet18", 3, output_stride=8).eval()
    at_8.load_state_dict(at_16.state_dict())
    images = torch.rand(1, 3, 96, 64)
    with torch.no_grad():
        coarse, fine = at_16.encoder(images)[-1], at_8.encoder(images)[-1]
        assert fine.shape[-2:] == (12, 8)
        # The same features, with others between them: à trous.
        torch.testing.assert_close(fine[..., ::2, ::2], coarse)
        for k in range(4):
            one, other = (n.decoder.aspp[0].convs[k] for n in (at_16, at_8))
            torch.testing.assert_close(other(fine)[..., ::2, ::2], one(coarse))


# What cannot be made -----------------------------------------------------------------------------


def test_an_unknown_trunk_is_one_sentence_with_a_hint():
    with pytest.raises(UserError, match=r"no model resnet51,.*Did you mean .*resnet50") as caught:
        unet("resnet51", 2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [unet, unet_plus_plus, deeplabv3_plus])
def test_a_trunk_of_one_level_is_one_sentence(make):
    with pytest.raises(UserError, match=r"test_vit cannot be the trunk.*strides 4, 8, 16"):
        make("test_vit", 2)


def test_a_trunk_that_cannot_be_dilated_is_one_sentence():
    with pytest.raises(UserError, match="to be dilated to stride 8"):
        deeplabv3_plus("densenet121", 2, output_stride=8)
