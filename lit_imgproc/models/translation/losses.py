"""What a discriminator and a generator lose by the logits of patches, of any shape."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

GanMode = Literal["vanilla", "lsgan", "hinge"]
"""``vanilla``: binary cross-entropy, non-saturating for the generator (arXiv 1406.2661), as in
pix2pix. ``lsgan``: least squares to 1 for real and 0 for made (arXiv 1611.04076), as in CycleGAN.
``hinge``: arXiv 1705.02894."""


def discriminator_loss(mode: GanMode, real: Tensor, made: Tensor) -> Tensor:
    """Half of what is lost on real and on made images together.

    The half slows the discriminator down beside the generator (arXiv 1611.07004).

    Args:
        mode: the objective.
        real: logits of real images.
        made: logits of made ones.
    """
    real, made = real.float(), made.float()
    if mode == "vanilla":
        on_real, on_made = F.softplus(-real), F.softplus(made)
    elif mode == "lsgan":
        on_real, on_made = (real - 1).square(), made.square()
    else:
        on_real, on_made = F.relu(1 - real), F.relu(1 + made)
    return (on_real.mean() + on_made.mean()) / 2


def generator_loss(mode: GanMode, made: Tensor) -> Tensor:
    """What is lost where the discriminator does not take made images for real.

    Args:
        mode: the objective.
        made: logits of made images.
    """
    made = made.float()
    if mode == "vanilla":
        return F.softplus(-made).mean()
    if mode == "lsgan":
        return (made - 1).square().mean()
    return -made.mean()
