"""How StyleGAN2 makes images: from latents to styles, from styles to images (arXiv 1912.04958)."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_imgproc.errors import UserError
from lit_imgproc.models.gan.stylegan2_layers import (
    EqualLinear,
    Fir,
    activate,
    modulated_conv,
    normalize_second_moment,
)

FIRST = 4
"""Resolution at which images begin."""
AVERAGE_DECAY = 0.995
"""Of the running mean of w."""
Noise = Literal["random", "constant", "none"] | Sequence[Tensor]
"""Fresh noise for every image; the maps that were drawn with the network; none; or maps, one for
each layer, ``[1 or B, 1, h, w]``."""


class MappingNetwork(nn.Module):
    """From latents z, or labels alone, to styles w.

    Args:
        latent_dim: of z; 0 maps labels alone.
        num_classes: of the labels; 0 for none.
        style_dim: of w.
        layers: fully connected layers, which learn a hundred times slower than others.
    """

    average: Tensor

    def __init__(self, latent_dim: int, num_classes: int, style_dim: int, layers: int) -> None:
        super().__init__()
        self.latent_dim, self.num_classes = latent_dim, num_classes
        self.embed = EqualLinear(num_classes, style_dim) if num_classes else None
        widths = [latent_dim + (style_dim if num_classes else 0), *[style_dim] * layers]
        self.layers = nn.Sequential(
            *(EqualLinear(i, o, lr_multiplier=0.01, activation=True) for i, o in pairwise(widths))
        )
        if latent_dim:
            self.register_buffer("average", torch.zeros(style_dim))

    def forward(self, latents: Tensor | None, labels: Tensor | None) -> Tensor:
        """Give w ``[B, style_dim]`` of latents ``[B, latent_dim]`` and labels int64 ``[B]``.

        In training, the running mean of w goes along.
        """
        parts = [] if latents is None else [normalize_second_moment(latents)]
        if self.embed is not None:
            if labels is None:
                raise UserError("a class-conditional network needs the label of each image")
            hot = F.one_hot(labels, self.num_classes).to(self.embed.weight.dtype)
            parts.append(normalize_second_moment(self.embed(hot)))
        w: Tensor = self.layers(torch.cat(parts, 1))
        if self.training and self.latent_dim:
            self.average.lerp_(w.detach().mean(0).to(self.average.dtype), 1 - AVERAGE_DECAY)
        return w


class StyledConv(nn.Module):
    """A modulated 3x3 convolution, noise, a bias and an activation.

    Args:
        in_channels: of what comes in.
        out_channels: of what goes out.
        resolution: of what goes out, in pixels.
        style_dim: of w.
        up: whether it doubles the resolution.
    """

    noise: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, resolution: int, style_dim: int, *, up: bool
    ) -> None:
        super().__init__()
        self.affine = EqualLinear(style_dim, in_channels, bias=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise", torch.randn(resolution, resolution))
        self.fir = Fir() if up else None

    def forward(self, x: Tensor, w: Tensor, noise: Literal["random"] | Tensor | None) -> Tensor:
        """``[B, in, h, w]`` to ``[B, out, resolution, resolution]``."""
        y = modulated_conv(x, self.weight, self.affine(w), fir=self.fir)
        if isinstance(noise, str):
            noise = torch.randn(len(y), 1, *y.shape[2:], device=y.device, dtype=y.dtype)
        if noise is not None:
            y = y + noise * self.noise_strength
        return activate(y + self.bias[:, None, None])


class ToImage(nn.Module):
    """A modulated 1x1 convolution to the channels of an image, without demodulation."""

    def __init__(self, in_channels: int, out_channels: int, style_dim: int) -> None:
        super().__init__()
        self.affine = EqualLinear(style_dim, in_channels, bias=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.gain = 1 / math.sqrt(in_channels)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """``[B, in, h, w]`` to ``[B, out, h, w]``."""
        y = modulated_conv(x, self.weight, self.affine(w) * self.gain, demodulate=False)
        return y + self.bias[:, None, None]


class SynthesisBlock(nn.Module):
    """All that happens at one resolution."""

    def __init__(
        self, in_channels: int, out_channels: int, resolution: int, channels: int, style_dim: int
    ) -> None:
        super().__init__()
        shape = (out_channels, resolution, style_dim)
        self.conv0 = StyledConv(in_channels, *shape, up=True) if in_channels else None
        self.conv1 = StyledConv(out_channels, *shape, up=False)
        self.to_image = ToImage(out_channels, channels, style_dim)
        self.fir = Fir()

    def convs(self) -> list[StyledConv]:
        """In the order in which they come."""
        return [self.conv1] if self.conv0 is None else [self.conv0, self.conv1]


class SynthesisNetwork(nn.Module):
    """From styles w to images, by a skip architecture: every resolution adds to the image.

    Args:
        image_size: side of the images, a power of two.
        channels: of the images.
        style_dim: of w.
        widths: channels of each resolution, from 4 pixels on.
    """

    def __init__(
        self, image_size: int, channels: int, style_dim: int, widths: Mapping[int, int]
    ) -> None:
        super().__init__()
        self.constant = nn.Parameter(torch.randn(widths[FIRST], FIRST, FIRST))
        self.blocks = nn.ModuleDict()
        for side, width in widths.items():
            before = widths[side // 2] if side > FIRST else 0
            self.blocks[str(side)] = SynthesisBlock(before, width, side, channels, style_dim)
        self.num_styles = 2 * int(math.log2(image_size)) - 2

    def noise_maps(self) -> list[Tensor]:
        """The maps that were drawn with the network, one a layer, ``[1, 1, h, w]``."""
        blocks = cast(list[SynthesisBlock], list(self.blocks.values()))
        return [conv.noise[None, None] for block in blocks for conv in block.convs()]

    def forward(self, styles: Tensor, noise: Noise = "random") -> Tensor:
        """Images ``[B, C, H, W]``, about [-1, 1], of styles ``[B, num_styles, style_dim]``.

        Each layer has a style of its own; the image at one resolution shares that of the first
        layer of the next.
        """
        given: Sequence[Literal["random"] | Tensor | None]
        if isinstance(noise, str):
            given = self.noise_maps() if noise == "constant" else []
        else:
            given = noise
        rest: Literal["random"] | None = "random" if noise == "random" else None
        x = self.constant.expand(len(styles), -1, -1, -1)
        image: Tensor | None = None
        layer = 0
        for block in cast(list[SynthesisBlock], list(self.blocks.values())):
            for conv in block.convs():
                x = conv(x, styles[:, layer], given[layer] if len(given) else rest)
                layer += 1
            shown = block.to_image(x, styles[:, layer])
            image = shown if image is None else block.fir.upsample(image) + shown
        assert image is not None
        return image
