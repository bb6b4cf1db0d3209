"""Adaptive discriminator augmentation (ADA; Karras et al., arXiv 2006.06676, appendix B)."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from lit_imgproc.errors import UserError
from lit_imgproc.models.gan.regularisers import mean_over_ranks
from lit_imgproc.models.gan.stylegan2_warping import blit, equalize, warp

AugmentationGroup = Literal["blit", "geometric", "colour", "filter", "noise", "cutout"]
"""``blit``: flips, turns by right angles and shifts by whole pixels. ``geometric``: scalings, turns
and shifts of any size. ``colour``: brightness, contrast, inverted luma, hue and saturation.
``filter``: bands of frequency amplified or damped. ``noise``: Gaussian. ``cutout``: a square of
half the side blanked. The paper's choice is the first three."""

LUMA = (1 / math.sqrt(3), 1 / math.sqrt(3), 1 / math.sqrt(3), 0.0)
"""The axis along which all channels are alike, of colours (r, g, b, 1)."""
SHIFT = 0.125
"""Shifts, in shares of the side: the most of whole pixels, the deviation of others."""
SCALE, CONTRAST, SATURATION, BAND = (0.2, 0.5, 1.0, 1.0)
"""Deviations of the binary logarithm of a factor."""
BRIGHTNESS, NOISE = 0.2, 0.1
CUTOUT = 0.5
"""The side of what is blanked, as a share of the image's."""
POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)
"""Of the four bands in natural images, the lowest first."""


class AdaptiveAugmentation(nn.Module):
    """Augments all that the discriminator sees, the more the more it overfits.

    Each transformation is drawn for each image with the same probability; below 0.8 or so, the
    generator does not learn to make augmented images. An image that none is drawn for stays
    exactly as it is. Gradients go through, to any order.

    Args:
        channels: of the images.
        groups: what may be done.
        target: the mean of the sign of the logits of real images to hold: 0 where the discriminator
            cannot tell them, 1 where it knows them all.
        images: real images in which the probability may go from 0 to 1.

    Raises:
        UserError: colours of images that are neither grey nor RGB.
    """

    probability: Tensor
    signs: Tensor

    def __init__(
        self,
        channels: int,
        groups: Sequence[AugmentationGroup] = ("blit", "geometric", "colour"),
        *,
        target: float = 0.6,
        images: int = 500_000,
    ) -> None:
        super().__init__()
        if "colour" in groups and channels not in (1, 3):
            raise UserError(
                f"colours are augmented of grey and RGB images, and these have {channels} "
                "channels: leave colour out of model.augmentation"
            )
        # What the paper does first comes first, however they are named.
        self.groups = [group for group in get_args(AugmentationGroup) if group in groups]
        self.target, self.images = target, images
        self.register_buffer("probability", torch.zeros(()))
        self.register_buffer("signs", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        """Augment images ``[B, C, S, S]`` in [-1, 1]."""
        with torch.autocast(images.device.type, enabled=False):
            x = images.float()
            for group in self.groups:
                x = getattr(self, f"_{group}")(x)
        return x

    # How much ------------------------------------------------------------------------------------

    def observe(self, logits: Tensor) -> Tensor:
        """Count the logits ``[B]`` of a batch of real images.

        Returns:
            The mean of their signs over all ranks, a scalar.
        """
        sign = mean_over_ranks(logits.detach().float().sign().mean())
        self.signs += sign
        return sign

    def adapt(self, batches: int, images: int) -> None:
        """Raise the probability, or lower it, by what was observed since the last time.

        Args:
            batches: so many batches.
            images: so many real images, over all ranks.
        """
        step = (self.signs / batches - self.target).sign() * images / self.images
        self.probability.add_(step).clamp_(0, 1)
        self.signs.zero_()

    def _drawn(self, images: Tensor, probability: Tensor | None = None) -> Tensor:
        """For which images a transformation is done: bool ``[B]``."""
        chance = self.probability if probability is None else probability
        return torch.rand(len(images), device=images.device) < chance

    def _factor(self, images: Tensor, deviation: float) -> Tensor:
        """A log-normal factor ``[B]``, 1 where it is not drawn."""
        factor = torch.exp2(torch.randn(len(images), device=images.device) * deviation)
        return factor.where(self._drawn(images), 1.0)

    # What ----------------------------------------------------------------------------------------

    def _blit(self, images: Tensor) -> Tensor:
        batch, side, device = len(images), images.shape[-1], images.device
        flips = torch.randint(2, (batch,), device=device).where(self._drawn(images), 0)
        turns = torch.randint(4, (batch,), device=device).where(self._drawn(images), 0)
        shifts = ((torch.rand(2, batch, device=device) * 2 - 1) * SHIFT * side).round()
        shifts = shifts.where(self._drawn(images), 0.0)
        angles = turns * (math.pi / 2)
        return blit(images, scaling(1 - 2 * flips, 1) @ rotation(angles).round() @ shift(*shifts))

    def _geometric(self, images: Tensor) -> Tensor:
        batch, side, device = len(images), images.shape[-1], images.device
        # Two turns, of which one at least is drawn with the probability of the others.
        chance = 1 - (1 - self.probability).sqrt()
        angles = [
            ((torch.rand(batch, device=device) * 2 - 1) * math.pi).where(
                self._drawn(images, chance), 0.0
            )
            for _ in range(2)
        ]
        scale, stretch = self._factor(images, SCALE), self._factor(images, SCALE)
        shifts = torch.randn(2, batch, device=device) * SHIFT * side
        shifts = shifts.where(self._drawn(images), 0.0)
        # Backwards through scaling, turn, stretching, turn and shift; as likely as their inverses.
        inverse = scaling(scale, scale) @ rotation(angles[0])
        inverse = inverse @ scaling(stretch, 1 / stretch) @ rotation(angles[1]) @ shift(*shifts)
        moved = (inverse != torch.eye(3, device=device)).flatten(1).any(1)
        return torch.where(moved[:, None, None, None], warp(images, inverse), images)

    def _colour(self, images: Tensor) -> Tensor:
        batch, device = len(images), images.device
        offset = torch.randn(batch, device=device) * BRIGHTNESS
        offset = offset.where(self._drawn(images), 0.0)
        matrix = contrast(self._factor(images, CONTRAST)) @ brightness(offset)
        flips = torch.randint(2, (batch,), device=device).where(self._drawn(images), 0)
        matrix = luma_flip(flips) @ matrix
        if images.shape[1] == 3:
            angles = (torch.rand(batch, device=device) * 2 - 1) * math.pi
            angles = angles.where(self._drawn(images), 0.0)
            matrix = saturation(self._factor(images, SATURATION)) @ hue(angles) @ matrix
        return recolour(images, matrix)

    def _filter(self, images: Tensor) -> Tensor:
        power = torch.tensor(POWER, device=images.device)
        gains = torch.ones(len(images), len(POWER), device=images.device)
        for band in range(len(POWER)):
            factor = torch.ones_like(gains)
            factor[:, band] = self._factor(images, BAND)
            gains = gains * factor / (power * factor.square()).sum(1, keepdim=True).sqrt()
        changed = (gains != 1).any(1)[:, None, None, None]
        return torch.where(changed, equalize(images, gains), images)

    def _noise(self, images: Tensor) -> Tensor:
        deviation = torch.randn(len(images), device=images.device).abs() * NOISE
        deviation = deviation.where(self._drawn(images), 0.0)
        return images + torch.randn_like(images) * deviation[:, None, None, None]

    def _cutout(self, images: Tensor) -> Tensor:
        side, device = images.shape[-1], images.device
        places = (torch.arange(side, device=device) + 0.5) / side
        centres = torch.rand(len(images), 2, 1, device=device)
        y, x = ((places - centres).abs() < CUTOUT / 2).unbind(1)
        blank = y[:, :, None] & x[:, None, :] & self._drawn(images)[:, None, None]
        return images.masked_fill(blank[:, None], 0.0)


def scaling(x: Tensor | int, y: Tensor | int) -> Tensor:
    """Maps ``[B, 3, 3]`` of places (x, y, 1) that scale both axes."""
    return _rows([[x, 0, 0], [0, y, 0], [0, 0, 1]])


def rotation(angles: Tensor) -> Tensor:
    """Maps ``[B, 3, 3]`` that turn by angles ``[B]`` in radians."""
    cos, sin = angles.cos(), angles.sin()
    return _rows([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def shift(x: Tensor, y: Tensor) -> Tensor:
    """Maps ``[B, 3, 3]`` that shift by pixels ``[B]``."""
    return _rows([[1, 0, x], [0, 1, y], [0, 0, 1]])


def recolour(images: Tensor, matrix: Tensor) -> Tensor:
    """Map the colours of images ``[B, 1 or 3, H, W]`` by maps ``[B, 4, 4]`` of (r, g, b, 1)."""
    linear, offset = matrix[:, :3, :3], matrix[:, :3, 3:]
    if images.shape[1] == 1:  # a grey image stays one
        linear, offset = linear.sum(2, keepdim=True).mean(1, keepdim=True), offset.mean(1, True)
    return (linear @ images.flatten(2) + offset).view_as(images)


def brightness(offset: Tensor) -> Tensor:
    """Maps ``[B, 4, 4]`` that add ``[B]`` to all channels."""
    return _rows([[1, 0, 0, offset], [0, 1, 0, offset], [0, 0, 1, offset], [0, 0, 0, 1]])


def contrast(factor: Tensor) -> Tensor:
    """Maps ``[B, 4, 4]`` that multiply all channels by ``[B]``."""
    return _rows([[factor, 0, 0, 0], [0, factor, 0, 0], [0, 0, factor, 0], [0, 0, 0, 1]])


def luma_flip(flips: Tensor) -> Tensor:
    """Maps ``[B, 4, 4]`` that turn the luma around, where ``flips`` ``[B]`` is 1."""
    luma, identity = _luma(flips)
    return identity - 2 * luma * flips[:, None, None]


def hue(angles: Tensor) -> Tensor:
    """Maps ``[B, 4, 4]`` that turn colours about the luma axis by ``[B]`` radians (Rodrigues)."""
    luma, identity = _luma(angles)
    x = LUMA[0]
    cross = torch.tensor(
        [[0, -x, x, 0], [x, 0, -x, 0], [-x, x, 0, 0], [0, 0, 0, 0]], device=angles.device
    )
    colour = identity.clone()
    colour[3, 3] = 0
    cos, sin = angles.cos()[:, None, None], angles.sin()[:, None, None]
    return identity - colour + luma + (colour - luma) * cos + cross * sin


def saturation(factor: Tensor) -> Tensor:
    """Maps ``[B, 4, 4]`` that scale the distance of colours from the luma axis by ``[B]``."""
    luma, identity = _luma(factor)
    chroma = identity - luma
    chroma[3, 3] = 0
    return identity + chroma * (factor[:, None, None] - 1)


def _luma(like: Tensor) -> tuple[Tensor, Tensor]:
    """The projection ``[4, 4]`` on the luma axis, and the identity."""
    axis = torch.tensor(LUMA, device=like.device)
    return torch.outer(axis, axis), torch.eye(4, device=like.device)


def _rows(rows: list[list[Tensor | int]]) -> Tensor:
    """Matrices ``[B, n, n]`` of entries ``[B]`` and numbers that are the same for all."""
    (one, *_) = (entry for row in rows for entry in row if isinstance(entry, Tensor))
    kind = torch.promote_types(one.dtype, torch.float32)
    full = [
        torch.as_tensor(entry, dtype=kind, device=one.device).expand(len(one))
        for row in rows
        for entry in row
    ]
    return torch.stack(full, -1).view(len(one), len(rows), len(rows))
