"""Images made larger than they are, and cut again."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Pad = Callable[[Tensor, Sequence[int], Sequence[int]], Tensor]
"""What goes on beyond the edges of ``[B, C, *S]``: pixels before and after each axis of ``S``."""


def mirror(images: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
    """Go on beyond the edges of ``[B, C, *S]`` with what lies within, as in a mirror.

    The edge itself is not repeated. Where more is asked for than there is, mirrored images are
    mirrored again, which ``torch.nn.functional.pad`` refuses.

    Args:
        images: of one, two or three dimensions.
        before: pixels at the beginning of each axis of ``S``.
        after: pixels at its end.
    """
    for axis, (first, last) in enumerate(zip(before, after, strict=True), start=2):
        length = images.shape[axis]
        if not first and not last:
            continue
        period = max(2 * length - 2, 1)
        at = torch.arange(-first, length + last, device=images.device).remainder(period)
        images = images.index_select(axis, torch.minimum(at, period - at) if length > 1 else at)
    return images


def lowest(images: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
    """Go on beyond the edges of ``[B, C, *S]`` with the lowest value of each image and channel.

    So the training patches of volumes end: around a patient there is air, and a mirrored organ
    would be taken for one. Arguments as of :func:`mirror`.
    """
    sides = images.shape[2:]
    size = [a + side + b for a, side, b in zip(before, sides, after, strict=True)]
    least = images.flatten(2).amin(2).view(*images.shape[:2], *[1] * len(size))
    padded = least.expand(*images.shape[:2], *size).clone()
    middle = [slice(a, a + side) for a, side in zip(before, sides, strict=True)]
    padded[(slice(None), slice(None), *middle)] = images
    return padded


def inner(array: Tensor, size: Sequence[int]) -> Tensor:
    """The middle of ``[..., *S]``, of a size."""
    for axis, side in enumerate(size, start=array.ndim - len(size)):
        if array.shape[axis] != side:
            array = array.narrow(axis, (array.shape[axis] - side) // 2, side)
    return array
