import pytest
import torch

from lit_imgproc.models.backbones import attribution_layer, first_convs, head_modules

pytest.importorskip("monai", reason="needs the `medical` extra")

from lit_imgproc.models.segmentation.volumetric import basic_unet_3d, unet_3d

SMALL = {
    "residual": lambda **given: unet_3d(channels=(2, 4, 8), **given),
    "plain": lambda **given: unet_3d(channels=(2, 4, 8), num_res_units=0, **given),
    "basic": lambda **given: basic_unet_3d(channels=(2, 2, 2, 4, 4, 2), **given),
}


@pytest.mark.parametrize(
    ("make", "norm", "parameters"),
    [
        (unet_3d, "instance", 4_806_481),
        (unet_3d, "batch", 4_808_917),
        (basic_unet_3d, "instance", 5_749_410),
        (basic_unet_3d, "batch", 5_749_410),
    ],
)
def test_have_as_many_parameters_as_those_of_monai(make, norm, parameters):
    with torch.device("meta"):
        network = make(num_classes=2, norm=norm)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert network.divisor == 16


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("name", SMALL)
def test_every_voxel_gets_logits_and_every_parameter_learns(name, norm):
    torch.manual_seed(0)
    network = SMALL[name](num_classes=3, in_channels=2, norm=norm)
    depth, height, width = (network.divisor * n for n in (1, 2, 3))
    logits = network(torch.rand(2, 2, depth, height, width))
    assert logits.shape == (2, 3, depth, height, width)
    logits.square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    assert (network.margin, network.remainder) == (0, 0)


@pytest.mark.parametrize("channels", [1, 5, 13])
@pytest.mark.parametrize("name", SMALL)
def test_say_what_they_are_made_of(name, channels):
    network = SMALL[name](num_classes=7, in_channels=channels)
    seeing = {n for n, m in network.named_modules() if getattr(m, "in_channels", 0) == channels}
    assert set(first_convs(network)) <= seeing
    (head,) = head_modules(network)
    kept = dict(network.named_parameters())
    other = dict(SMALL[name](num_classes=2, in_channels=channels).named_parameters())
    of_head = {n for n in kept if n.startswith(f"{head}.")}
    assert {n for n in kept if kept[n].shape != other[n].shape} <= of_head
    assert of_head
    assert attribution_layer(network) in network.modules()


def test_dropout_is_what_it_is_set_to():
    network = SMALL["residual"](num_classes=2, dropout=0.3)
    rates = {m.p for m in network.modules() if isinstance(m, torch.nn.Dropout)}
    assert rates == {0.3}
