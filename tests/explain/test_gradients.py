"""Integrated gradients and SmoothGrad against closed forms, and where they are called."""

import numpy as np
import pytest
import torch
from captum.attr import NoiseTunnel, Saliency
from torch import nn

from lit_imgproc.errors import UserError
from lit_imgproc.explain.gradients import input_gradient, integrated_gradients, smooth_grad
from lit_imgproc.models.classification.networks import resnet20
from lit_imgproc.models.weights import load_weights

METHODS = [integrated_gradients, smooth_grad]


def network(activation, sides=2):
    torch.manual_seed(0)
    convolution = nn.Conv2d if sides == 2 else nn.Conv3d
    return nn.Sequential(
        convolution(2, 4, 3), activation, convolution(4, 3, 3), activation, nn.Flatten(), nn.Tanh()
    ).eval()


def score_of(module):
    return lambda images: module(images).mean(1)


def draws(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def images():
    return draws(2, 2, 8, 9)


# Integrated gradients -----------------------------------------------------------------------------


def test_a_linear_score_has_the_weighted_difference_to_the_baseline(images):
    weight, baseline = draws(2, 8, 9) - 0.5, draws(2, 8, 9).flip(-1)

    def score(x):
        return (weight * x).sum((1, 2, 3)) + 7

    for given in (baseline, baseline[None]):
        maps = integrated_gradients(score, images, baseline=given, steps=3)
        torch.testing.assert_close(maps, (weight * (images - baseline)).sum(1))
    black = integrated_gradients(score, images, baseline=torch.zeros(2, 8, 9))
    torch.testing.assert_close(black, (weight * images).sum(1))


def test_without_a_baseline_it_is_the_mean_colour_of_each_image(images):
    weight = draws(2, 8, 9) - 0.5

    def score(x):
        return (weight * x).sum((1, 2, 3))

    mean = torch.stack([image.flatten(1).mean(1).view(2, 1, 1) for image in images])
    expected = (weight * (images - mean)).sum(1)
    torch.testing.assert_close(integrated_gradients(score, images), expected)


def test_integrates_what_is_not_linear():
    images = torch.tensor([[[[2.0, 3.0]]], [[[1.0, -1.0]]]])

    def score(x):  # the gradient of a b^2 on the way is t^2 (b^2, 2 a b)
        return x[:, 0, 0, 0] * x[:, 0, 0, 1] ** 2

    expected = torch.tensor([[[6.0, 12.0]], [[1 / 3, 2 / 3]]])
    torch.testing.assert_close(
        integrated_gradients(score, images, baseline=torch.zeros(1, 1, 2), steps=2), expected
    )


@pytest.mark.parametrize("sides", [2, 3])
def test_a_map_sums_to_the_difference_of_the_scores(sides):
    images = draws(2, 2, *[7, 8, 9][:sides])
    score = score_of(network(nn.GELU(), sides))
    maps = integrated_gradients(score, images, baseline=torch.zeros_like(images[0]), steps=16)
    assert maps.shape == (2, *images.shape[2:])
    expected = (score(images) - score(torch.zeros_like(images))).detach()
    torch.testing.assert_close(maps.flatten(1).sum(1), expected, atol=3e-6, rtol=0)
    assert expected.abs().min() > 1e-3


def test_a_map_of_published_weights_sums_to_the_difference_of_the_scores(shared_data):
    module = resnet20(10)
    load_weights(module, str(shared_data / "weights" / "cifar10_resnet20.pth"))
    module.eval()
    image = nn.functional.interpolate(draws(1, 3, 8, 8), size=32, mode="bilinear") * 2 - 1

    def score(x):
        return module(x)[:, 3]

    seen = integrated_gradients(score, image, baseline=torch.zeros_like(image), steps=64)
    with torch.no_grad():
        difference = float(score(image) - score(image * 0))
    assert float(seen.sum()) == pytest.approx(difference, rel=0.1)
    assert abs(difference) > 1


def test_a_baseline_of_another_shape_is_refused(images):
    for wrong in (torch.zeros(1, 8, 9), torch.zeros(2, 2, 8, 9), torch.zeros(2, 8, 8)):
        with pytest.raises(UserError, match=r"must be of that of an image: \[2, 8, 9\]"):
            integrated_gradients(score_of(network(nn.ReLU())), images, baseline=wrong)


# SmoothGrad ---------------------------------------------------------------------------------------


def test_smooth_grad_is_the_mean_gradient_over_the_noise():
    images = torch.stack([draws(2, 8, 9) * 4 - 1, draws(2, 8, 9)])

    def score(x):  # its gradient is 3 x^2, whose mean under noise is 3 (x^2 + s^2)
        return (x**3).sum((1, 2, 3))

    maps = smooth_grad(score, images, samples=4000, noise=0.2, batch_size=1000)
    spread = 0.2 * (images.amax((1, 2, 3)) - images.amin((1, 2, 3)))
    expected = (3 * (images**2 + spread.view(-1, 1, 1, 1) ** 2)).amax(1)
    torch.testing.assert_close(maps, expected, rtol=0.05, atol=0.05)
    quiet = smooth_grad(score, images, samples=1, noise=0)
    torch.testing.assert_close(quiet, (3 * images**2).amax(1))


def test_signs_cancel_over_the_noise_and_not_over_the_channels():
    images = draws(1, 2, 4, 4) - 0.5

    def score(x):
        return (torch.tensor([2.0, -5.0]).view(2, 1, 1) * x).sum((1, 2, 3))

    torch.testing.assert_close(smooth_grad(score, images), torch.full((1, 4, 4), 5.0))

    def even(x):  # at 0 its gradient is the noise
        return (x**2).sum((1, 2, 3)) + 0 * x.amax()

    flat = torch.tensor([[[[0.0, 1.0]]]])
    seen = smooth_grad(even, flat, samples=4000, noise=1.0, batch_size=4000)
    torch.testing.assert_close(seen, torch.tensor([[[0.0, 2.0]]]), atol=0.15, rtol=0)


def test_smooth_grad_comes_near_captum(images):
    score, image = score_of(network(nn.GELU())), images[:1]
    ours = smooth_grad(score, image, samples=2000, noise=0.1, batch_size=500)
    with torch.random.fork_rng(devices=[]):
        theirs = NoiseTunnel(Saliency(score)).attribute(
            image,
            nt_samples=2000,
            nt_samples_batch_size=500,
            stdevs=0.1 * float(image.max() - image.min()),
            abs=False,
        )
    torch.testing.assert_close(ours, theirs.abs().amax(1), atol=0.03 * float(ours.max()), rtol=0)


def test_the_seed_decides_the_noise(images):
    score = score_of(network(nn.GELU()))
    first = smooth_grad(score, images, samples=4, seed=1)
    torch.testing.assert_close(first, smooth_grad(score, images, samples=4, seed=1), rtol=0, atol=0)
    assert not torch.allclose(first, smooth_grad(score, images, samples=4, seed=2))


# Both ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_its_images_and_no_batch_is_larger_than_allowed(method, images):
    score, sizes = score_of(network(nn.ReLU())), []

    def counted(x):
        sizes.append(len(x))
        return score(x)

    maps = method(counted, images, batch_size=7)
    assert max(sizes) == 7
    each = torch.cat([method(score, image[None], batch_size=7) for image in images])
    torch.testing.assert_close(maps, each)
    assert maps.dtype == torch.float32


@pytest.mark.parametrize("method", METHODS)
def test_leaves_gradients_hooks_images_and_random_state_as_they_were(method, images):
    module, before = network(nn.ReLU()), images.clone()
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002  (that the old global state stays is what is tested)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    maps = method(score_of(module), images)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert torch.equal(images, before)
    assert not maps.requires_grad
    assert not images.requires_grad
    assert torch.is_grad_enabled()
    for layer in module.modules():
        assert not layer._forward_hooks
        assert not layer._backward_hooks
        assert not layer._forward_pre_hooks
    assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_frozen_parameters_activations_in_place_and_modes_change_nothing(method, images):
    expected = method(score_of(nn.Sequential(nn.ReLU(), network(nn.ReLU()))), images - 0.3)
    first = nn.Sequential(nn.ReLU(inplace=True), network(nn.ReLU(inplace=True)))
    score = score_of(first.requires_grad_(False))
    torch.testing.assert_close(method(score, images - 0.3), expected)
    with torch.no_grad():
        torch.testing.assert_close(method(score, images - 0.3), expected)
    with torch.inference_mode():
        maps = method(score, images - 0.3)
        assert torch.is_inference_mode_enabled()
    torch.testing.assert_close(maps, expected)
    torch.testing.assert_close(
        method(score, (images - 0.3).requires_grad_()), expected, check_stride=False
    )


def test_input_gradient_is_of_each_image():
    images = draws(3, 1, 2, 2)
    gradient = input_gradient(lambda x: (x**2).sum((1, 2, 3)), images)
    torch.testing.assert_close(gradient, 2 * images)
