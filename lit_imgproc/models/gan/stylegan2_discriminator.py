"""How StyleGAN2 tells real images from its own (arXiv 1912.04958)."""

import math
from collections.abc import Mapping
from typing import cast

from torch import Tensor, nn

from lit_imgproc.models.gan.stylegan2_layers import EqualConv, EqualLinear, MinibatchStd
from lit_imgproc.models.gan.stylegan2_published import from_nvidia
from lit_imgproc.models.gan.stylegan2_synthesis import MappingNetwork

LAST = 4
"""Resolution at which blocks end."""


class DiscriminatorBlock(nn.Module):
    """Two convolutions that halve the resolution, beside a 1x1 one in residual networks."""

    def __init__(self, in_channels: int, out_channels: int, *, residual: bool) -> None:
        super().__init__()
        self.conv0 = EqualConv(in_channels, in_channels, 3)
        self.conv1 = EqualConv(in_channels, out_channels, 3, down=True)
        options = {"down": True, "bias": False, "activation": False}
        self.skip = EqualConv(in_channels, out_channels, 1, **options) if residual else None

    def forward(self, x: Tensor) -> Tensor:
        """``[B, in, H, W]`` to ``[B, out, H / 2, W / 2]``."""
        y: Tensor = self.conv1(self.conv0(x))
        return y if self.skip is None else (y + self.skip(x)) / math.sqrt(2)


class StyleGAN2Discriminator(nn.Module):
    """Says of images whether they are real; see :func:`stylegan2_discriminator`.

    Attributes:
        num_classes: None where it takes no labels.
    """

    def __init__(
        self,
        channels: int,
        widths: Mapping[int, int],
        *,
        num_classes: int,
        mapping_layers: int,
        group_size: int,
        residual: bool,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes or None
        sides = sorted(widths, reverse=True)
        width = widths[LAST]
        self.from_image = EqualConv(channels, widths[sides[0]], 1)
        self.blocks = nn.ModuleDict(
            {
                str(side): DiscriminatorBlock(widths[side], widths[side // 2], residual=residual)
                for side in sides[:-1]
            }
        )
        self.minibatch_std = MinibatchStd(group_size)
        self.conv = EqualConv(width + 1, width, 3)
        self.linear = EqualLinear(width * LAST**2, width, activation=True)
        self.out = EqualLinear(width, width if num_classes else 1)
        self.mapping = (
            MappingNetwork(0, num_classes, width, mapping_layers) if num_classes else None
        )

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits ``[B]`` of images ``[B, C, H, W]`` in [-1, 1] and labels int64 ``[B]``.

        With classes, it is a projection on what the labels are mapped to (arXiv 1802.05637).
        """
        x = self.from_image(images)
        for block in self.blocks.values():
            x = block(x)
        x = self.conv(self.minibatch_std(x))
        x = self.out(self.linear(x.flatten(1)))
        if self.mapping is None:
            return cast(Tensor, x.squeeze(1))
        w = self.mapping(None, labels)
        return cast(Tensor, (x * w).sum(1) / math.sqrt(w.shape[1]))

    def from_published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give the weights of NVIDIA's network their names here; see :func:`from_nvidia`."""
        return from_nvidia(state)
