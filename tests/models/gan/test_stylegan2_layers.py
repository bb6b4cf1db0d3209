import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from lit_imgproc.models.gan.stylegan2_layers import (
    EqualConv,
    EqualLinear,
    Fir,
    MinibatchStd,
    activate,
    demodulation,
    modulated_conv,
    normalize_second_moment,
)

TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
KERNEL = torch.outer(TAPS, TAPS)


def filtered(x, before, after):
    """Each channel filtered, with zeros at the edges: the definition."""
    channels = x.shape[1]
    padded = F.pad(x, (before, after, before, after))
    return F.conv2d(padded, KERNEL.expand(channels, 1, 4, 4), groups=channels)


def with_zeros(x):
    """Zeros after each pixel."""
    spread = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    spread[:, :, ::2, ::2] = x
    return spread


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_demodulated_weights_have_unit_norm_in_each_output_channel():
    weight, styles = torch.randn(6, 5, 3, 3), torch.randn(2, 5)
    modulated = weight[None] * styles[:, None, :, None, None]
    demodulated = modulated * demodulation(weight, styles)[:, :, None, None, None]
    assert torch.allclose(demodulated.flatten(2).norm(dim=2), torch.ones(2, 6), atol=1e-5)


@pytest.mark.parametrize("up", [False, True])
def test_a_modulated_convolution_is_that_of_weights_of_each_image(up):
    x, weight, styles = torch.randn(3, 5, 8, 8), torch.randn(6, 5, 3, 3), torch.randn(3, 5)
    own = weight[None] * styles[:, None, :, None, None]
    own = own / own.flatten(2).norm(dim=2)[:, :, None, None, None]
    if up:
        y = F.conv_transpose2d(
            x.flatten(0, 1)[None], own.transpose(1, 2).flatten(0, 1), stride=2, groups=3
        )
        y = 4 * filtered(y.view(3, 6, 17, 17), 1, 1)
    else:
        y = F.conv2d(x.flatten(0, 1)[None], own.flatten(0, 1), padding=1, groups=3)
        y = y.view(3, 6, 8, 8)
    found = modulated_conv(x, weight, styles, fir=Fir() if up else None)
    assert torch.allclose(found, y, atol=1e-5)


def test_upsampling_is_zeros_between_pixels_and_the_filter():
    x = torch.randn(2, 3, 4, 4)
    assert torch.allclose(Fir().upsample(x), 4 * filtered(with_zeros(x), 2, 1), atol=1e-6)
    assert torch.allclose(Fir().upsample(torch.ones(1, 1, 4, 4))[0, 0, 1:-1, 1:-1], torch.ones(()))


def test_halving_filters_first_and_takes_every_second_pixel():
    x = torch.randn(2, 3, 8, 8)
    three, one = EqualConv(3, 4, 3, down=True), EqualConv(3, 4, 1, down=True, activation=False)
    y = F.conv2d(filtered(x, 2, 2), three.weight / math.sqrt(27), stride=2)
    assert torch.allclose(three(x), activate(y), atol=1e-5)
    y = F.conv2d(filtered(x, 1, 1)[:, :, ::2, ::2], one.weight / math.sqrt(3))
    assert torch.allclose(one(x), y, atol=1e-5)


def test_the_filter_has_the_derivatives_of_a_convolution():
    fir = Fir().double()
    x = torch.randn(2, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    for padding in (1, 2):
        assert gradcheck(lambda x, p=padding: fir(x, padding=p), x)
        assert gradgradcheck(lambda x, p=padding: fir(x, padding=p), x)


def test_layers_keep_the_second_moment():
    x = torch.randn(256, 64)
    y = EqualLinear(64, 128, activation=True)(x)
    assert y.square().mean().item() == pytest.approx(1.04, abs=0.1)  # (1 + 0.2 ** 2) / 2 * 2
    z = EqualConv(16, 32, 3)(torch.randn(8, 16, 16, 16))[:, :, 1:-1, 1:-1]
    assert z.square().mean().item() == pytest.approx(1.04, abs=0.1)
    norms = normalize_second_moment(5 * x).square().mean(1)
    assert torch.allclose(norms, torch.ones(256), atol=1e-5)


def test_a_multiplier_slows_learning_and_leaves_what_is_computed():
    torch.manual_seed(1)
    plain = EqualLinear(8, 4)
    torch.manual_seed(1)
    slow = EqualLinear(8, 4, lr_multiplier=0.01)
    x = torch.randn(2, 8)
    assert torch.allclose(plain(x), slow(x), atol=1e-5)
    moved = []
    for layer in (plain, slow):
        before = layer(x).detach()
        optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
        layer(x).sum().backward()
        optimizer.step()
        moved.append((layer(x) - before).abs().mean().item())
    assert moved[1] == pytest.approx(moved[0] / 100, rel=1e-3)


def test_identical_images_have_a_deviation_of_the_root_of_epsilon():
    x = torch.randn(1, 3, 4, 4).expand(8, -1, -1, -1)
    y = MinibatchStd(4)(x)
    assert y.shape == (8, 4, 4, 4)
    assert torch.equal(y[:, :3], x)
    assert torch.allclose(y[:, 3], torch.tensor(1e-4))


def test_deviations_are_those_of_the_groups():
    x = torch.zeros(8, 2, 4, 4)
    x[1::2] = torch.tensor([1.0, -1.0, 1.0, -1.0]).view(4, 1, 1, 1)  # two groups: 0 2 4 6, 1 3 5 7
    y = MinibatchStd(4)(x)[:, 2, 0, 0]
    assert torch.allclose(y[0::2], torch.tensor(1e-4))
    assert torch.allclose(y[1::2], torch.tensor(1.0))


@pytest.mark.parametrize(("batch", "group"), [(7, 7), (6, 3), (1, 1), (2, 2), (12, 4)])
def test_a_batch_that_does_not_divide_takes_the_nearest_groups(batch, group):
    x = torch.randn(batch, 2, 4, 4)
    groups = x.view(group, batch // group, 2, 4, 4)
    wanted = (groups.var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3)).repeat(group)
    assert torch.allclose(MinibatchStd(4)(x)[:, 2, 0, 0], wanted)
