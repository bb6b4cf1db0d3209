"""How faithful a map is to what the network answers, and how far maps agree."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_imgproc.errors import UserError

BLUR = 1 / 8
"""Standard deviation of the blur that insertion begins with, as a share of each side.

The paper's authors take 5 of 224 pixels. Of 28 pixels that share leaves a network as sure of a
garment as before (0.81, of 0.91); with this one it is as sure as chance.
"""


@dataclass(frozen=True)
class Curves:
    """The confidence while an image is taken apart and put together, most important places first.

    Attributes:
        deletion: float64 ``[steps + 1]``, at equally spaced shares of replaced places, 0 to 1. The
            lower it lies, the more faithful the map.
        insertion: likewise. The higher, the better.
    """

    deletion: NDArray[np.float64]
    insertion: NDArray[np.float64]

    @property
    def deletion_auc(self) -> float:
        """The area under the deletion curve: the mean confidence over all shares."""
        return _area(self.deletion)

    @property
    def insertion_auc(self) -> float:
        """The area under the insertion curve."""
        return _area(self.insertion)


def deletion_and_insertion(
    confidence: Callable[[Tensor], Tensor],
    image: Tensor,
    heat: Tensor,
    *,
    steps: int = 32,
    batch_size: int = 32,
) -> Curves:
    """Watch the confidence fall and rise as the places of an image are changed (arXiv 1806.07421).

    Deletion gives them the image's mean colour, the most important ones first. The paper's authors
    put in zeros after normalization, which is a mean colour too. Black would be no removal: it is
    what the ground looks like in many images, a strong edge in others, and of a CT scan no value of
    note. Insertion begins with the image blurred by :data:`BLUR` and puts its places back in the
    same order.

    Places of equal heat, such as the zeros of a class activation map, come in a random order that
    is the same in every call. So they are scattered over the image: in reading order, a map without
    any knowledge would take the image away from the top down.

    Read both. Single places that lie scattered break an image up wherever they are, so that even a
    map of noise may delete faster than a smooth map of the object: a low deletion says most when it
    is compared with that of maps as fine. Insertion does not have this weakness.

    Args:
        confidence: from images ``[B, C, *S]`` to how sure the network is of one target, ``[B]`` in
            [0, 1].
        image: ``[C, *S]``, as ``confidence`` takes it: an image or a volume.
        heat: ``[*S]``, of any sign and scale; what is higher is more important.
        steps: in how many equal steps all places are replaced.
        batch_size: images that the network sees at once; ``2 * (steps + 1)`` in all.

    Raises:
        UserError: the map is not of the image's size.
    """
    if heat.shape != image.shape[1:]:
        raise UserError(
            f"the map is of {'x'.join(map(str, heat.shape))} places and the image of "
            f"{'x'.join(map(str, image.shape[1:]))}: both have to be of one size"
        )
    rank = _ranks_of_importance(heat).to(image.device)
    counts = torch.arange(steps + 1, device=image.device) * heat.numel() // steps
    space = tuple(range(1, image.ndim))

    def curve(before: Tensor, after: Tensor) -> NDArray[np.float64]:
        seen = []
        for some in torch.split(counts, batch_size):
            replaced = rank < some.view(-1, 1, *(1 for _ in space))
            seen.append(confidence(torch.where(replaced, after, before)).double().cpu())
        return np.asarray(torch.cat(seen).numpy())

    with torch.no_grad():
        return Curves(
            deletion=curve(image, image.mean(space, keepdim=True)),
            insertion=curve(_blurred(image), image),
        )


def pointing_game(heat: Tensor, mask: Tensor) -> float:
    """Whether a map is greatest on the object (arXiv 1608.00507): 1 for a hit, 0 for a miss.

    Where several places share the greatest value, one of them would be taken at random: the chance
    of a hit is given, which is the share of them that lie on the object. So a flat map hits as
    often as a place chosen blindly. There is no margin round the object; the paper allows 15
    pixels.

    Args:
        heat: ``[*S]``.
        mask: bool ``[*S]``, where the object is.

    Returns:
        A chance in [0, 1]; of a map with one greatest value, 0 or 1.
    """
    return float(mask[heat == heat.max()].float().mean())


def centre_baseline(mask: Tensor) -> float:
    """The pointing game of a map that knows nothing and is greatest in the middle of the image.

    Photographers put what they show there, so a method has to beat this, and not chance. Where a
    side is even, the middle is of two places, and one of them would be taken at random.

    Args:
        mask: bool ``[*S]``, where the object is.

    Returns:
        A chance in [0, 1]; where all sides are odd, 0 or 1.
    """
    middle = tuple(slice((side - 1) // 2, side // 2 + 1) for side in mask.shape)
    return float(mask[middle].float().mean())


def interval(hits: float, count: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's confidence interval of a share, such as the hits of the pointing game.

    Args:
        hits: how many of them; chances of a hit may be added up, and are rounded then.
        count: of how many. Of none, nothing is known: the interval is (0, 1).
        level: how often such an interval holds the true share, between 0 and 1.

    Returns:
        Its ends, in [0, 1].
    """
    from scipy.stats import binomtest

    if not count:
        return 0.0, 1.0
    ends = binomtest(round(hits), count).proportion_ci(confidence_level=level, method="wilson")
    return float(ends.low), float(ends.high)


def agreement(maps: Mapping[str, Sequence[Tensor]]) -> dict[str, dict[str, float]]:
    """Spearman's rank correlation of the maps of every two methods, the mean over the images.

    An image on which either map is flat, or not finite, is left out; two methods without any image
    in common are left out of the table.

    Args:
        maps: by method, a map ``[*S]`` an image; all methods of the same images.

    Returns:
        By method and method, both ways round, in [-1, 1].
    """
    ranks = {name: [standard_ranks(heat) for heat in some] for name, some in maps.items()}
    table: dict[str, dict[str, float]] = {name: {} for name in maps}
    for one, first in ranks.items():
        for other, second in ranks.items():
            pairs = zip(first, second, strict=True)
            found = [a @ b for a, b in pairs if a is not None and b is not None]
            if found:
                table[one][other] = float(np.mean(found))
    return table


def standard_ranks(heat: Tensor) -> NDArray[np.float64] | None:
    """Rank the places of a map, so that a product of two is Spearman's correlation of the maps.

    Args:
        heat: ``[*S]``. Equal values share their mean rank.

    Returns:
        Ranks ``[N]`` of mean 0 and length 1; None of a map that is flat or not finite, which has
        no order.
    """
    from scipy.stats import rankdata

    values = heat.detach().float().cpu().numpy().ravel()
    if not np.isfinite(values).all() or values.min() == values.max():
        return None
    ranks = rankdata(values)
    ranks -= ranks.mean()
    return np.asarray(ranks / np.linalg.norm(ranks))


def _area(curve: NDArray[np.float64]) -> float:
    return float(np.trapezoid(curve, dx=1 / (len(curve) - 1)))


def _ranks_of_importance(heat: Tensor) -> Tensor:
    """How many places are more important than each one, int64 ``[*S]``; no two are equal."""
    values = heat.detach().flatten().cpu()
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(0))
    order = order[values[order].argsort(descending=True, stable=True)]
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order))
    return ranks.view(heat.shape)


def _blurred(image: Tensor) -> Tensor:
    """An image in which only the rough distribution of colours is left."""
    from scipy.ndimage import gaussian_filter

    widths = (0.0, *(side * BLUR for side in image.shape[1:]))
    pixels = gaussian_filter(image.float().cpu().numpy(), widths)
    return torch.from_numpy(pixels).to(image)
