import math

import pytest
import torch
import torch.nn.functional as F

from lit_imgproc import optim
from lit_imgproc.models.gan.objectives import generator_loss, r1_penalty
from lit_imgproc.models.gan.regularisers import PathLength, lazy, mean_over_ranks, path_lengths


def test_r1_of_a_linear_discriminator_is_half_gamma_times_its_squared_norm():
    a = torch.randn(3, 4, 4)
    real = torch.randn(5, 3, 4, 4, requires_grad=True)
    logits = (real * a).sum((1, 2, 3))
    penalty = r1_penalty(logits, real, gamma=10.0)
    assert penalty.item() == pytest.approx(5 * a.square().sum().item(), rel=1e-5)


def test_the_generator_loses_ln_2_at_a_logit_of_0():
    loss = generator_loss("non_saturating", torch.zeros(4))
    assert loss.item() == pytest.approx(math.log(2)) == F.softplus(torch.zeros(())).item()


def linear_images(styles, matrix):
    """Images ``[B, 1, 2, 2]`` that are linear in the mean style of the layers."""
    return (styles.mean(1) @ matrix.t()).view(-1, 1, 2, 2)


def test_lengths_of_paths_of_a_linear_generator_are_norms_of_rows():
    matrix = torch.randn(4, 6)
    styles = torch.randn(3, 2, 6, requires_grad=True)
    noise = torch.randn(3, 1, 2, 2)
    lengths = path_lengths(linear_images(styles, matrix), styles, noise)
    # Each of two layers has half of the slope, and their squares are averaged.
    wanted = (noise.flatten(1) @ matrix / 2).norm(dim=1)
    assert torch.allclose(lengths, wanted, atol=1e-5)


def test_path_length_asks_for_its_running_mean():
    torch.manual_seed(0)
    matrix = torch.randn(4, 6)
    styles = torch.randn(3, 2, 6, requires_grad=True)
    regulariser = PathLength(decay=0.01)
    torch.manual_seed(1)
    noise = torch.randn(3, 1, 2, 2) / 2  # of 2 x 2 pixels
    lengths = (noise.flatten(1) @ matrix / 2).norm(dim=1)
    torch.manual_seed(1)
    penalty = regulariser(linear_images(styles, matrix), styles)
    mean = 0.01 * lengths.mean()
    assert regulariser.mean.item() == pytest.approx(mean.item(), rel=1e-5)
    assert penalty.item() == pytest.approx((lengths - mean).square().mean().item(), rel=1e-5)
    assert regulariser.state_dict().keys() == {"mean"}


def test_path_length_moves_what_makes_the_images():
    matrix = torch.randn(4, 6, requires_grad=True)
    styles = torch.randn(3, 2, 6, requires_grad=True)
    PathLength()(linear_images(styles, matrix), styles).backward()
    assert matrix.grad.abs().sum() > 0


@pytest.mark.parametrize("interval", [4, 16])
def test_a_lazy_optimizer_is_corrected_by_its_interval(interval):
    share = interval / (interval + 1)
    corrected = lazy(optim.Adam(lr=2e-3, betas=(0.0, 0.99)), interval)
    assert corrected == optim.Adam(lr=2e-3 * share, betas=(0.0, 0.99**share))
    assert lazy(optim.SGD(lr=0.1), interval) == optim.SGD(lr=0.1 * share)


def test_one_rank_is_its_own_mean():
    assert mean_over_ranks(torch.tensor(3.0)).item() == 3.0
