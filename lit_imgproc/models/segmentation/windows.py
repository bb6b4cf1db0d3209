"""Images larger than what a network sees: windows that overlap, and what they say, averaged."""

from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import Tensor

from lit_imgproc.models.segmentation.padding import Pad, mirror
from lit_imgproc.seams import starts, taper_of

Look = Callable[[Tensor], Tensor]
"""From images ``[B,C,*window + 2 * margin]`` to scores ``[B,K,*window]``."""


def slide(
    look: Look,
    image: Tensor,
    window: Sequence[int],
    *,
    overlap: float = 0.5,
    batch_size: int = 4,
    margin: int = 0,
    pad: Pad = mirror,
) -> Tensor:
    """Look at an image window by window and average the scores.

    Windows lie as :func:`lit_imgproc.seams.starts` says: the last one of a row ends where the image
    ends. A score counts by a Gaussian of its distance from the middle of its window (nnU-Net,
    arXiv 1809.10486), since at the edges of a window the network has seen little of what surrounds
    them. The same is done by ``monai.inferers.sliding_window_inference``, which lifts the smallest
    weights to 0.001.

    A network without padding answers for the middle of what it sees. With its ``margin`` this is
    the overlap-tile strategy of U-Net (arXiv 1505.04597): the image is mirrored once around its
    borders, and each window is read with what truly surrounds it.

    On the device of the image lie ``K + 1`` arrays of its size, and the windows of one batch.

    Args:
        look: What sees a batch of windows.
        image: ``[C,*S]``, ``S`` height and width, or depth, height and width. Sides that are
            shorter than the window are padded on both ends, and the rest is cut off again.
        window: What ``look`` answers for at once, in pixels, one number a side of ``S``.
        overlap: Share of a window that the next one sees too, at least 0 and below 1.
        batch_size: Windows that ``look`` sees at once.
        margin: In pixels: so much more than the window ``look`` is given on each side.
        pad: How an image goes on beyond its edges.

    Returns:
        float32 ``[K,*S]``: weighted means of the scores.
    """
    sides = image.shape[1:]
    missing = [max(least - side, 0) for side, least in zip(sides, window, strict=True)]
    before = [more // 2 for more in missing]
    after = [margin + more - more // 2 for more in missing]
    seen = pad(image[None], [margin + more for more in before], after)[0]
    whole = [side + more for side, more in zip(sides, missing, strict=True)]
    steps = [max(1, int(size * (1 - overlap))) for size in window]
    along = [
        starts(side, size, size - step)
        for side, size, step in zip(whole, window, steps, strict=True)
    ]
    corners = list(product(*along))
    weight = _weight(window, image.device)
    total = torch.zeros(whole, device=image.device)
    sums: Tensor | None = None
    for first in range(0, len(corners), batch_size):
        some = corners[first : first + batch_size]
        surrounding = [size + 2 * margin for size in window]
        scores = look(torch.stack([seen[_part(corner, surrounding)] for corner in some]))
        if sums is None:
            sums = torch.zeros((scores.shape[1], *whole), device=image.device)
        for corner, one in zip(some, scores, strict=True):
            sums[_part(corner, window)] += one.float() * weight
            total[_part(corner, window)[1:]] += weight
    assert sums is not None
    return sums.div_(total)[_part(before, sides)]


def _part(corner: Sequence[int], size: Sequence[int]) -> tuple[slice, ...]:
    """The index of a window of ``[C,*S]``."""
    return slice(None), *(slice(a, a + n) for a, n in zip(corner, size, strict=True))


def _weight(window: Sequence[int], device: torch.device) -> Tensor:
    """What each pixel of a window counts: float32 ``[*window]``, nowhere 0."""
    weight = torch.ones((), dtype=torch.float64)
    for size in window:
        weight = weight[..., None] * torch.from_numpy(taper_of("gaussian", size))
    return weight.float().to(device)
