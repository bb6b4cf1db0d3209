"""GradientSHAP and KernelSHAP against closed forms and against all coalitions one by one."""

import itertools
import math

import numpy as np
import pytest
import torch
from captum.attr import GradientShap
from torch import nn

from lit_imgproc.errors import UserError
from lit_imgproc.explain.shapley import BACKGROUNDS, gradient_shap, kernel_shap, superpixels
from lit_imgproc.models.classification.networks import resnet20
from lit_imgproc.models.weights import load_weights

METHODS = [gradient_shap, kernel_shap]


def draws(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def network(sides=2, inplace=False):
    torch.manual_seed(0)
    convolution = nn.Conv2d if sides == 2 else nn.Conv3d
    return nn.Sequential(
        convolution(2, 6, 3), nn.ReLU(inplace), convolution(6, 4, 3), nn.ReLU(inplace)
    ).eval()


def score_of(module):
    return lambda x: module(x).flatten(1).square().mean(1)


def by_superpixel(values, places):
    return torch.stack([values[places == one].sum() for one in range(int(places.max()) + 1)])


@torch.no_grad()
def brute_force(score, image, places, background):
    """Shapley values by their definition."""
    count = int(places.max()) + 1

    def worth(coalition):
        shown = torch.tensor(coalition)[places]
        return float(score(torch.where(shown, image, background)).double().mean())

    everything = list(itertools.product([False, True], repeat=count))
    worths = {coalition: worth(coalition) for coalition in everything}
    values = torch.zeros(count, dtype=torch.float64)
    for coalition, member in itertools.product(everything, range(count)):
        if not coalition[member]:
            size = sum(coalition)
            orders = math.factorial(size) * math.factorial(count - size - 1) / math.factorial(count)
            joined = (*coalition[:member], True, *coalition[member + 1 :])
            values[member] += orders * (worths[joined] - worths[coalition])
    return values.float()


@pytest.fixture
def images():
    return draws(2, 2, 8, 9)


@pytest.fixture
def background():
    return draws(4, 2, 8, 9, seed=1)


# GradientSHAP -------------------------------------------------------------------------------------


def test_gradient_shap_of_a_linear_score_is_the_weighted_difference_to_the_mean(images, background):
    weight = draws(2, 8, 9, seed=2) - 0.5

    def score(x):
        return (weight * x).sum((1, 2, 3)) + 7

    maps = gradient_shap(score, images, background, samples=64)
    torch.testing.assert_close(maps, (weight * (images - background.mean(0))).sum(1))


def test_gradient_shap_sums_to_about_the_difference_of_the_scores(images, background):
    score = score_of(network())
    for seed in range(3):
        maps = gradient_shap(score, images, background, seed=seed)
        expected = (score(images) - score(background).mean()).detach()
        torch.testing.assert_close(maps.flatten(1).sum(1), expected, rtol=0.05, atol=2e-4)


def test_gradient_shap_comes_near_captum(images, background):
    score = score_of(network())
    ours = gradient_shap(score, images[:1], background, samples=2000, batch_size=500)
    state = np.random.get_state()  # noqa: NPY002  (which captum draws from)
    with torch.random.fork_rng(devices=[]):
        np.random.seed(0)  # noqa: NPY002
        theirs = GradientShap(score).attribute(images[:1], background, n_samples=2000).sum(1)
    np.random.set_state(state)  # noqa: NPY002
    scale = float(ours.abs().max())
    torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=0.1 * scale)


# KernelSHAP ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [200, 2000])
def test_kernel_shap_of_a_linear_score_is_the_sum_of_each_superpixel(images, background, samples):
    weight = draws(2, 8, 9, seed=2) - 0.5

    def score(x):
        return (weight * x).sum((1, 2, 3)) + 7

    maps = kernel_shap(score, images, background, segments=20, samples=samples)
    for values, image in zip(maps, images, strict=True):
        places = superpixels(image, 20)
        each = (weight * (image - background.mean(0))).sum(0)
        expected = by_superpixel(each, places)
        torch.testing.assert_close(by_superpixel(values, places), expected, atol=3e-5, rtol=0)
        for one in range(len(expected)):  # evenly spread
            assert values[places == one].unique().numel() == 1


def test_kernel_shap_is_exact_where_all_coalitions_are_taken():
    image, background = draws(1, 2, 8, 12), draws(3, 2, 8, 12, seed=1)

    def score(x):  # of more than pairs of pixels
        return (40 * x.mean((1, 2, 3))).sin() + x[:, 0].amax((1, 2)) * x[:, 1, 2:5].mean((1, 2))

    places = superpixels(image[0], 6)
    assert int(places.max()) == 5
    expected = brute_force(score, image[0], places, background)
    for seed in (0, 1):  # of nothing
        maps = kernel_shap(score, image, background, segments=6, samples=64, seed=seed)
        found = by_superpixel(maps[0], places)
        torch.testing.assert_close(found, expected, atol=3e-5, rtol=0)
    fewer = kernel_shap(score, image, background, segments=6, samples=40)
    error = (by_superpixel(fewer[0], places) - expected).norm() / expected.norm()
    assert 1e-3 < error < 0.5


def test_more_coalitions_come_nearer(images, background):
    score = score_of(network())
    places = superpixels(images[0], 9)
    expected = brute_force(score, images[0], places, background)
    errors = []
    for samples in (len(expected) * 2 + 4, 250):
        maps = [
            kernel_shap(
                score, images[:1], background, segments=9, samples=samples, seed=seed, batch_size=64
            )
            for seed in range(4)
        ]
        found = torch.stack([by_superpixel(one[0], places) for one in maps])
        errors.append(float((found - expected).norm(dim=1).mean() / expected.norm()))
    assert errors[1] < 0.5 * errors[0]
    assert errors[1] < 0.05


def test_kernel_shap_sums_to_the_difference_of_the_scores_of_published_weights(shared_data):
    module = resnet20(10)
    load_weights(module, str(shared_data / "weights" / "cifar10_resnet20.pth"))
    module.eval()
    smooth = nn.functional.interpolate(draws(4, 3, 8, 8), size=32, mode="bilinear") * 2 - 1
    image, background = smooth[:1], smooth[1:]

    def score(x):
        return module(x)[:, 3]

    seen = kernel_shap(score, image, background, segments=16, samples=40)
    with torch.no_grad():
        difference = float(score(image) - score(background).mean())
    assert float(seen.sum()) == pytest.approx(difference, abs=1e-4)
    assert abs(difference) > 0.1


def test_no_more_background_images_are_taken_than_a_few(images):
    background = torch.arange(20.0).view(20, 1, 1, 1).expand(20, 2, 8, 9)
    seen = set()

    def score(x):
        seen.update(x[:, 0, 0, 0].tolist())
        return x.mean((1, 2, 3))

    kernel_shap(score, images[:1] + 100, background, segments=4, samples=32)
    taken = {one for one in seen if one < 100}
    assert len(taken) == BACKGROUNDS
    seen.clear()
    kernel_shap(score, images[:1] + 100, background, segments=4, samples=32, seed=1)
    assert taken != {one for one in seen if one < 100}


def test_too_few_samples_are_refused(images, background):
    with pytest.raises(UserError, match=r"needs at least \d+ samples, and has 20; take more"):
        kernel_shap(score_of(network()), images, background, segments=40, samples=20)


def test_an_image_of_one_superpixel():
    image, background = draws(1, 2, 1, 1), draws(3, 2, 1, 1, seed=1)
    seen = kernel_shap(lambda x: x.sum((1, 2, 3)), image, background)
    expected = image.sum() - background.sum((1, 2, 3)).mean()
    torch.testing.assert_close(seen[0, 0, 0], expected)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 40, 32), (5, 32, 32), (1, 8, 12, 12)])
@pytest.mark.parametrize("value", ["draws", "flat", "large"])
def test_superpixels_are_numbered_without_gaps(shape, value):
    image = {"draws": draws(*shape), "flat": torch.zeros(shape), "large": draws(*shape) * 3e3 - 1e3}
    places = superpixels(image[value], 30)
    assert places.shape == shape[1:]
    numbers = places.unique().tolist()
    assert numbers == list(range(len(numbers)))
    assert 15 <= len(numbers) <= 60


def test_superpixels_follow_edges():
    image = torch.zeros(1, 24, 24)
    image[:, :, 11:] = 1
    places = superpixels(image, 16)
    assert not set(places[:, :11].unique().tolist()) & set(places[:, 11:].unique().tolist())


# Both ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_volumes(method):
    images, background = draws(2, 2, 6, 7, 8), draws(3, 2, 6, 7, 8, seed=1)
    score = score_of(network(3))
    options = {"segments": 8, "samples": 60} if method is kernel_shap else {"samples": 120}
    maps = method(score, images, background, **options)
    assert maps.shape == (2, 6, 7, 8)
    expected = (score(images) - score(background).mean()).detach()
    tolerance = 1e-5 if method is kernel_shap else 3e-4
    torch.testing.assert_close(maps.flatten(1).sum(1), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_its_images_and_no_batch_is_larger_than_allowed(method, images, background):
    score, sizes = score_of(network()), []

    def counted(x):
        sizes.append(len(x))
        return score(x)

    maps = method(counted, images, background, samples=160, batch_size=7)
    assert max(sizes) == 7
    each = [method(score, image[None], background, samples=160, batch_size=7) for image in images]
    torch.testing.assert_close(maps, torch.cat(each))
    assert maps.dtype == torch.float32


@pytest.mark.parametrize("method", METHODS)
def test_the_seed_decides_what_is_drawn(method, images, background):
    score = score_of(network())
    first = method(score, images, background, samples=160, seed=1)
    again = method(score, images, background, samples=160, seed=1)
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.allclose(first, method(score, images, background, samples=160, seed=2))


@pytest.mark.parametrize("method", METHODS)
def test_leaves_gradients_hooks_images_and_random_state_as_they_were(method, images, background):
    module, before = network(), (images.clone(), background.clone())
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002  (that the old global state stays is what is tested)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    maps = method(score_of(module), images, background, samples=160)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert torch.equal(images, before[0])
    assert torch.equal(background, before[1])
    assert not maps.requires_grad
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in module.parameters())
    assert not any(layer._forward_hooks or layer._backward_hooks for layer in module.modules())


@pytest.mark.parametrize("method", METHODS)
def test_frozen_parameters_activations_in_place_and_modes_change_nothing(
    method, images, background
):
    images, background = images - 0.3, background - 0.3
    expected = method(
        score_of(nn.Sequential(nn.ReLU(), network())), images, background, samples=160
    )
    module = nn.Sequential(nn.ReLU(inplace=True), network(inplace=True)).requires_grad_(False)
    copies = images.clone(), background.clone()
    with torch.no_grad():
        maps = method(score_of(module), images, background, samples=160)
    torch.testing.assert_close(maps, expected)
    assert torch.equal(images, copies[0])
    assert torch.equal(background, copies[1])
    with torch.inference_mode():
        maps = method(score_of(module), images.clone(), background.clone(), samples=160).clone()
        assert torch.is_inference_mode_enabled()
    torch.testing.assert_close(maps, expected)


@pytest.mark.parametrize("method", METHODS)
def test_a_background_of_other_images_is_refused(method, images):
    for wrong in (torch.zeros(3, 2, 8, 8), torch.zeros(0, 2, 8, 9), torch.zeros(2, 8, 9)):
        with pytest.raises(UserError, match=r"one image or more of \[2, 8, 9\]"):
            method(score_of(network()), images, wrong)
