"""What StyleGAN2 adds to its losses every few steps (Karras et al., arXiv 1912.04958)."""

import dataclasses
import math

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lit_imgproc import optim


class PathLength(nn.Module):
    """Asks that a step in w of a given length changes the image as much, wherever it is.

    The length of a path is ``||J^T y||``, with the Jacobian J of the images by w and images y of
    N(0, 1) noise over the number of pixels' root; the penalty is the square of how far it is from
    its running mean.

    Args:
        decay: how far that mean goes towards that of a batch.
    """

    mean: Tensor

    def __init__(self, decay: float = 0.01) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, images: Tensor, styles: Tensor) -> Tensor:
        """The penalty, a scalar; the mean goes along.

        Args:
            images: ``[B, C, H, W]``, made of
            styles: ``[B, layers, F]``, which need a gradient.
        """
        noise = torch.randn_like(images) / math.sqrt(images.shape[2] * images.shape[3])
        lengths = path_lengths(images, styles, noise)
        batch = mean_over_ranks(lengths.detach().mean())
        self.mean.lerp_(batch.to(self.mean.dtype), self.decay)
        return (lengths - self.mean).square().mean()


def path_lengths(images: Tensor, styles: Tensor, noise: Tensor) -> Tensor:
    """How much images change with their styles in a direction of the images: ``[B]``.

    The root of the mean over the layers of ``||J^T y||^2``, to be differentiated again.

    Args:
        images: ``[B, C, H, W]``.
        styles: ``[B, layers, F]``.
        noise: y, like the images.
    """
    (slopes,) = torch.autograd.grad((images * noise).sum(), styles, create_graph=True)
    return slopes.float().square().sum(2).mean(1).sqrt()


def lazy(optimizer: optim.Optimizer, interval: int) -> optim.Optimizer:
    """An optimizer that, with a regulariser's step every ``interval`` steps, is as it was without.

    Such a player moves ``interval + 1`` times instead of ``interval`` times: the learning rate and
    the decays of the moments are corrected by ``c = interval / (interval + 1)``, to ``lr * c`` and
    ``beta ** c`` (arXiv 1912.04958, appendix B).
    """
    share = interval / (interval + 1)
    changes: dict[str, object] = {"lr": optimizer.lr * share}
    if isinstance(optimizer, optim.Adam | optim.AdamW):
        changes["betas"] = tuple(beta**share for beta in optimizer.betas)
    return dataclasses.replace(optimizer, **changes)  # type: ignore[arg-type]


def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean of a scalar over the ranks, without a gradient."""
    if not (dist.is_available() and dist.is_initialized()):
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
