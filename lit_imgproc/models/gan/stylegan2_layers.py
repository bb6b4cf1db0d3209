"""Layers of StyleGAN2 (Karras et al., arXiv 1912.04958), written from the paper.

Every weight is drawn from N(0, 1) and scaled when it is used, by 1/sqrt(fan in): the equalised
learning rate of arXiv 1710.10196, with which one step of Adam means the same to all layers.
Activations are leaky ReLUs of slope 0.2 times sqrt(2), which keeps the second moment of what goes
through them.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

SLOPE = 0.2
TAPS = (1.0, 3.0, 3.0, 1.0)
"""Of the low-pass filter of every change of resolution."""
EPSILON = 1e-8


def activate(x: Tensor) -> Tensor:
    """Leaky ReLU times sqrt(2)."""
    return F.leaky_relu(x, SLOPE) * math.sqrt(2)


def normalize_second_moment(x: Tensor) -> Tensor:
    """Scale vectors ``[B, F]`` to a mean square of 1."""
    return x * (x.square().mean(1, keepdim=True) + EPSILON).rsqrt()


class EqualLinear(nn.Module):
    """A fully connected layer with an equalised learning rate.

    Args:
        in_features: of the vectors ``[B, F]`` that come in.
        out_features: of those that go out.
        bias: where the bias starts.
        lr_multiplier: how much slower than others it learns.
        activation: whether :func:`activate` follows.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: float = 0.0,
        lr_multiplier: float = 1.0,
        activation: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), bias))
        self.gain = lr_multiplier / math.sqrt(in_features)
        self.lr_multiplier = lr_multiplier
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """``[B, in]`` to ``[B, out]``."""
        y = F.linear(x, self.weight * self.gain, self.bias * self.lr_multiplier)
        return activate(y) if self.activation else y


class Fir(nn.Module):
    """The separable low-pass filter :data:`TAPS`, with a sum of 1."""

    taps: Tensor

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor(TAPS)
        kernel = torch.outer(taps, taps) / taps.sum().square()
        self.register_buffer("taps", kernel, persistent=False)

    def forward(self, x: Tensor, *, padding: int) -> Tensor:
        """Filter ``[B, C, H, W]``, with so many zeros put at each edge."""
        filtered: Tensor = _Filter.apply(x, self.taps, padding)
        return filtered

    def upsample(self, x: Tensor) -> Tensor:
        """Double the resolution of ``[B, C, H, W]``; a constant stays one, but for its edges."""
        channels = x.shape[1]
        kernel = self.taps.mul(4).to(x.dtype).expand(channels, 1, -1, -1)
        return F.conv_transpose2d(x, kernel, stride=2, padding=1, groups=channels)


class _Filter(Function):
    """A symmetric filter of each channel, which is its own derivative.

    PyTorch takes a second derivative of a convolution of single channels one by one, which makes
    the regularisers, and R1 above all, several times slower.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, padding: int) -> Tensor:
        ctx.save_for_backward(kernel)
        ctx.padding = padding
        kernel = kernel.to(x.dtype).expand(x.shape[1], 1, -1, -1)
        return F.conv2d(x, kernel, padding=padding, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (kernel,) = ctx.saved_tensors
        return _Filter.apply(gradients[0], kernel, len(kernel) - 1 - ctx.padding), None, None


class EqualConv(nn.Module):
    """A convolution with an equalised learning rate, which may halve the resolution.

    Args:
        in_channels: of the images ``[B, C, H, W]``.
        out_channels: likewise.
        kernel_size: its side, 1 or 3.
        down: whether it filters with :class:`Fir` and takes every second pixel.
        bias: whether it has one.
        activation: whether :func:`activate` follows.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        down: bool = False,
        bias: bool = True,
        activation: bool = True,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.fir = Fir() if down else None
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """``[B, in, H, W]`` to ``[B, out, H, W]``, or half of it."""
        weight, padding = self.weight * self.gain, self.weight.shape[2] // 2
        if self.fir is None:
            y = F.conv2d(x, weight, self.bias, padding=padding)
        elif padding == 0:
            y = F.conv2d(self.fir(x, padding=1)[:, :, ::2, ::2], weight, self.bias)
        else:
            y = F.conv2d(self.fir(x, padding=2), weight, self.bias, stride=2)
        return activate(y) if self.activation else y


def modulated_conv(
    x: Tensor, weight: Tensor, styles: Tensor, *, demodulate: bool = True, fir: Fir | None = None
) -> Tensor:
    """Convolve each image with weights of its own: scaled by its style, then to unit length.

    Scaling the weights' input channels is scaling the images' channels, and scaling their output
    channels is scaling what comes out; so one convolution serves the batch, which is faster than a
    group for each image and takes no copy of the weights an image.

    Args:
        x: images ``[B, C, H, W]``.
        weight: ``[O, C, k, k]``.
        styles: ``[B, C]``.
        demodulate: whether the weights of each output channel get unit L2 norm.
        fir: doubles the resolution with it.

    Returns:
        ``[B, O, H, W]``, or twice the size.
    """
    x = x * styles[:, :, None, None]
    if fir is None:
        y = F.conv2d(x, weight, padding=weight.shape[2] // 2)
    else:
        y = 4 * fir(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), padding=1)
    if demodulate:
        y = y * demodulation(weight, styles)[:, :, None, None]
    return y


def demodulation(weight: Tensor, styles: Tensor) -> Tensor:
    """Factors ``[B, O]`` that give modulated weights ``[O, C, k, k]`` unit L2 norm."""
    return (styles.square() @ weight.square().sum((2, 3)).t() + EPSILON).rsqrt()


class MinibatchStd(nn.Module):
    """Adds a channel that says how much the images of a group differ (arXiv 1710.10196).

    Args:
        group_size: images in a group; where the batch does not divide into such groups, the nearest
            number that it does divide by.
    """

    def __init__(self, group_size: int = 4) -> None:
        super().__init__()
        self.group_size = group_size

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to ``[B, C + 1, H, W]``."""
        batch, channels, height, width = x.shape
        sizes = [size for size in range(2, batch + 1) if batch % size == 0]
        group = min(sizes, key=lambda size: abs(size - self.group_size), default=1)
        groups = x.view(group, batch // group, channels, height, width)
        std = (groups.var(0, unbiased=False) + EPSILON).sqrt().mean((1, 2, 3))
        return torch.cat([x, std.repeat(group).view(-1, 1, 1, 1).expand(-1, 1, height, width)], 1)
