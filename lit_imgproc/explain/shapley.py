"""Shapley values: what a part of an image adds to a score, averaged over what else is there."""

import itertools
import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_imgproc.errors import UserError
from lit_imgproc.explain.gradients import input_gradient

BACKGROUNDS = 8
"""The most background images that KernelSHAP puts in the place of a superpixel."""


def gradient_shap(
    score: Callable[[Tensor], Tensor],
    images: Tensor,
    background: Tensor,
    *,
    samples: int = 64,
    batch_size: int = 32,
    seed: int = 0,
) -> Tensor:
    """Average the gradient over ways from many images to one (GradientSHAP, arXiv 1705.07874).

    These are the expected gradients of arXiv 1906.10670: each sample is a point on the straight way
    from a background image to the image. The map sums to about the score of the image less the mean
    score of the background. Background images take turns, and the points of each are spread over
    its way. captum's GradientShap draws both independently, misses that sum by seven times as much
    at as many samples, scores all of them at once, and draws from the global random state.

    Gradients of parameters, the mode of the network and the random state are not touched. It may be
    called under ``torch.inference_mode``.

    Args:
        score: any number of images to one score an image ``[B]``. Points on the way to one image
            are scored together, so it must be of one target and not of a list of them, and of a
            given one: what the network answers may change on the way.
        images: ``[B, C, *S]``, as ``score`` takes them.
        background: training images ``[N, C, *S]``, on any device; where there are more than
            ``samples``, as many are drawn.
        samples: gradients that are taken for each image.
        batch_size: how many images are scored at a time.
        seed: of what is drawn, which is the same for each image and on each device.

    Returns:
        Maps ``[B, *S]``, float32, summed over the channels: above 0 where a pixel speaks for the
        target, below where against it.

    Raises:
        UserError: the background is not of images of that size, or there is none.
    """
    _check(background, images)
    random = torch.Generator().manual_seed(seed)
    turns = torch.randperm(len(background), generator=random)
    turns = turns[torch.arange(samples) % len(turns)].to(background.device)
    # The points of each background image, too, are spread over the way.
    points = (torch.arange(samples) + torch.rand(samples, generator=random)) / samples
    points = points.view(-1, *[1] * (images.ndim - 1)).to(images)
    maps = []
    with torch.inference_mode(False), torch.no_grad():
        for image in images.clone():
            total = torch.zeros_like(image)
            for first in range(0, samples, batch_size):
                some = slice(first, first + batch_size)
                way = image - background[turns[some]].to(image)
                total += (way * input_gradient(score, image - points[some] * way)).sum(0)
            maps.append(total.sum(0) / samples)
    return torch.stack(maps).float()


@torch.no_grad()
def kernel_shap(
    score: Callable[[Tensor], Tensor],
    images: Tensor,
    background: Tensor,
    *,
    segments: int = 50,
    samples: int = 500,
    batch_size: int = 32,
    seed: int = 0,
) -> Tensor:
    """Estimate the Shapley values of superpixels by a regression (KernelSHAP, arXiv 1705.07874).

    A coalition keeps the image in some superpixels and takes the others from the background; what
    it is worth is the mean score over the background images. The values are the weighted least
    squares fit of that, under the constraint that they sum to the score of the image less the mean
    score of the background. A superpixel's value is spread evenly over its pixels.

    Coalitions come with their complements; sizes that weigh most are taken whole, the rest is drawn
    by weight. Where there are no more than ``samples`` coalitions all are taken, and the values are
    exact. Each one is scored with each background image: ``samples * min(N, 8)`` images an image.
    captum's KernelShap takes no such pairs and only weighs the constraint heavily; its error is 1.5
    to 3 times as large at as many samples, and does not vanish where these are exact.

    The random state and the mode of the network are not touched; no gradient is taken.

    Args:
        score: any number of images to one score an image ``[B]``. Coalitions of one image are
            scored together, so it must be of one target and not of a list of them, and of a given
            one: what the network answers may change from one to the next.
        images: ``[B, C, *S]``, as ``score`` takes them.
        background: training images ``[N, C, *S]``, on any device; of more than
            :data:`BACKGROUNDS`, so many are drawn.
        segments: about how many superpixels an image is cut into.
        samples: coalitions of each image, at least twice as many as superpixels.
        batch_size: how many images are scored at a time.
        seed: of what is drawn.

    Returns:
        Maps ``[B, *S]``, float32: above 0 where a superpixel speaks for the target, below where
        against it.

    Raises:
        UserError: the background is not of images of that size, or there is none, or there are too
            few samples.
    """
    _check(background, images)
    drawn = torch.randperm(len(background), generator=torch.Generator().manual_seed(seed))
    background = background[drawn[:BACKGROUNDS].to(background.device)].to(images)
    maps = []
    for image in images:
        places = superpixels(image, segments)
        count = int(places.max()) + 1
        if samples < 2 * count:
            raise UserError(
                f"an image of {count} superpixels needs at least {2 * count} samples, and has "
                f"{samples}; take more samples or fewer segments"
            )
        coalitions, weights = _coalitions(count, samples, np.random.default_rng(seed))
        kept = torch.from_numpy(coalitions).to(image.device)
        worth = _worth(score, image, places, kept, background, batch_size)
        values = torch.from_numpy(_fit(coalitions, weights, worth)).float().to(image.device)
        maps.append((values / places.flatten().bincount())[places])
    return torch.stack(maps)


def superpixels(image: Tensor, segments: int) -> Tensor:
    """Cut an image into about equal pieces that follow its edges (SLIC, 10.1109/TPAMI.2012.120).

    It is the variant without a compactness to choose (SLICO), so that one call suits images of any
    number of channels and any range of values.

    Args:
        image: ``[C, *S]``.
        segments: how many there are about; fewer where the image has fewer pixels, and up to half
            as many again where it is small.

    Returns:
        The number of the piece that each pixel is in, from 0 and without gaps: int64 ``[*S]``.
    """
    from skimage.segmentation import slic

    pixels = image.float().cpu().numpy()
    # The compactness is where SLICO starts from. It adapts it in one direction only: from the
    # default, values in [0, 1] end as squares.
    found = slic(
        pixels,
        n_segments=segments,
        compactness=0.01,
        slic_zero=True,
        start_label=0,
        channel_axis=0,
    )
    _, numbers = np.unique(found, return_inverse=True)
    return torch.from_numpy(numbers.reshape(found.shape)).to(image.device)


def _check(background: Tensor, images: Tensor) -> None:
    if background.shape[1:] != images.shape[1:] or not len(background):
        raise UserError(
            f"the background is of shape {list(background.shape)}; it must hold one image or more "
            f"of {list(images.shape[1:])}, as those that are explained"
        )


def _worth(
    score: Callable[[Tensor], Tensor],
    image: Tensor,
    places: Tensor,
    kept: Tensor,
    background: Tensor,
    batch_size: int,
) -> NDArray[np.float64]:
    """The mean score over the background of each coalition ``[N, M]`` of superpixels: ``[N]``."""
    pairs = torch.arange(len(kept) * len(background), device=image.device)
    scores = []
    for first in range(0, len(pairs), batch_size):
        some = pairs[first : first + batch_size]
        shown = kept[some // len(background)][:, places].unsqueeze(1)
        mixed = torch.where(shown, image, background[some % len(background)])
        scores.append(score(mixed))
    each = torch.cat(scores).cpu().double().view(len(kept), -1)
    means: NDArray[np.float64] = each.mean(1).numpy()
    return means


def _coalitions(
    count: int, samples: int, random: np.random.Generator
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """At most ``samples`` coalitions, bool ``[N, count]``, and what all but two weigh ``[N - 2]``.

    The first two are the empty and the whole one, which a constraint is made of. Shapley's kernel
    gives each of ``s`` members a weight in proportion to 1 / (comb(count, s) s (count - s)). A
    coalition weighs as much as its complement, and the two are taken together.
    """
    sizes = list(range(1, count // 2 + 1))  # of the smaller of the two
    pairs = {s: math.comb(count, s) // (1 + (2 * s == count)) for s in sizes}
    share = {s: pairs[s] / (math.comb(count, s) * s * (count - s)) for s in sizes}
    left = (samples - 2) // 2
    taken: list[NDArray[np.bool_]] = []
    weights: list[float] = []
    # A size is taken whole where as many would be drawn of it; the small ones weigh most.
    while sizes and left * share[sizes[0]] / sum(share[s] for s in sizes) >= pairs[sizes[0]]:
        size = sizes.pop(0)
        # Of half the members, the first half of the combinations has the other as complements.
        for members in itertools.islice(itertools.combinations(range(count), size), pairs[size]):
            taken.append(np.isin(np.arange(count), members))
        weights += [share[size] / pairs[size]] * pairs[size]
        left -= pairs[size]
    if sizes:
        odds = np.array([share[s] for s in sizes])
        drawn: Counter[bytes] = Counter()
        for size in random.choice(sizes, 4 * left, p=odds / odds.sum()):
            mask = random.permutation(count) < size
            # Of half the members, a coalition and its complement are one pair.
            drawn[(mask ^ (2 * size == count and not mask[0])).tobytes()] += 1
            if len(drawn) == left:  # what is drawn again only weighs more
                break
        taken += [np.frombuffer(mask, np.bool_) for mask in drawn]
        weights += [odds.sum() * times / drawn.total() for times in drawn.values()]
    some = np.array(taken, np.bool_).reshape(-1, count)
    ends = np.array([[False] * count, [True] * count])
    return np.concatenate([ends, some, ~some]), np.array(weights * 2)


def _fit(
    coalitions: NDArray[np.bool_], weights: NDArray[np.float64], worth: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The values ``[M]`` that fit best what coalitions are worth, all as :func:`_coalitions` does.

    They sum exactly to what the whole is worth more than nothing: they are an even share of that
    and a deviation which sums to 0. As the solution of smallest norm it is a combination of the
    rows, which are centred.
    """
    count = coalitions.shape[1]
    share = (worth[1] - worth[0]) / count
    members = coalitions[2:].astype(np.float64)
    rest = worth[2:] - worth[0] - members.sum(1) * share
    root = np.sqrt(weights)
    rows = (members - members.mean(1, keepdims=True)) * root[:, None]
    values: NDArray[np.float64] = share + np.linalg.lstsq(rows, rest * root, rcond=None)[0]
    return values
