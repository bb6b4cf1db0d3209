"""Latents that a seed names, and the way from one to another."""

from collections.abc import Sequence

import torch
from torch import Tensor

NEARLY_PARALLEL = 1e-4
"""The sine of the angle between two latents below which the arc between them is a line."""


def latents_of(seeds: Sequence[int], dim: int) -> Tensor:
    """Draw one latent a seed from N(0, I): float32 ``[N, dim]`` on the CPU.

    A seed gives the same latent on every machine and beside whatever other seeds, since each has a
    generator of its own, which computes on the CPU.

    Args:
        seeds: at least 0 each.
        dim: of the latents.
    """
    drawn = [torch.randn(dim, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(drawn) if drawn else torch.empty(0, dim)


def slerp(start: Tensor, end: Tensor, share: float) -> Tensor:
    """Go along the arc from one latent to another (White, arXiv 1609.04468).

    A line between two of them passes near the origin, where N(0, I) of many dimensions has next to
    nothing; the arc keeps to the shell that it lies in.

    Args:
        start: ``[dim]``.
        end: likewise.
        share: of the way, 0 to 1.
    """
    cosine = torch.nn.functional.cosine_similarity(start, end, dim=0).clamp(-1, 1)
    angle = torch.arccos(cosine)
    if torch.sin(angle) < NEARLY_PARALLEL:
        return torch.lerp(start, end, share)
    weights = torch.sin((1 - share) * angle), torch.sin(share * angle)
    return (weights[0] * start + weights[1] * end) / torch.sin(angle)
