"""Latents by seeds, and arcs between them."""

import math

import torch

from lit_imgproc.models.gan.latents import latents_of, slerp


def test_a_seed_names_a_latent_whatever_is_asked_for_beside_it():
    torch.manual_seed(1)
    alone, among = latents_of([7], 16), latents_of([3, 7, 7], 16)
    assert torch.equal(alone[0], among[1])
    assert torch.equal(among[1], among[2])
    assert not torch.equal(among[0], among[1])
    # The same on every machine: what torch's Mersenne Twister gives.
    expected = torch.randn(16, generator=torch.Generator().manual_seed(7))
    assert torch.equal(alone[0], expected)


def test_drawing_latents_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    latents_of([0, 1], 4)
    assert torch.equal(torch.rand(1), expected)


def test_latents_of_neighbouring_seeds_are_normal_and_independent():
    latents = latents_of(range(2000), 100)
    assert abs(latents.mean()) < 0.01
    assert abs(latents.std() - 1) < 0.01
    neighbours = (latents[1:] * latents[:-1]).mean(1)
    assert abs(neighbours.mean()) < 0.01
    assert abs(neighbours.std() - 0.1) < 0.01  # 1 / sqrt(100)


def test_no_seeds_are_no_latents():
    assert latents_of([], 5).shape == (0, 5)


def test_an_arc_keeps_to_the_sphere_at_an_even_pace():
    start, end = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    for share in (0.0, 0.25, 0.5, 1.0):
        angle = share * math.pi / 2
        expected = torch.tensor([math.cos(angle), math.sin(angle)])
        torch.testing.assert_close(slerp(start, end, share), expected)


def test_between_parallel_latents_the_arc_is_a_line():
    start = torch.tensor([1.0, 2.0])
    torch.testing.assert_close(slerp(start, 3 * start, 0.5), 2 * start)
