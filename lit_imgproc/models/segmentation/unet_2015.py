"""The U-Net of 2015 (arXiv 1505.04597): convolutions without padding, and no norms."""

from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor, nn

from lit_imgproc.models.segmentation.networks import Count

RATE = 0.5
"""Of dropout; the paper gives none, and this is that of the network the authors released."""


class UNet2015(nn.Module):
    """The network of :func:`unet_2015`.

    Called with normalized images ``[B, C, H, W]``; gives the logits ``[B, K, H - 2m, W - 2m]`` of
    the pixels that are at least ``m = margin`` from the border, so that each is judged by all that
    surrounds it. H and W are ``remainder`` modulo ``divisor``, or a pooling would meet an odd
    side, and greater than twice the margin.

    Args:
        num_classes: K.
        in_channels: C.
        width: channels of the finest level.
        depth: levels.
    """

    def __init__(self, num_classes: int, in_channels: int, width: int, depth: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth)]
        before = [in_channels, *widths[:-1]]
        self.down = nn.ModuleList(map(_two_convolutions, before, widths))
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(RATE)
        ascending = widths[-2::-1]
        # Twice the size, with half the channels.
        self.enlarge = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(2 * w, w, 2, stride=2), nn.ReLU(inplace=True))
            for w in ascending
        )
        self.up = nn.ModuleList(_two_convolutions(2 * w, w) for w in ascending)
        self.head = nn.Conv2d(width, num_classes, 1)
        self.divisor = 2 ** (depth - 1)
        # Two convolutions lose two pixels a side, of their level: all levels but the coarsest are
        # passed twice, 2 (2 (1 + 2 + ... + 2^(depth - 2)) + 2^(depth - 1)).
        self.margin = 6 * self.divisor - 4
        # A level with s pixels hands (s - 4) / 2 to the next.
        self.remainder = -4 % self.divisor
        self.pretrained_cfg: dict[str, Any] = {
            "first_conv": "down.0.0",
            "classifier": ("head",),
            "attribution_layer": "up.0",
        }
        self.apply(_as_in_the_paper)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, see the class.

        Raises:
            ValueError: images of a size that the network does not take.
        """
        sides = images.shape[-2:]
        if any(s <= 2 * self.margin or s % self.divisor != self.remainder for s in sides):
            raise ValueError(
                f"Images of {sides[0]}x{sides[1]} pixels: this network takes sides greater than "
                f"{2 * self.margin} that are {self.remainder} modulo {self.divisor}."
            )
        maps, skips = images, []
        last = len(self.down) - 1
        for level, convolutions in enumerate(self.down):
            maps = convolutions(maps if level == 0 else self.pool(maps))
            if level >= last - 1:  # the end of the contracting path
                maps = self.dropout(maps)
            skips.append(maps)
        for enlarge, convolutions, skip in zip(self.enlarge, self.up, skips[-2::-1], strict=True):
            maps = enlarge(maps)
            maps = convolutions(torch.cat([_centre(skip, maps), maps], 1))
        logits: Tensor = self.head(maps)
        return logits


def unet_2015(
    num_classes: Count,
    in_channels: Count = 1,
    width: Count = 64,
    depth: Annotated[int, Ge(2)] = 5,
) -> UNet2015:
    """The U-Net of Ronneberger et al. (arXiv 1505.04597), 31,030,658 parameters for two classes.

    Its output is smaller than its input, 388 pixels of 572: the module mirrors images at their
    borders and looks at them in overlapping tiles. There is dropout at the two coarsest levels, and
    a ReLU after each up-convolution, as in the network that the authors released.

    Args:
        num_classes: K.
        in_channels: C.
        width: channels of the finest level; each coarser one has twice as many.
        depth: levels. The margin is 92 pixels for 5, 44 for 4 and 20 for 3.
    """
    return UNet2015(num_classes, in_channels, width, depth)


def _two_convolutions(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3),
        nn.ReLU(inplace=True),
        nn.Conv2d(after, after, 3),
        nn.ReLU(inplace=True),
    )


def _centre(skip: Tensor, like: Tensor) -> Tensor:
    """The middle of ``[B, C, h, w]``, of another tensor's height and width."""
    top, left = ((s - t) // 2 for s, t in zip(skip.shape[-2:], like.shape[-2:], strict=True))
    return skip[..., top : top + like.shape[-2], left : left + like.shape[-1]]


def _as_in_the_paper(module: nn.Module) -> None:
    """Draw weights with a deviation of sqrt(2 / N), N values coming into each neuron."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        incoming = module.in_channels
        if not isinstance(module, nn.ConvTranspose2d):  # whose windows do not overlap
            incoming *= module.kernel_size[0] * module.kernel_size[1]
        nn.init.normal_(module.weight, std=(2 / incoming) ** 0.5)
        assert module.bias is not None
        nn.init.zeros_(module.bias)
