"""Objectives and penalties of GANs, by values known in closed form."""

import math

import pytest
import torch

from lit_imgproc.models.gan.objectives import (
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    r1_penalty,
)

REAL, FAKE = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([-2.0, 1.0, 3.0])


@pytest.mark.parametrize(
    ("objective", "discriminator", "generator"),
    [("non_saturating", 2 * math.log(2), math.log(2)), ("hinge", 2, 0), ("wgan_gp", 0, 0)],
)
def test_losses_of_a_discriminator_that_cannot_tell(objective, discriminator, generator):
    zeros = torch.zeros(5)
    torch.testing.assert_close(
        discriminator_loss(objective, zeros, zeros), torch.tensor(float(discriminator))
    )
    torch.testing.assert_close(generator_loss(objective, zeros), torch.tensor(float(generator)))


def test_the_non_saturating_losses_are_cross_entropies():
    real, fake = torch.sigmoid(REAL), torch.sigmoid(FAKE)
    expected = -real.log().mean() - (1 - fake).log().mean()
    torch.testing.assert_close(discriminator_loss("non_saturating", REAL, FAKE), expected)
    torch.testing.assert_close(generator_loss("non_saturating", FAKE), -fake.log().mean())


def test_the_best_answer_to_what_is_as_often_real_as_made_is_one_half():
    logit = torch.zeros(1, requires_grad=True)
    (slope,) = torch.autograd.grad(discriminator_loss("non_saturating", logit, logit), logit)
    assert slope.item() == 0
    assert torch.sigmoid(logit).item() == 0.5


def test_hinge_asks_no_more_than_a_margin_of_one():
    sure = torch.tensor([1.0, 5.0], requires_grad=True)
    loss = discriminator_loss("hinge", sure, -sure)
    assert loss.item() == 0
    assert torch.autograd.grad(loss, sure)[0].eq(0).all()
    torch.testing.assert_close(
        discriminator_loss("hinge", REAL, FAKE), torch.tensor(2.5 / 3 + 6.0 / 3)
    )


def test_the_wasserstein_losses_are_differences_of_means():
    torch.testing.assert_close(discriminator_loss("wgan_gp", REAL, FAKE), FAKE.mean() - REAL.mean())
    torch.testing.assert_close(generator_loss("wgan_gp", FAKE), -FAKE.mean())


def test_penalties_of_a_linear_critic():
    a = torch.randn(3, 4, 4)
    real, fake = torch.rand(2, 6, 3, 4, 4)

    def linear(images):
        return (images * a).sum((1, 2, 3))

    torch.testing.assert_close(gradient_penalty(linear, real, fake), (a.norm() - 1) ** 2)
    seen = real.requires_grad_()
    torch.testing.assert_close(r1_penalty(linear(seen), seen, 10.0), 5 * a.square().sum())


def test_the_gradient_penalty_is_measured_between_fake_and_real_and_teaches_the_critic():
    seen = []
    scale = torch.tensor(2.0, requires_grad=True)

    def critic(images):
        seen.append(images)
        return scale * images.flatten(1).sum(1)

    real, fake = torch.ones(64, 1, 2, 2), -torch.ones(64, 1, 2, 2)
    loss = gradient_penalty(critic, real, fake)
    (points,) = seen
    assert points.abs().max() < 1
    assert points.flatten(1).std(1).max() == 0  # each on its own line
    torch.testing.assert_close(torch.autograd.grad(loss, scale)[0], torch.tensor(2 * (4 - 1) * 2.0))
