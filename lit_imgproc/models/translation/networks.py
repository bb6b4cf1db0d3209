"""Generators and discriminators of pix2pix and CycleGAN.

Generators take images ``[B, C, H, W]`` in [-1, 1] to images ``[B, K, H, W]`` in [-1, 1];
discriminators take them to one logit a patch, ``[B, 1, h, w]``. The architectures are those of
https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix, whose weights load by
:mod:`lit_imgproc.models.translation.weights`.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from annotated_types import Ge, Len
from torch import Tensor, nn

from lit_imgproc.errors import UserError
from lit_imgproc.optim import Decay

Count = Annotated[int, Ge(1)]
Size = Annotated[list[Count], Len(2, 2)]
NormName = Literal["batch", "instance", "instance_affine"]
"""``batch``: batch norm. ``instance``: each image by its own statistics, without weights, as in
CycleGAN. ``instance_affine``: the same with weights, which is what batch norm is in batches of
one image if its statistics are those of the image at test time, too, as in pix2pix."""
SLOPE = 0.2
"""Of the leaky ReLUs."""
NOISY_LEVELS = 3
"""Levels of the U-Net's decoder with dropout, counted from the innermost."""
_CFG: dict[str, Any] = {"classifier": ()}
"""No head: all weights of a file have to fit."""


class KeptDropout(nn.Module):
    """Dropout that may stay on outside of training, where it is the noise that pix2pix draws from.

    Outside of training all images meet one mask, drawn from a seed: the answer to an image
    repeats, and depends on no other image of its batch. What is exported is without noise.

    Args:
        rate: the share of values that are dropped.
        seed: of the mask outside of training; None drops nothing there.
    """

    def __init__(self, rate: float, seed: int | None) -> None:
        super().__init__()
        self.rate = rate
        self.seed = seed

    def forward(self, maps: Tensor) -> Tensor:
        """Drop values of ``[B, C, H, W]`` and scale the others up."""
        exporting = torch.compiler.is_exporting()  # a program has no generator of its own
        if self.training or self.seed is None or exporting:
            return F.dropout(maps, self.rate, self.training)
        # Drawn on the CPU: all devices see the same noise.
        random = torch.Generator().manual_seed(self.seed)
        kept = torch.rand(maps.shape[1:], generator=random) >= self.rate
        return maps * (kept.to(maps.device, maps.dtype) / (1 - self.rate))


class UNetGenerator(nn.Module):
    """The network of :func:`unet_generator`.

    Images of sides that are no multiples of ``divisor`` are taken, too: their last row and column
    are repeated, and what is made of that is cut off.

    Args:
        in_channels: C.
        out_channels: K.
        widths: channels of each level, fine to coarse.
        norm: see :data:`NormName`.
        dropout: in the innermost levels of the decoder.
        noise_seed: of the dropout outside of training.
    """

    pretrained_cfg: ClassVar[dict[str, Any]] = _CFG

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        widths: Sequence[int],
        norm: NormName,
        dropout: float,
        noise_seed: int | None,
    ) -> None:
        super().__init__()
        last = len(widths) - 1
        bias = norm == "instance"
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths):
            outer = widths[level - 1] if level else in_channels
            down: list[nn.Module] = [nn.Conv2d(outer, width, 4, 2, 1, bias=bias)]
            if 0 < level < last:  # a norm of the innermost, a single pixel, would leave nothing
                down.append(_norm(norm, width))
            self.down.append(nn.Sequential(*down))
            wide = width if level == last else 2 * width
            if level == 0:
                up: list[nn.Module] = [nn.ConvTranspose2d(wide, out_channels, 4, 2, 1), nn.Tanh()]
            else:
                up = [nn.ConvTranspose2d(wide, outer, 4, 2, 1, bias=bias), _norm(norm, outer)]
                if dropout and level > last - NOISY_LEVELS:
                    seed = None if noise_seed is None else noise_seed * len(widths) + level
                    up.append(KeptDropout(dropout, seed))
            self.up.append(nn.Sequential(*up))
        self.divisor = 2 ** len(widths)
        self.apply(initialise)

    def forward(self, images: Tensor) -> Tensor:
        """Translate ``[B, C, H, W]``, see the class."""
        height, width = images.shape[2:]
        maps = F.pad(images, (0, -width % self.divisor, 0, -height % self.divisor), "replicate")
        skips = []
        for level, down in enumerate(self.down):
            maps = down(F.leaky_relu(maps, SLOPE) if level else maps)
            skips.append(maps)
        for level in reversed(range(len(self.up))):
            if level < len(skips) - 1:
                maps = torch.cat([skips[level], maps], 1)
            maps = self.up[level](F.relu(maps))
        return maps[..., :height, :width]


def unet_generator(
    image_size: Size,
    in_channels: Count = 3,
    out_channels: Count = 3,
    width: Count = 64,
    norm: NormName = "batch",
    dropout: Decay = 0.5,
    noise_seed: int | None = 0,
) -> UNetGenerator:
    """The U-Net of pix2pix (arXiv 1611.07004).

    It has as many levels as the smaller side can be halved: 54,413,955 parameters for 256 pixels
    and 41,828,995 for 128, at the width of the paper.

    Args:
        image_size: height and width that it is made for.
        in_channels: C.
        out_channels: K.
        width: channels of the finest level; each coarser one has twice as many, up to eight times.
        norm: see :data:`NormName`; convolutions before one without weights have a bias.
        dropout: rate in the three innermost levels of the decoder, after the paper. The authors'
            later code has none in the innermost, which loads all the same.
        noise_seed: the dropout stays on outside of training, as the noise that the paper draws
            from, with this seed: another one gives another sample. None turns it off there.

    Raises:
        UserError: a side is less than eight pixels.
    """
    depth = min(image_size).bit_length() - 1
    if depth < 3:
        raise UserError(
            f"image_size {image_size}: unet_generator halves an image to a single pixel, three "
            "times at least, so both sides have to be 8 pixels or more"
        )
    widths = [width * min(2**level, 8) for level in range(depth)]
    return UNetGenerator(in_channels, out_channels, widths, norm, dropout, noise_seed)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, reflected at the edges, that are added to what came in."""

    def __init__(self, width: int, norm: NormName) -> None:
        super().__init__()
        bias = norm == "instance"
        self.layers = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3, bias=bias),
            _norm(norm, width),
            nn.ReLU(inplace=True),
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3, bias=bias),
            _norm(norm, width),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Take ``[B, C, H, W]`` to the same."""
        return maps + cast(Tensor, self.layers(maps))


class ResNetGenerator(nn.Module):
    """The network of :func:`resnet_generator`.

    Images of sides that are no multiples of four are taken, too: their last row and column are
    repeated, and what is made of that is cut off.

    Args:
        in_channels: C.
        out_channels: K.
        width: channels of the first convolution.
        blocks: residual ones.
        norm: see :data:`NormName`.
    """

    divisor = 4
    pretrained_cfg: ClassVar[dict[str, Any]] = _CFG

    def __init__(
        self, in_channels: int, out_channels: int, width: int, blocks: int, norm: NormName
    ) -> None:
        super().__init__()
        bias = norm == "instance"
        self.layers = nn.Sequential(nn.ReflectionPad2d(3))
        self.layers.append(nn.Conv2d(in_channels, width, 7, bias=bias))
        self.layers.extend([_norm(norm, width), nn.ReLU(inplace=True)])
        for w in (width, 2 * width):
            self.layers.append(nn.Conv2d(w, 2 * w, 3, 2, 1, bias=bias))
            self.layers.extend([_norm(norm, 2 * w), nn.ReLU(inplace=True)])
        self.layers.extend([ResidualBlock(4 * width, norm) for _ in range(blocks)])
        for w in (2 * width, width):
            self.layers.append(nn.ConvTranspose2d(2 * w, w, 3, 2, 1, output_padding=1, bias=bias))
            self.layers.extend([_norm(norm, w), nn.ReLU(inplace=True)])
        self.layers.extend([nn.ReflectionPad2d(3), nn.Conv2d(width, out_channels, 7), nn.Tanh()])
        self.apply(initialise)

    def forward(self, images: Tensor) -> Tensor:
        """Translate ``[B, C, H, W]``, see the class."""
        height, width = images.shape[2:]
        maps = F.pad(images, (0, -width % self.divisor, 0, -height % self.divisor), "replicate")
        made: Tensor = self.layers(maps)
        return made[..., :height, :width]


def resnet_generator(
    in_channels: Count = 3,
    out_channels: Count = 3,
    width: Count = 64,
    blocks: Annotated[int, Ge(0)] = 9,
    norm: NormName = "instance",
) -> ResNetGenerator:
    """The generator of CycleGAN (arXiv 1703.10593), after Johnson et al. (arXiv 1603.08155).

    11,378,179 parameters with nine blocks, which the paper takes for images of 256 pixels, and
    7,837,699 with six, for 128.

    Args:
        in_channels: C.
        out_channels: K.
        width: channels at full size; at a quarter of it, where the blocks are, four times as many.
        blocks: residual ones.
        norm: see :data:`NormName`.
    """
    return ResNetGenerator(in_channels, out_channels, width, blocks, norm)


class PatchDiscriminator(nn.Module):
    """The network of :func:`patch_discriminator`.

    Args:
        in_channels: C.
        width: channels of the first convolution.
        layers: strided ones; 0 looks at single pixels.
        norm: see :data:`NormName`.
    """

    pretrained_cfg: ClassVar[dict[str, Any]] = _CFG

    def __init__(self, in_channels: int, width: int, layers: int, norm: NormName) -> None:
        super().__init__()
        bias = norm == "instance"
        self.layers = nn.Sequential()

        def convolve(before: int, after: int, stride: int, *, bias: bool) -> None:
            kernel, pad = (4, 1) if layers else (1, 0)
            self.layers.append(nn.Conv2d(before, after, kernel, stride, pad, bias=bias))

        widths = [width * min(2**level, 8) for level in range(max(1, layers) + 1)]
        convolve(in_channels, width, 2 if layers else 1, bias=True)
        self.layers.append(nn.LeakyReLU(SLOPE, inplace=True))
        for level, (before, after) in enumerate(pairwise(widths), start=1):
            convolve(before, after, 2 if level < layers else 1, bias=bias)
            self.layers.extend([_norm(norm, after), nn.LeakyReLU(SLOPE, inplace=True)])
        convolve(widths[-1], 1, 1, bias=bool(layers) or bias)
        self.apply(initialise)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, 1, h, w]``, above 0 for what looks real, of images ``[B, C, H, W]``."""
        return cast(Tensor, self.layers(images))


def patch_discriminator(
    in_channels: Count = 3,
    out_channels: Count = 3,
    conditional: bool = True,
    width: Count = 64,
    layers: Annotated[int, Ge(0)] = 3,
    norm: NormName = "batch",
) -> PatchDiscriminator:
    """PatchGAN: says of each patch of an image whether it is real (arXiv 1611.07004).

    With three layers a logit sees 70x70 pixels, and 256x256 pixels have 30x30 logits. 2,768,705
    parameters for pairs of colour images and batch norm; 2,764,737 for colour images alone and
    instance norm.

    Args:
        in_channels: of the images that are translated.
        out_channels: of what they are translated to.
        conditional: judge the two together, as pix2pix does; or what was made alone, as CycleGAN
            does.
        width: channels of the first convolution.
        layers: strided ones: 0 sees a pixel, 1 sees 16, 2 sees 34 and 5 sees 286.
        norm: see :data:`NormName`.
    """
    channels = out_channels + (in_channels if conditional else 0)
    return PatchDiscriminator(channels, width, layers, norm)


def _norm(name: NormName, channels: int) -> nn.Module:
    if name == "batch":
        return nn.BatchNorm2d(channels)
    return nn.InstanceNorm2d(channels, affine=name == "instance_affine")


def initialise(layer: nn.Module) -> None:
    """Draw weights with a deviation of 0.02, of norms around 1, as in DCGAN (arXiv 1511.06434)."""
    weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
    if isinstance(weight, nn.Parameter):
        nn.init.normal_(weight, float(weight.ndim == 1), 0.02)
    if isinstance(bias, nn.Parameter):
        nn.init.zeros_(bias)
