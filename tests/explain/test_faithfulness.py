"""How faithful a map is: closed forms, examples by hand, and scipy."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr

from lit_imgproc.errors import UserError
from lit_imgproc.explain.faithfulness import (
    BLUR,
    Curves,
    agreement,
    centre_baseline,
    deletion_and_insertion,
    interval,
    pointing_game,
    standard_ranks,
)


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def brightness_of(mask):
    """A network that is as sure as the pixels under a mask are bright."""
    return lambda images: images.mean(1)[:, mask].mean(1)


def bright_square(*size):
    """One channel, 1 within a mask that covers a quarter or an eighth and 0 outside."""
    mask = torch.zeros(size, dtype=torch.bool)
    mask[tuple(slice(side // 4, 3 * side // 4) for side in size)] = True
    return mask, mask[None].float()


# Deletion and insertion --------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(28, 28), (32, 48), (8, 16, 16)])
def test_deletion_has_its_closed_form(size):
    mask, image = bright_square(*size)
    curves = deletion_and_insertion(brightness_of(mask), image, mask.float(), steps=16)
    share = mask.float().mean().item()
    gone = np.minimum(np.linspace(0, 1, 17) / share, 1)  # of the mask
    np.testing.assert_allclose(curves.deletion, 1 - gone * (1 - share), atol=1e-6)


@pytest.mark.parametrize("size", [(28, 28), (32, 48), (8, 16, 16)])
def test_insertion_has_its_closed_form(size):
    image, heat = rand(3, *size), rand(*size, seed=1) - 0.5
    mask = rand(*size, seed=2) > 0.5
    curves = deletion_and_insertion(brightness_of(mask), image, heat, steps=7)
    blurred = gaussian_filter(image.numpy(), (0, *(side * BLUR for side in size)))
    order = heat.flatten().argsort(descending=True)
    for step, value in enumerate(curves.insertion):
        some = order[: step * heat.numel() // 7]
        seen = torch.from_numpy(blurred.copy()).flatten(1)
        seen[:, some] = image.flatten(1)[:, some]
        assert value == pytest.approx(seen[:, mask.flatten()].mean().item(), abs=1e-6)


def test_two_steps_by_hand():
    image = torch.tensor([[[0.8, 0.4, 0.2, 0.6]]])  # the mean is 0.5
    heat = torch.tensor([[-4.0, 9.0, 3.0, 0.0]])  # the two in the middle come first
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4])
    curves = deletion_and_insertion(lambda x: x[:, 0, 0] @ weights, image, heat, steps=2)
    # 0.08 + 0.08 + 0.06 + 0.24, then 0.08 + 0.10 + 0.15 + 0.24, then the mean colour
    np.testing.assert_allclose(curves.deletion, [0.46, 0.57, 0.5], atol=1e-6)
    assert curves.deletion_auc == pytest.approx((0.46 + 0.57) / 4 + (0.57 + 0.5) / 4)
    assert curves.insertion[2] == pytest.approx(0.46)


def test_the_area_of_a_line_is_its_mean():
    curves = Curves(np.linspace(1, 0, 33), np.array([0.2, 0.4]))
    assert curves.deletion_auc == pytest.approx(0.5)
    assert curves.insertion_auc == pytest.approx(0.3)


def test_channels_are_replaced_by_their_own_mean():
    image = rand(3, 8, 8)
    image[1] += 5
    seen = []
    deletion_and_insertion(
        lambda x: seen.append(x) or x.mean((1, 2, 3)), image, rand(8, 8), steps=4
    )
    colour = image.mean((1, 2), keepdim=True).expand_as(image)
    torch.testing.assert_close(seen[0][-1], colour)


def test_a_perfect_map_beats_a_random_one_and_that_beats_the_reversed():
    mask, image = bright_square(28, 28)
    image = 0.8 * image + 0.2 * rand(1, 28, 28)
    maps = [mask.float(), rand(28, 28, seed=3), -mask.float()]
    curves = [deletion_and_insertion(brightness_of(mask), image, heat) for heat in maps]
    deletion = [one.deletion_auc for one in curves]
    insertion = [one.insertion_auc for one in curves]
    assert deletion[0] + 0.1 < deletion[1] < deletion[2] - 0.1
    assert insertion[0] - 0.1 > insertion[1] > insertion[2] + 0.1


def test_only_the_order_of_a_map_counts():
    image, heat = rand(1, 16, 16), rand(16, 16, seed=1)
    confidence = brightness_of(heat > 0.5)
    plain = deletion_and_insertion(confidence, image, heat)
    other = deletion_and_insertion(confidence, image, heat.double().exp() * 7 - 100)
    np.testing.assert_array_equal(plain.deletion, other.deletion)
    np.testing.assert_array_equal(plain.insertion, other.insertion)


def test_equal_places_are_scattered_and_always_alike():
    image = rand(1, 32, 32) + 1
    seen = []

    def confidence(images):
        seen.append(images)
        return images.mean((1, 2, 3))

    state = torch.get_rng_state()
    for _ in range(2):
        deletion_and_insertion(confidence, image, torch.zeros(32, 32), steps=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(seen[0], seen[2])
    half = (seen[0][1, 0] != image[0]).float()  # of all places
    assert half.mean() == 0.5
    for quarter in (half[:16, :16], half[:16, 16:], half[16:, :16], half[16:, 16:]):
        assert 0.4 < quarter.mean() < 0.6


def test_batches_are_no_larger_than_asked_and_change_nothing():
    image, heat = rand(2, 9, 9), rand(9, 9, seed=1)
    sizes = []

    def confidence(images):
        assert not torch.is_grad_enabled()
        sizes.append(len(images))
        return images.square().mean((1, 2, 3))

    small = deletion_and_insertion(confidence, image, heat, steps=10, batch_size=4)
    assert sizes == [4, 4, 3] * 2
    large = deletion_and_insertion(confidence, image, heat, steps=10)
    np.testing.assert_allclose(small.deletion, large.deletion, rtol=1e-6)
    np.testing.assert_allclose(small.insertion, large.insertion, rtol=1e-6)


def test_a_map_of_another_size_is_refused():
    with pytest.raises(UserError, match="of 4x4 places and the image of 8x8"):
        deletion_and_insertion(lambda x: x.mean((1, 2, 3)), rand(3, 8, 8), rand(4, 4))


# The pointing game -------------------------------------------------------------------------------


def test_pointing_by_hand():
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert pointing_game(torch.tensor([[0.0, 3.0, 2.0], [1.0, 2.0, 0.0]]), mask) == 1
    assert pointing_game(torch.tensor([[0.0, 2.0, 3.0], [1.0, 2.0, 0.0]]), mask) == 0
    assert pointing_game(torch.tensor([[3.0, 2.0, 3.0], [1.0, 3.0, 3.0]]), mask) == 0.25
    assert pointing_game(torch.full((2, 3), -7.0), mask) == pytest.approx(2 / 6)  # chance
    assert pointing_game(torch.arange(6.0).view(2, 3), torch.zeros(2, 3, dtype=torch.bool)) == 0


def test_the_middle_by_hand():
    odd = torch.zeros(3, 5, dtype=torch.bool)
    assert centre_baseline(odd) == 0
    odd[1, 2] = True
    assert centre_baseline(odd) == 1
    even = torch.zeros(4, 4, dtype=torch.bool)
    even[:2, :] = True
    assert centre_baseline(even) == 0.5
    volume = torch.zeros(4, 3, 4, dtype=torch.bool)
    volume[1, 1, 2] = True
    assert centre_baseline(volume) == 0.25


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (7, 10), (10, 10), (53, 200)])
def test_intervals_are_wilsons(hits, count):
    z = 1.959963984540054
    share, room = hits / count, z**2 / count
    middle = (share + room / 2) / (1 + room)
    half = z / (1 + room) * math.sqrt(share * (1 - share) / count + room / (4 * count))
    assert interval(hits, count) == pytest.approx((middle - half, middle + half), abs=1e-12)
    low, high = interval(hits, count, level=0.5)
    assert high - low < 2 * half


def test_intervals_of_chances_and_of_nothing():
    assert interval(6.6, 10) == interval(7, 10)
    assert interval(0, 0) == (0, 1)


# Agreement ---------------------------------------------------------------------------------------


def test_equal_maps_agree_and_reversed_ones_disagree():
    maps = [rand(6, 7), rand(5, 5, seed=1), rand(3, 4, 5, seed=2)]  # of several sizes
    table = agreement(
        {"one": maps, "steeper": [m.exp() * 3 for m in maps], "reversed": [-m for m in maps]}
    )
    assert table["one"]["one"] == pytest.approx(1)
    assert table["one"]["steeper"] == pytest.approx(1)
    assert table["one"]["reversed"] == table["reversed"]["one"] == pytest.approx(-1)


def test_agreement_is_the_mean_of_scipys():
    first = [(rand(9, 9, seed=k) * 5).round() for k in range(3)]  # with ties
    second = [one + rand(9, 9, seed=k + 9) * 4 for k, one in enumerate(first)]
    expected = [
        spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(first, second, strict=True)
    ]
    table = agreement({"a": first, "b": second})
    assert table["a"]["b"] == pytest.approx(np.mean(expected))
    assert 0.3 < table["a"]["b"] < 0.9


def test_flat_maps_and_those_that_are_not_finite_do_not_count():
    heat = rand(4, 4)
    broken = heat.clone()
    broken[0, 0] = math.nan
    table = agreement(
        {
            "whole": [heat, heat, heat],
            "some": [torch.zeros(4, 4), broken, -heat],
            "flat": [torch.ones(4, 4)] * 3,
        }
    )
    assert table["whole"]["some"] == pytest.approx(-1)  # of the last image
    assert table["some"]["some"] == pytest.approx(1)
    assert table["flat"] == {}
    assert "flat" not in table["whole"]


def test_standard_ranks_have_length_one():
    ranks = standard_ranks(torch.tensor([[5.0, -1.0], [5.0, 2.0]]))
    expected = np.array([1.0, -1.5, 1.0, -0.5])
    np.testing.assert_allclose(ranks, expected / np.linalg.norm(expected))
