import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from lit_imgproc.errors import UserError
from lit_imgproc.models.gan.augment import (
    LUMA,
    AdaptiveAugmentation,
    brightness,
    contrast,
    hue,
    luma_flip,
    recolour,
    rotation,
    saturation,
    scaling,
    shift,
)
from lit_imgproc.models.gan.stylegan2_warping import (
    SYM2,
    SYM6,
    _Sample,
    blit,
    equalize,
    mirrored,
    warp,
)

GROUPS = ("blit", "geometric", "colour", "filter", "noise", "cutout")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def images(count=4, channels=3, side=16):
    return torch.rand(count, channels, side, side) * 2 - 1


def smooth(side=32):
    """A wave of two periods in each direction, which no filter here has reason to change."""
    x = torch.arange(side) * (2 * math.pi * 2 / side)
    return (x.sin()[None] * x.cos()[:, None])[None, None]


def all_of(value):
    return torch.tensor([float(value)])


def augmentation(*groups, channels=3, probability=1.0, **options):
    pipe = AdaptiveAugmentation(channels, groups, **options)
    pipe.probability.fill_(probability)
    return pipe


@pytest.mark.parametrize("channels", [1, 3])
def test_at_probability_0_images_stay_exactly_as_they_are(channels):
    x = images(channels=channels)
    assert torch.equal(AdaptiveAugmentation(channels, GROUPS)(x), x)


@pytest.mark.parametrize("group", GROUPS)
def test_at_probability_1_images_change_and_keep_their_shape(group):
    x = images(8)
    y = augmentation(group)(x)
    assert y.shape == x.shape
    assert y.isfinite().all()
    assert not torch.equal(x, y)


def test_images_are_augmented_one_by_one():
    x = images(1).expand(256, -1, -1, -1)
    y = augmentation("colour", probability=0.1)(x)
    kept = (y == x).flatten(1).all(1).float().mean().item()
    # Four transformations in ten are drawn for 34 % of them; a luma flip does nothing half the time
    assert kept == pytest.approx(0.9**4 * 0.95, abs=0.08)


# Moving pixels ------------------------------------------------------------------------------------


def test_flipping_twice_is_the_identity():
    x, flip = images(), scaling(-torch.ones(4), 1)
    assert torch.equal(blit(x, flip), x.flip(3))
    assert torch.equal(blit(blit(x, flip), flip), x)


@pytest.mark.parametrize("turns", range(4))
def test_right_angles_are_turned_exactly(turns):
    x = images()
    turned = blit(x, rotation(torch.full((4,), turns * math.pi / 2)).round())
    assert torch.equal(turned, x.rot90(turns, (2, 3)))


def test_shifts_by_whole_pixels_are_rolls_within_and_mirrors_at_the_edge():
    x = images(1)
    y = blit(x, shift(all_of(3), all_of(-2)))
    assert torch.equal(y[..., 2:, :-3], x.roll((2, -3), (2, 3))[..., 2:, :-3])
    assert torch.equal(y[0, :, 4, -3:], x[0, :, 2, -4:-1].flip(1))


def test_mirrors_go_on_and_on():
    assert mirrored(torch.arange(-4, 8), 4).tolist() == [2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1]


def test_filters_are_orthonormal_to_their_shifts_by_two():
    for taps in (torch.tensor(SYM6, dtype=torch.float64), torch.tensor(SYM2, dtype=torch.float64)):
        assert taps.sum().item() == pytest.approx(math.sqrt(2))
        for move in range(0, len(taps), 2):
            product = (taps[move:] * taps[: len(taps) - move]).sum().item()
            assert product == pytest.approx(float(move == 0), abs=1e-10)


def test_the_identity_warps_nothing():
    x = images()
    assert torch.allclose(warp(x, torch.eye(3).expand(4, 3, 3)), x, atol=1e-5)


def test_a_warp_by_whole_pixels_is_a_roll():
    x = images(1)
    y = warp(x, shift(all_of(2), all_of(-1)))
    within = (..., slice(4, -4), slice(4, -4))
    assert torch.allclose(y[within], x.roll((1, -2), (2, 3))[within], atol=1e-4)


def test_a_warp_shifts_a_slope_by_parts_of_a_pixel():
    slope = torch.arange(32.0).expand(1, 1, 32, 32)
    y = warp(slope, shift(all_of(2.3), all_of(0)))
    assert torch.allclose(y[..., 4:24], slope[..., 4:24] + 2.3, atol=1e-3)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_warp_by_right_angles_is_a_turn(turns):
    x = smooth()
    y = warp(x, rotation(all_of(turns * math.pi / 2)))
    assert torch.allclose(y[..., 3:-3, 3:-3], x.rot90(turns, (2, 3))[..., 3:-3, 3:-3], atol=0.02)


def test_a_warp_scales_about_the_centre():
    place = torch.arange(32.0) - 15.5
    x = place.expand(1, 1, 32, 32)
    assert torch.allclose(
        warp(x, scaling(all_of(0.5), all_of(0.5)))[..., 4:-4], x[..., 4:-4] / 2, atol=1e-3
    )


def test_turning_there_and_back_is_nearly_the_identity():
    x, angle = smooth(), all_of(0.4)
    y = warp(warp(x, rotation(angle)), rotation(-angle))
    assert torch.allclose(y[..., 8:-8, 8:-8], x[..., 8:-8, 8:-8], atol=0.05)


# Colours ------------------------------------------------------------------------------------------


def test_brightness_and_contrast_are_what_they_say():
    x = images(1)
    assert torch.allclose(recolour(x, brightness(all_of(0.3))), x + 0.3, atol=1e-6)
    assert torch.allclose(recolour(x, contrast(all_of(1.7))), 1.7 * x, atol=1e-6)


def test_a_luma_flip_turns_grey_around_and_leaves_chroma():
    matrix = luma_flip(all_of(1))[0]
    grey, chroma = torch.tensor([1.0, 1, 1, 0]), torch.tensor([1.0, -1, 0, 0])
    assert torch.allclose(matrix @ grey, -grey, atol=1e-6)
    assert torch.allclose(matrix @ chroma, chroma, atol=1e-6)
    assert torch.allclose(matrix @ matrix, torch.eye(4), atol=1e-6)


def test_hue_is_a_rotation_about_the_luma_axis():
    matrix = hue(all_of(0.7))[0]
    assert torch.allclose(matrix @ matrix.t(), torch.eye(4), atol=1e-6)
    assert torch.linalg.det(matrix).item() == pytest.approx(1, abs=1e-5)
    axis = torch.tensor(LUMA)
    assert torch.allclose(matrix @ axis, axis, atol=1e-6)
    third = hue(all_of(2 * math.pi / 3))[0]
    red, green = torch.eye(4)[0], torch.eye(4)[1]
    assert torch.allclose(third @ red, green, atol=1e-6)


def test_saturation_scales_the_distance_from_grey():
    x = images(1)
    grey = x.mean(1, keepdim=True)
    y = recolour(x, saturation(all_of(1.5)))
    assert torch.allclose(y, grey + 1.5 * (x - grey), atol=1e-6)
    assert torch.allclose(recolour(x, saturation(all_of(0))), grey.expand_as(x), atol=1e-6)


def test_grey_images_stay_grey_and_take_luma_alone():
    x = images(1, channels=1)
    matrix = luma_flip(all_of(1)) @ brightness(all_of(0.2)) @ contrast(all_of(2))
    assert torch.allclose(recolour(x, matrix), -(2 * x + 0.2), atol=1e-6)


def test_colours_of_other_images_are_refused():
    with pytest.raises(UserError, match="leave colour out of"):
        AdaptiveAugmentation(4, ["colour"])


# Image space --------------------------------------------------------------------------------------


def test_bands_add_up_to_the_image():
    x = images()
    assert torch.allclose(equalize(x, torch.ones(4, 4)), x, atol=1e-5)
    only = [equalize(x[:1], torch.eye(4)[band : band + 1]).std().item() for band in range(4)]
    assert all(value > 0 for value in only)


def test_bands_part_slow_waves_from_fast_ones():
    low, high = torch.tensor([[1.0, 0, 0, 0]]), torch.tensor([[0.0, 0, 0, 1]])
    fast = torch.tensor([1.0, -1.0]).repeat(16).expand(1, 1, 32, 32)
    flat = torch.ones(1, 1, 32, 32)
    assert torch.allclose(equalize(flat, low), flat, atol=1e-5)
    assert equalize(flat, high).abs().max() < 1e-5
    assert equalize(fast, low).abs().max() < 1e-5


def test_a_cutout_blanks_a_square_of_at_most_half_the_side():
    y = augmentation("cutout")(torch.ones(64, 3, 16, 16))
    blank = (y == 0).float().mean((1, 2, 3))
    assert blank.max().item() == pytest.approx(0.25, abs=0.04)
    assert blank.min().item() > 0


# Gradients ----------------------------------------------------------------------------------------


def test_gradients_flow_through_all_of_it_twice():
    x = images(2).requires_grad_()
    y = augmentation(*GROUPS)(x)
    (slope,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    assert slope.abs().sum() > 0
    (second,) = torch.autograd.grad(slope.square().sum(), x)
    assert second.isfinite().all()
    assert second.abs().sum() > 0


def test_sampling_has_right_derivatives_of_both_orders():
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    grid = torch.rand(1, 3, 3, 2, dtype=torch.float64) * 2 - 1
    assert gradcheck(lambda x: _Sample.apply(x, grid), x)
    assert gradgradcheck(lambda x: _Sample.apply(x, grid), x)


# Adaptation ---------------------------------------------------------------------------------------


def test_the_probability_rises_while_the_discriminator_knows_the_real_images():
    pipe = AdaptiveAugmentation(3, target=0.6, images=1000)
    for _ in range(4):
        assert pipe.observe(torch.tensor([3.0, 1.0, 2.0, 0.5])).item() == 1
    pipe.adapt(4, images=40)
    assert pipe.probability.item() == pytest.approx(0.04)
    for _ in range(4):
        pipe.observe(torch.tensor([3.0, 1.0, 2.0, -0.5]))  # 0.5 on average, under the target
    pipe.adapt(4, images=10)
    assert pipe.probability.item() == pytest.approx(0.03)
    assert pipe.signs.item() == 0


def test_the_probability_stays_within_0_and_1():
    pipe = AdaptiveAugmentation(3, images=10)
    pipe.observe(torch.tensor([-1.0]))
    pipe.adapt(1, images=40)
    assert pipe.probability.item() == 0
    pipe.observe(torch.tensor([1.0]))
    pipe.adapt(1, images=40)
    assert pipe.probability.item() == 1


def test_the_probability_and_what_was_observed_are_in_checkpoints():
    assert set(AdaptiveAugmentation(3).state_dict()) == {"probability", "signs"}


def test_the_default_is_what_the_paper_chose():
    assert AdaptiveAugmentation(3).groups == ["blit", "geometric", "colour"]
