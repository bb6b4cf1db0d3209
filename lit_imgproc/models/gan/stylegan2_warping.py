"""Changes of images that can be differentiated twice, as the penalty R1 behind them is.

An image continues beyond its edges as its mirror image. Resampling and filtering are linear along
each axis and are done by small matrices, which hold that mirror, too, and are made once for each
size and device. All of it is float32.
"""

import math
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

SYM6 = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
)
"""The scaling filter of Daubechies' least asymmetric wavelet of six vanishing moments."""
SYM2 = (0.48296291314453416, 0.8365163037378079, 0.2241438680420134, -0.12940952255126037)
"""Likewise, of two vanishing moments."""
DELAY = sum(n * tap for n, tap in enumerate(SYM6)) / sum(SYM6)
"""Where in a doubled signal the place 0 of the signal lies."""
MARGIN = 3
"""Pixels beyond each edge that are doubled, too: as far as halving looks."""


def mirrored(places: Tensor, side: int) -> Tensor:
    """Bring places in pixels, whole or not, into [0, side - 1], by mirrors at both ends."""
    last = side - 1
    return last - (places.remainder(2 * last) - last).abs()


def blit(images: Tensor, inverse: Tensor) -> Tensor:
    """Move pixels to other places, each as it is.

    Args:
        images: square ones, ``[B, C, S, S]``.
        inverse: ``[B, 3, 3]``, from places (x, y, 1) in the result, in pixels from the centre, to
            places in the image: turns by right angles, flips and shifts by whole pixels.
    """
    side = images.shape[-1]
    places = _sources(inverse, torch.arange(side, device=images.device) - (side - 1) / 2)
    x, y = mirrored((places + (side - 1) / 2).round(), side).long().unbind(1)
    index = (y * side + x).flatten(1)[:, None].expand(-1, images.shape[1], -1)
    return images.flatten(2).gather(2, index).view_as(images)


def warp(images: Tensor, inverse: Tensor) -> Tensor:
    """Transform images by affine maps, without aliasing (arXiv 2006.06676, appendix B).

    The image is doubled by an orthogonal low-pass filter, sampled bilinearly there, and brought
    back by the transpose, which is the inverse of doubling.

    Args:
        images: square ones, ``[B, C, S, S]``.
        inverse: ``[B, 3, 3]``, as for :func:`blit`, but any map.
    """
    side = images.shape[-1]
    double = _doubling(side, images.device)
    fine = double @ images @ double.t()
    halve = _halving(side, images.device)
    # A place n of a doubled image lies at (n - DELAY) / 2 pixels of the image.
    steps = torch.arange(halve.shape[1], device=images.device)
    places = _sources(inverse, (steps - DELAY) / 2 - (side - 1) / 2) + (side - 1) / 2
    # Just beyond its edges the doubled image has its mirror image already.
    near = (places >= -MARGIN) & (places <= side - 1 + MARGIN)
    places = 2 * (places.where(near, mirrored(places, side)) + MARGIN) + DELAY
    grid = (2 * places / (len(double) - 1) - 1).permute(0, 2, 3, 1)
    sampled: Tensor = _Sample.apply(fine, grid)
    return halve @ sampled @ halve.t()


def equalize(images: Tensor, gains: Tensor) -> Tensor:
    """Amplify four bands of frequency, an octave each but the lowest, along both axes.

    Args:
        images: square ones, ``[B, C, S, S]``.
        gains: ``[B, 4]``, the lowest first; ones leave an image as it is.
    """
    bands = _bands(images.shape[-1], images.device)
    filters = torch.einsum("bk,kij->bij", gains, bands)[:, None]
    return filters @ images @ filters.transpose(2, 3)


def _sources(inverse: Tensor, steps: Tensor) -> Tensor:
    """Where in an image the places of a result come from: ``[B, 2, N, N]``, x before y."""
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    places = torch.stack([x, y, torch.ones_like(x)]).to(inverse)
    return torch.einsum("bij,jhw->bihw", inverse[:, :2], places)


@cache
def _doubling(side: int, device: torch.device) -> Tensor:
    """The matrix ``[2 * (side + 2 * MARGIN) + 10, side]`` that doubles the samples of a signal."""
    taps = torch.tensor(SYM6, dtype=torch.float64) * math.sqrt(2)
    length = 2 * (side + 2 * MARGIN) + len(taps) - 2
    matrix = torch.zeros(length, side, dtype=torch.float64)
    for row in range(length):
        place = row - 2 * MARGIN
        samples = torch.arange((place - len(taps)) // 2 + 1, place // 2 + 1)
        matrix[row].index_add_(0, mirrored(samples, side), taps[place - 2 * samples])
    return matrix.to(device, torch.float32)


@cache
def _halving(side: int, device: torch.device) -> Tensor:
    """The matrix ``[side, 2 * side + 10]`` that undoes :func:`_doubling`."""
    taps = torch.tensor(SYM6, dtype=torch.float64) / math.sqrt(2)
    matrix = torch.zeros(side, 2 * side + len(taps) - 2, dtype=torch.float64)
    for sample in range(side):
        matrix[sample, 2 * sample : 2 * sample + len(taps)] = taps
    return matrix.to(device, torch.float32)


@cache
def _bands(side: int, device: torch.device) -> Tensor:
    """The matrices ``[4, side, side]`` that keep one band each; their sum is the identity."""
    low = torch.tensor(SYM2, dtype=torch.float64)
    low = _convolved(low, low.flip(0)) / 2  # half of the frequencies, with no delay
    high = -low
    high[len(low) // 2] += 1
    kernels, rest = [], torch.ones(1, dtype=torch.float64)
    for octave in range(3):
        spread = 2**octave
        kernels.append(_convolved(rest, _spread(high, spread)))
        rest = _convolved(rest, _spread(low, spread))
    matrices = torch.zeros(4, side, side, dtype=torch.float64)
    for matrix, kernel in zip(matrices, [rest, *reversed(kernels)], strict=True):
        centre = len(kernel) // 2
        for row in range(side):
            columns = mirrored(torch.arange(row - centre, row + centre + 1), side)
            matrix[row].index_add_(0, columns, kernel)
    return matrices.to(device, torch.float32)


def _convolved(a: Tensor, b: Tensor) -> Tensor:
    whole = len(b) - 1
    return F.conv1d(a[None, None], b.flip(0)[None, None], padding=whole)[0, 0]


def _spread(kernel: Tensor, step: int) -> Tensor:
    """A kernel with zeros between its taps."""
    spread = kernel.new_zeros((len(kernel) - 1) * step + 1)
    spread[::step] = kernel
    return spread


class _Sample(Function):
    """Bilinear sampling, which PyTorch differentiates once only.

    It is linear in the images: its derivative is its transpose, and that one's is itself.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.shape = images.shape
        return F.grid_sample(images, grid, align_corners=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (grid,) = ctx.saved_tensors
        return _SampleTransposed.apply(gradients[0], grid, ctx.shape), None


class _SampleTransposed(Function):
    @staticmethod
    def forward(ctx: Any, sampled: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(grid)
        images = sampled.new_zeros(()).expand(shape)  # of which only the shape counts
        gradient: Tensor = torch.ops.aten.grid_sampler_2d_backward(
            sampled, images, grid, 0, 0, True, (True, False)
        )[0]
        return gradient

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (grid,) = ctx.saved_tensors
        return _Sample.apply(gradients[0], grid), None, None
