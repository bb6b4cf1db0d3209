"""What a generator and a discriminator each want, and how a discriminator is kept smooth.

Logits are ``[B]``, one an image: high for what the discriminator takes for real.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Objective = Literal["non_saturating", "hinge", "wgan_gp"]
"""``non_saturating``: of Goodfellow et al. (arXiv 1406.2661), section 3; what the generator gets is
the logarithm that does not saturate. ``hinge``: of Geometric GAN (arXiv 1705.02894). ``wgan_gp``:
the Wasserstein distance, whose critic a penalty keeps 1-Lipschitz (arXiv 1704.00028)."""


def discriminator_loss(objective: Objective, real: Tensor, fake: Tensor) -> Tensor:
    """What the discriminator descends, a scalar; penalties come beside it.

    Of logits of 0 it is 2 ln 2 (non-saturating), 2 (hinge) or 0 (Wasserstein).

    Args:
        objective: see :data:`Objective`.
        real: logits ``[B]`` of real images.
        fake: logits ``[B]`` of generated ones.
    """
    if objective == "non_saturating":
        return F.softplus(-real).mean() + F.softplus(fake).mean()
    if objective == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    return fake.mean() - real.mean()


def generator_loss(objective: Objective, fake: Tensor) -> Tensor:
    """What the generator descends, a scalar.

    Args:
        objective: see :data:`Objective`.
        fake: logits ``[B]`` of generated images.
    """
    if objective == "non_saturating":
        return F.softplus(-fake).mean()
    return -fake.mean()


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
    """The penalty of WGAN-GP: how far the critic's slope is from 1 between real and fake images.

    ``(||grad critic(x)|| - 1) ** 2``, on average over points x that lie at random on the lines from
    a fake image to a real one (arXiv 1704.00028, equation 3).

    Args:
        critic: from images ``[B, C, H, W]`` to logits ``[B]``, each of its own image alone.
        real: images ``[B, C, H, W]``.
        fake: likewise.
    """
    share = torch.rand(len(real), 1, 1, 1, device=real.device, dtype=real.dtype)
    between = torch.lerp(fake.detach(), real, share).requires_grad_()
    slope = _squared_slopes(critic(between), between).sqrt()
    return (slope - 1).square().mean()


def r1_penalty(logits: Tensor, real: Tensor, gamma: float) -> Tensor:
    """The penalty R1: ``gamma / 2 * ||grad D(x)|| ** 2`` at real images (arXiv 1801.04406).

    Args:
        logits: ``[B]``, of ``real``.
        real: images ``[B, C, H, W]`` that need a gradient.
        gamma: its weight.
    """
    return gamma / 2 * _squared_slopes(logits, real).mean()


def _squared_slopes(logits: Tensor, images: Tensor) -> Tensor:
    """``||d logit / d image|| ** 2`` of each image, float32 ``[B]``, to be differentiated again."""
    (slopes,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return slopes.float().square().flatten(1).sum(1)
