"""What an explanation of a segmentation differentiates."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_imgproc.errors import UserError


@dataclass(frozen=True)
class RegionTarget:
    """A class over a region, which an explanation is asked for.

    Attributes:
        label: The class, an index of the class names.
        region: bool ``[*S]``, of the size of the images that are explained; None stands for where
            the network itself answers that class, in each image.
    """

    label: int
    region: Tensor | None = None


def region_score(
    forward: Callable[[Tensor], Tensor],
    target: RegionTarget | None = None,
    *,
    background: bool = False,
) -> Callable[[Tensor], Tensor]:
    """A function from images ``[B, C, *S]`` to the logit of a class over a region in each ``[B]``.

    It is the score of Seg-Grad-CAM (arXiv 2002.11434), but the mean over the region where the paper
    has the sum: it stays a logit, so that regions of several sizes can be compared, and the map of
    an image, which is scaled anyway, is the same. Where the network itself says what the region
    is, it does so anew for whatever images it is given, and nothing is differentiated through that;
    where it says that there is none, the score is 0 with a gradient of 0. An explanation that
    changes the images, such as integrated gradients, is to be given a region.

    Args:
        forward: From images in [0, 1] to logits ``[B, K, *S]``.
        target: The same for all images; None stands for the class that covers most of each image,
            over all that the network says is of it.
        background: Whether the first class stands for nothing in particular and does not count as
            what covers most.

    Raises:
        UserError: When the score is computed: the target's label is no class, or its region is
            empty, not bool, or not of the images' size.
    """

    def score(images: Tensor) -> Tensor:
        logits = forward(images).float()
        labels, regions = _asked(logits.detach(), target, background)
        chosen = logits[torch.arange(len(logits), device=logits.device), labels]
        inside = torch.where(regions, chosen, 0).flatten(1).sum(1)
        return inside / regions.flatten(1).sum(1).clamp(min=1)

    return score


def _asked(logits: Tensor, target: RegionTarget | None, background: bool) -> tuple[Tensor, Tensor]:
    """The class of each image, int64 ``[B]``, and its region, bool ``[B, *S]``."""
    count, classes, *size = logits.shape
    found = logits.argmax(1)
    if target is None:
        areas = torch.stack([one.flatten().bincount(minlength=classes) for one in found])
        if background:
            areas[:, 0] = 0
        labels = areas.argmax(1)
        regions = found == labels.view(-1, *[1] * len(size))
        return labels, regions & (found > 0) if background else regions
    if not 0 <= target.label < classes:
        raise UserError(
            f"class {target.label} cannot be explained: the network has the classes 0 to "
            f"{classes - 1}"
        )
    labels = torch.full((count,), target.label, device=logits.device)
    if target.region is None:
        return labels, found == target.label
    region = target.region.to(logits.device)
    if region.dtype != torch.bool or list(region.shape) != size:
        raise UserError(
            f"the region to explain is {region.dtype} of size {list(region.shape)}: it has to be "
            f"torch.bool of the images' own size, {size}"
        )
    if not region.any():
        raise UserError("the region to explain is empty: at least one pixel has to be True")
    return labels, region.expand(count, *size)
