"""Occlusion: how much a score drops when a part of the image is covered."""

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from lit_imgproc.errors import UserError


@torch.no_grad()
def occlusion(
    score: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    window: int | None = None,
    stride: int | None = None,
    batch_size: int = 32,
) -> Tensor:
    """Cover an image piece by piece, and see what each piece is worth (arXiv 1311.2901).

    A square (or cube) of the mean colour of the image is laid over it at places that are spread
    evenly from edge to edge. Every pixel has the mean drop of the squares that cover it. The random
    state and the mode of the network are not touched; no gradient is taken.

    captum's Occlusion steps from one edge, and what overlaps the other edge is cut off there: a
    narrower square, which covers less.

    Args:
        score: any number of images to one score an image ``[B]``. Copies of one image are scored
            together, so it must be of one target and not of a list of them, and of a given one:
            what the network answers may change when a part is covered.
        images: ``[B, C, *S]``, as ``score`` takes them.
        window: the side of the square in pixels; None is an eighth of the mean side (the geometric
            one), which makes for about 225 places in a large image and 3,375 in a volume, however
            long each side is; at least 1, and at most the shortest side.
        stride: the most pixels from one place to the next; None is half the window.
        batch_size: how many images are scored at a time.

    Returns:
        Maps ``[B, *S]``, float32, in units of the score: above 0 where a pixel speaks for the
        target, below where against it.

    Raises:
        UserError: the window is larger than the image, or the stride than the window.
    """
    sides = images.shape[2:]
    if window is None:
        window = min(*sides, max(1, round(math.prod(sides) ** (1 / len(sides)) / 8)))
    if not 1 <= window <= min(sides):
        raise UserError(
            f"a window of {window} pixels does not fit in an image of "
            f"{' x '.join(map(str, sides))}; choose one from 1 to {min(sides)}"
        )
    if stride is None:
        stride = (window + 1) // 2
    if not 1 <= stride <= window:
        raise UserError(
            f"a stride of {stride} pixels leaves some that a window of {window} never covers; "
            f"choose one from 1 to {window}"
        )
    starts = [_starts(side, window, stride) for side in sides]
    windows = [
        (slice(None), *(slice(start, start + window) for start in corner))
        for corner in itertools.product(*starts)
    ]
    maps = []
    for image in images:
        whole = score(image[None].clone())
        colour = image.mean(tuple(range(1, image.ndim)), keepdim=True)
        total = torch.zeros_like(image[:1], dtype=torch.float32)
        times = torch.zeros_like(total)
        for first in range(0, len(windows), batch_size):
            some = windows[first : first + batch_size]
            covered = image.repeat(len(some), *[1] * image.ndim)
            for one, place in zip(covered, some, strict=True):
                one[place] = colour
            for drop, place in zip(whole - score(covered), some, strict=True):
                total[place] += drop
                times[place] += 1
        maps.append(total[0] / times[0])
    return torch.stack(maps)


def _starts(side: int, window: int, stride: int) -> list[int]:
    """Where windows start along a side: the first at one edge, the last at the other."""
    room = side - window
    steps = math.ceil(room / stride)
    return [round(step * room / max(steps, 1)) for step in range(steps + 1)]
