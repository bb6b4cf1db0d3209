import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from lit_imgproc.models import set_distances
from lit_imgproc.models.set_distances import (
    feature_distance,
    frechet_distance,
    kernel_distance,
    precision_recall,
)


def random_features(rows, columns=6, seed=0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=generator)
    return torch.randn(rows, columns, generator=generator) @ mixing + shift


class Images(nn.Module):
    """What torchmetrics takes features to be made by: images 1x1xD are their own features."""

    num_features = 6

    def forward(self, images):
        return images.flatten(1)


# FID -------------------------------------------------------------------------------------------


def test_two_gaussians_in_closed_form():
    zero, one = torch.zeros(4), torch.eye(4)
    assert frechet_distance(zero, one, zero + 1, 4 * one).item() == 8.0
    assert frechet_distance(zero, one, zero, one).item() == 0.0
    assert frechet_distance(zero, one, zero + 3, one).item() == 36.0
    assert frechet_distance(zero, one, zero, 0 * one).item() == 4.0


def test_covariances_that_commute_differ_by_their_roots():
    first, second = torch.tensor([1.0, 4.0, 9.0]), torch.tensor([16.0, 0.0, 25.0])
    zero = torch.zeros(3)
    distance = frechet_distance(zero, first.diag(), zero, second.diag())
    assert distance.item() == pytest.approx((1 - 4) ** 2 + (2 - 0) ** 2 + (3 - 5) ** 2)


def test_covariances_that_do_not_commute_as_scipy_says():
    a, b = random_features(50).double(), random_features(60, seed=1, shift=0.5).double()
    means = [x.mean(0) for x in (a, b)]
    covs = [np.cov(x.numpy(), rowvar=False) for x in (a, b)]
    expected = (means[0] - means[1]).square().sum().item()
    expected += np.trace(covs[0] + covs[1] - 2 * sqrtm(covs[0] @ covs[1]).real)
    first, second = (torch.from_numpy(cov) for cov in covs)
    assert frechet_distance(means[0], first, means[1], second).item() == pytest.approx(expected)
    assert frechet_distance(means[1], second, means[0], first).item() == pytest.approx(expected)
    assert feature_distance(a, b).item() == pytest.approx(expected)


@pytest.mark.parametrize("rows", [4, 200])  # covariances of 4 rows are singular
def test_fid_is_that_of_torchmetrics(rows):
    real, fake = random_features(rows), random_features(rows, seed=1, shift=0.2)
    reference = FrechetInceptionDistance(feature=Images(), normalize=True)
    reference.set_dtype(torch.float64)
    reference.update(real.view(rows, 1, 1, -1), real=True)
    reference.update(fake.view(rows, 1, 1, -1), real=False)
    assert feature_distance(real, fake).item() == pytest.approx(float(reference.compute()), 1e-5)


def test_fewer_images_than_features():
    real = random_features(8, 300)
    assert feature_distance(real, real).item() == pytest.approx(0, abs=1e-8)
    assert feature_distance(real, real.double() + 2).item() == pytest.approx(4 * 300, rel=1e-9)
    fake = random_features(8, 300, seed=1)
    # The roots of the eigenvalues of C1 C2 are the singular values of what both share.
    centred = [(x - x.mean(0)).double() / 7**0.5 for x in (real, fake)]
    expected = (real.double().mean(0) - fake.double().mean(0)).square().sum()
    expected += sum(x.square().sum() for x in centred)
    expected -= 2 * torch.linalg.svdvals(centred[0] @ centred[1].T).sum()
    assert feature_distance(real, fake).item() == pytest.approx(expected.item(), rel=1e-9)


# KID -------------------------------------------------------------------------------------------


def test_kid_by_hand():
    # (x y + 1)^3 of 0 and 1 is 1, but for 8 of 1 and 1, which an image has with itself alone.
    points = torch.tensor([[0.0], [1.0]])
    assert kernel_distance(points, points).item() == 1 + 1 - 2 * (1 + 1 + 1 + 8) / 4
    # (2 * 2 / 2 + 1)^3 = 27 within the fakes, and 1 within zeros and between the two.
    fakes = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
    assert kernel_distance(torch.zeros(2, 2), fakes).item() == 1 + 27 - 2


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance`:UserWarning")
def test_kid_is_that_of_torchmetrics():
    real, fake = random_features(40), random_features(40, seed=1, shift=0.2)
    reference = KernelInceptionDistance(feature=Images(), subsets=1, subset_size=40)
    reference.update(real.view(40, 1, 1, -1), real=True)
    reference.update(fake.view(40, 1, 1, -1), real=False)
    expected = float(reference.compute()[0])
    assert kernel_distance(real, fake).item() == pytest.approx(expected, rel=1e-4)


def test_kid_does_not_depend_on_how_many_images_there_are():
    generator = torch.Generator().manual_seed(0)

    def mean(rows):
        pairs = torch.randn(400, 2, rows, 4, generator=generator)
        return torch.stack([kernel_distance(*pair) for pair in pairs]).mean().item()

    assert mean(4) == pytest.approx(0, abs=0.1)
    assert mean(20) == pytest.approx(0, abs=0.02)


def test_kid_is_the_same_in_chunks(monkeypatch):
    real, fake = random_features(30), random_features(20, seed=1)
    whole = kernel_distance(real, fake).item()
    monkeypatch.setattr(set_distances, "_CHUNK", 7)
    assert kernel_distance(real, fake).item() == pytest.approx(whole, rel=1e-12)


def test_kid_of_subsets_is_that_of_the_whole_on_average():
    real, fake = random_features(300), random_features(200, seed=1, shift=0.5)
    whole = set_distances._discrepancy(real.double(), fake.double())
    assert kernel_distance(real, fake) == whole
    subsets = kernel_distance(real, fake, subsets=20, subset_size=50)
    assert subsets != whole
    assert subsets.item() == pytest.approx(whole.item(), rel=0.1)


def test_subsets_are_the_same_each_time_in_whatever_order_the_images_are():
    real, fake = random_features(50), random_features(60, seed=1)
    before = torch.get_rng_state()
    first = kernel_distance(real, fake, subsets=3, subset_size=10)
    assert kernel_distance(real.flip(0), fake.roll(7, 0), subsets=3, subset_size=10) == first
    assert torch.equal(torch.get_rng_state(), before)
    assert kernel_distance(real, fake, subsets=3, subset_size=10, seed=1) != first


# Precision and recall --------------------------------------------------------------------------


def brute_force(real, fake, k):
    def covered(points, centres):
        among = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
        radii = np.sort(among, axis=1)[:, k]  # the nearest is the point itself
        return np.mean(
            (np.linalg.norm(points[:, None] - centres[None], axis=-1) <= radii).any(axis=1)
        )

    return covered(fake, real), covered(real, fake)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("chunk", [7, 1000])
def test_precision_and_recall_by_brute_force(monkeypatch, k, chunk):
    monkeypatch.setattr(set_distances, "_CHUNK", chunk)
    real, fake = random_features(40), random_features(25, seed=1, shift=0.7)
    answer = precision_recall(real, fake, k=k)
    expected = brute_force(real.numpy(), fake.numpy(), k)
    assert [value.item() for value in answer] == pytest.approx(expected)
    assert 0 < min(expected) < max(expected) < 1


def test_images_on_a_line():
    line = torch.arange(8.0)[:, None]
    # The third neighbour of 0 and 7 is 3 away, of 1 and 6 and of the others 2: reals reach -3.
    assert precision_recall(line, line) == (1, 1)
    fakes = torch.tensor([[-3.0], [-3.01], [10.0], [11.0], [4.5]])
    precision, _ = precision_recall(line, fakes)
    assert precision.item() == pytest.approx(3 / 5)


def test_a_generator_that_makes_one_kind_of_image_is_precise_and_forgets_the_rest():
    kinds = torch.tensor([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0], [100.0, 100.0]])
    real = (kinds[:, None] + random_features(20, 2)).flatten(0, 1)
    fake = random_features(20, 2)
    precision, recall = precision_recall(real, fake)
    assert precision == 1
    assert recall == 0.25
    assert precision_recall(real, fake + 1000) == (0, 0)
