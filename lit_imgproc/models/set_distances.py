"""How far two sets of feature vectors are apart: FID, KID, precision and recall.

Features are ``[N, D]``, one row an image; their order plays no part.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

_CHUNK = 1000
"""Rows whose distances to all others are held at once: 40 MB of 10,000 images."""


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> Tensor:
    """The squared Wasserstein-2 distance of two Gaussians: FID (Heusel et al., arXiv 1706.08500).

    ``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))``, in float64. With ``C = R R^T``, the trace of
    the root is the sum of the singular values of ``R1^T R2``. Unlike the root of ``C1 C2``, that is
    exact where covariances are singular, as they are of fewer images than features.

    Args:
        mean1: ``[D]``, of the first Gaussian.
        cov1: ``[D, D]``.
        mean2: of the second.
        cov2: likewise.

    Returns:
        At least 0, float64 ``[]``.
    """
    mean1, cov1, mean2, cov2 = (t.double() for t in (mean1, cov1, mean2, cov2))
    shared = torch.linalg.svdvals(_root(cov1).T @ _root(cov2)).sum()
    distance = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * shared
    return torch.clamp(distance, min=0)


def feature_distance(real: Tensor, fake: Tensor) -> Tensor:
    """The Fréchet distance of the Gaussians that fit two sets of features.

    It is biased by the number of images: of the same two distributions, fewer images give a larger
    distance. Compare what was computed of equal numbers; papers take 10,000 or 50,000.

    Args:
        real: ``[N, D]``, at least two rows.
        fake: ``[M, D]``, likewise.

    Returns:
        float64 ``[]``.
    """
    return frechet_distance(*_moments(real), *_moments(fake))


def kernel_distance(
    real: Tensor, fake: Tensor, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> Tensor:
    """The squared maximum mean discrepancy of two sets: KID (Bińkowski et al., arXiv 1801.01401).

    The kernel is ``(x y / D + 1)^3`` and the estimate is unbiased, so it does not depend on the
    number of images, and may be a little below 0. Published figures are means over random subsets,
    which save time where there are many images; where all pairs are no more than those of the
    subsets, as they are of 10,000 images, this is the value of all pairs, which subsets scatter
    round.

    Args:
        real: ``[N, D]``, at least two rows.
        fake: ``[M, D]``, likewise.
        subsets: how many are drawn.
        subset_size: images of each set in a subset; fewer where a set has fewer.
        seed: of the draws.

    Returns:
        float64 ``[]``.
    """
    if len(real) * len(fake) <= subsets * subset_size**2:
        return _discrepancy(real.double(), fake.double())
    size = min(subset_size, len(real), len(fake))
    generator = torch.Generator().manual_seed(seed)
    # Sorted, so that the draw does not depend on which rank saw which image.
    ordered = [features[features[:, 0].argsort()].double() for features in (real, fake)]

    def draw(features: Tensor) -> Tensor:
        rows = torch.randperm(len(features), generator=generator)[:size]
        return features[rows.to(features.device)]

    drawn = [_discrepancy(*map(draw, ordered)) for _ in range(subsets)]
    return torch.stack(drawn).mean()


def precision_recall(real: Tensor, fake: Tensor, *, k: int = 3) -> tuple[Tensor, Tensor]:
    """How many fakes look real, and how much of what is real is faked (arXiv 1904.06991).

    Each image of a set stands for the ball round it that reaches its ``k``-th nearest neighbour in
    that set. Precision is the share of fakes within a ball of a real image, recall the share of
    real images within a ball of a fake.

    Args:
        real: ``[N, D]``, more than ``k`` rows.
        fake: ``[M, D]``, likewise.
        k: which neighbour a ball reaches.

    Returns:
        Precision and recall in [0, 1], float64 ``[]``.
    """
    centre = real.mean(0)  # distances of small vectors are more exact
    real, fake = real - centre, fake - centre
    real_radii, fake_radii = _radii(real, k), _radii(fake, k)
    real_looking, faked = [], torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for rows, distances in _distances(fake, real):
        real_looking.append((distances <= real_radii).any(1))
        faked |= (distances <= fake_radii[rows, None]).any(0)
    return torch.cat(real_looking).double().mean(), faked.double().mean()


def _root(cov: Tensor) -> Tensor:
    """``R`` in ``C = R R^T``, ``[D, rank of C]``."""
    values, vectors = torch.linalg.eigh(cov)
    there = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    root: Tensor = vectors[:, there] * values[there].sqrt()
    return root


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    features = features.double()
    mean = features.mean(0)
    centred = features - mean
    return mean, centred.T @ centred / (len(features) - 1)


def _discrepancy(x: Tensor, y: Tensor) -> Tensor:
    """The unbiased estimate: an image is not compared with itself."""

    def kernel(products: Tensor) -> Tensor:
        return (products / x.shape[1] + 1) ** 3

    def total(a: Tensor, b: Tensor) -> Tensor:
        return torch.stack([kernel(rows @ b.T).sum() for rows in torch.split(a, _CHUNK)]).sum()

    within = [
        (total(a, a) - kernel(a.square().sum(1)).sum()) / (len(a) * (len(a) - 1)) for a in (x, y)
    ]
    return within[0] + within[1] - 2 * total(x, y) / (len(x) * len(y))


def _radii(features: Tensor, k: int) -> Tensor:
    """How far the ``k``-th nearest other row is from each row ``[N]``."""
    radii = []
    for rows, distances in _distances(features, features):
        distances.diagonal(rows.start).fill_(torch.inf)  # to itself
        # topk is ten times as fast as kthvalue.
        radii.append(distances.topk(k, dim=1, largest=False).values[:, -1])
    return torch.cat(radii)


def _distances(a: Tensor, b: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """The Euclidean distances ``[N, M]``, some rows at a time."""
    for start in range(0, len(a), _CHUNK):
        rows = slice(start, start + _CHUNK)
        yield rows, torch.cdist(a[rows], b)
