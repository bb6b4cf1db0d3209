import math

import pytest
import torch

from lit_imgproc.models.translation.losses import discriminator_loss, generator_loss

UNSURE = torch.zeros(2, 1, 3, 3)
SURE = torch.full((2, 1, 3, 3), 1.0)


@pytest.mark.parametrize(
    ("mode", "discriminator", "generator"),
    [("vanilla", math.log(2), math.log(2)), ("lsgan", 0.5, 1.0), ("hinge", 1.0, 0.0)],
)
def test_losses_of_a_discriminator_that_says_nothing(mode, discriminator, generator):
    assert discriminator_loss(mode, UNSURE, UNSURE) == pytest.approx(discriminator)
    assert generator_loss(mode, UNSURE) == pytest.approx(generator)


@pytest.mark.parametrize(("mode", "made"), [("lsgan", UNSURE), ("hinge", -SURE)])
def test_a_discriminator_that_is_right_loses_nothing(mode, made):
    assert discriminator_loss(mode, SURE, made) == 0


def test_vanilla_is_binary_cross_entropy():
    torch.manual_seed(0)
    real, made = torch.randn(2, 2, 1, 4, 4)
    cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits
    expected = cross_entropy(real, torch.ones_like(real)) + cross_entropy(
        made, torch.zeros_like(made)
    )
    torch.testing.assert_close(discriminator_loss("vanilla", real, made), expected / 2)
    torch.testing.assert_close(
        generator_loss("vanilla", made), cross_entropy(made, torch.ones_like(made))
    )


@pytest.mark.parametrize(("mode", "made"), [("lsgan", 1.0), ("hinge", 5.0)])
def test_a_generator_that_is_taken_for_real(mode, made):
    assert generator_loss(mode, made * SURE) == (0 if mode == "lsgan" else -5)


def test_losses_are_of_full_precision():
    half = SURE.bfloat16()
    assert discriminator_loss("lsgan", half, half).dtype == torch.float32
    assert generator_loss("vanilla", half).dtype == torch.float32
