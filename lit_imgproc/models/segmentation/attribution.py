"""What an explanation of a segmentation differentiates."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_imgproc.errors import UserError
from lit_imgproc.models.targets import Box, Target


@dataclass(frozen=True)
class RegionTarget(Target):
    """A class over a region, which an explanation is asked for.

    Attributes:
        label: The class, an index of the class names.
        region: bool ``[*S]``, of the size of the images that are explained; None stands for where
            the network itself answers that class, in each image.
    """

    region: Tensor | None = None


def region_score(
    forward: Callable[[Tensor], Tensor],
    target: RegionTarget | Sequence[RegionTarget] | None = None,
    *,
    background: bool = False,
    probabilities: bool = False,
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
        target: The same for all images, or one an image; None stands for the class that covers
            most of each image, over all that the network says is of it.
        background: Whether the first class stands for nothing in particular and does not count as
            what covers most.
        probabilities: Whether the mean is of the class's probability and not of its logit.

    Raises:
        UserError: When the score is computed: a target's label is no class, or its region is
            empty, not bool, or not of the images' size.
    """

    def score(images: Tensor) -> Tensor:
        logits = forward(images).float()
        labels, regions = _asked(logits.detach(), target, background)
        values = logits.softmax(1) if probabilities else logits
        chosen = values[torch.arange(len(values), device=values.device), labels]
        inside = torch.where(regions, chosen, 0).flatten(1).sum(1)
        return inside / regions.flatten(1).sum(1).clamp(min=1)

    return score


def region_targets(
    logits: Tensor,
    label: int | None = None,
    *,
    box: Box | None = None,
    background: bool = False,
) -> list[Target | None]:
    """A class of each image over all that is said to be of it; None where nothing is.

    Args:
        logits: ``[B, K, *S]``.
        label: The class; None stands for the one that covers most of each image, or of the box.
        box: Is the region instead, xyxy in pixels of images ``[B, K, H, W]``.
        background: As of :func:`region_score`.

    Raises:
        UserError: There is no pixel in the box.
    """
    asked = None if label is None else RegionTarget(label)
    if box is None:
        labels, regions = _asked(logits, asked, background)
    else:
        left, top, right, bottom = (max(0, round(side)) for side in box)
        inside = logits[:, :, top:bottom, left:right]
        if inside[0, 0].numel() == 0:
            raise UserError(f"no pixel of the image lies in the box {list(box)}")
        labels, _ = _asked(inside, asked, background)
        regions = torch.zeros_like(logits[:, 0], dtype=torch.bool)
        regions[:, top:bottom, left:right] = True
    pairs = zip(labels.tolist(), regions, strict=True)
    return [RegionTarget(k, region) if region.any() else None for k, region in pairs]


def _asked(
    logits: Tensor, target: RegionTarget | Sequence[RegionTarget] | None, background: bool
) -> tuple[Tensor, Tensor]:
    """The class of each image, int64 ``[B]``, and its region, bool ``[B, *S]``."""
    found = logits.argmax(1)
    if target is None:
        classes = logits.shape[1]
        areas = torch.stack([one.flatten().bincount(minlength=classes) for one in found])
        if background:
            areas[:, 0] = 0
        labels = areas.argmax(1)
        regions = found == labels.view(-1, *[1] * (found.ndim - 1))
        return labels, regions & (found > 0) if background else regions
    targets = target if isinstance(target, Sequence) else [target] * len(logits)
    regions = torch.stack(
        [_region(one, mask, logits.shape[1]) for one, mask in zip(targets, found, strict=True)]
    )
    return torch.tensor([one.label for one in targets], device=logits.device), regions


def _region(target: RegionTarget, found: Tensor, classes: int) -> Tensor:
    """The region of a target in one image, whose classes are ``found``: bool ``[*S]``."""
    if not 0 <= target.label < classes:
        raise UserError(
            f"class {target.label} cannot be explained: the network has the classes 0 to "
            f"{classes - 1}"
        )
    if target.region is None:
        return found == target.label
    region = target.region.to(found.device)
    if region.dtype != torch.bool or region.shape != found.shape:
        raise UserError(
            f"the region to explain is {region.dtype} of size {list(region.shape)}: it has to be "
            f"torch.bool of the images' own size, {list(found.shape)}"
        )
    if not region.any():
        raise UserError("the region to explain is empty: at least one pixel has to be True")
    return region
