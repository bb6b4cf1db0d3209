"""The networks of style transfer: Johnson's, for one style, and AdaIN's decoder, for any.

The first is from images in [0, 255] to such images and the second from features of VGG to images
in [0, 1], as published weights have it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, NamedTuple, cast

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

EPS = 1e-5
"""Added to variances, here and by torch."""
CONTRAST = 64
"""How much larger than torch's the last weights of :func:`johnson` begin."""
FAINT = 0.05
"""How much smaller than the others' the last weights of :func:`adain_decoder` begin."""
_CFG: dict[str, Any] = {"classifier": ()}
"""No head: all weights of a file have to fit."""


class Statistics(NamedTuple):
    """Mean and standard deviation of each channel of features, ``[B, C, 1, 1]`` both."""

    mean: Tensor
    std: Tensor


def channel_statistics(features: Tensor) -> Statistics:
    """The statistics of each image and channel of features ``[B, C, h, w]``."""
    variance, mean = torch.var_mean(features, dim=(2, 3), correction=0, keepdim=True)
    return Statistics(mean, (variance + EPS).sqrt())


def adaptive_instance_norm(
    features: Tensor, style: Statistics, own: Statistics | None = None
) -> Tensor:
    """Give features ``[B, C, h, w]`` the statistics of a style (arXiv 1703.06868).

    Args:
        features: of the content.
        style: what each channel is to have.
        own: what each channel has, where the features are a part of a larger image; otherwise
            they are measured.
    """
    own = own or channel_statistics(features)
    return (features - own.mean) / own.std * style.std + style.mean


class InstanceNorm(nn.InstanceNorm2d):
    """Instance normalization (arXiv 1607.08022) whose statistics can be those of a larger image.

    Args:
        channels: C, each with a learned scale and shift.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=EPS, affine=True)
        self.measuring = False
        self.fixed: Statistics | None = None

    def forward(self, features: Tensor) -> Tensor:
        """Normalize ``[B, C, h, w]``."""
        if self.measuring:  # over all images together
            variance, mean = torch.var_mean(features, dim=(0, 2, 3), correction=0, keepdim=True)
            self.fixed = Statistics(mean, (variance + self.eps).sqrt())
        if self.fixed is None:
            return super().forward(features)
        scale = self.weight.view(1, -1, 1, 1) / self.fixed.std
        return (features - self.fixed.mean) * scale + self.bias.view(1, -1, 1, 1)


@contextmanager
def statistics_of(network: nn.Module, patches: Sequence[Tensor] | Tensor) -> Iterator[None]:
    """Within it, the instance norms of a network use the statistics of a set of patches.

    Args:
        network: in which the norms are :class:`InstanceNorm`.
        patches: ``[B, C, h, w]``, what is measured as if it were one image.
    """
    norms = [layer for layer in network.modules() if isinstance(layer, InstanceNorm)]
    try:
        for norm in norms:
            norm.measuring = True
        network(patches)
        for norm in norms:
            norm.measuring = False
        yield
    finally:
        for norm in norms:
            norm.measuring, norm.fixed = False, None


class Residual(nn.Module):
    """Two convolutions around which the input is led: ``[B, C, h, w]`` to the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.in1 = _conv(channels, channels, 3), InstanceNorm(channels)
        self.conv2, self.in2 = _conv(channels, channels, 3), InstanceNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """The input and what was made of it."""
        inner = F.relu(self.in1(self.conv1(x)))
        return cast(Tensor, x + self.in2(self.conv2(inner)))


class Johnson(nn.Module):
    """See :func:`johnson`."""

    pretrained_cfg: ClassVar[dict[str, Any]] = _CFG

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.in1 = _conv(3, width, 9), InstanceNorm(width)
        self.conv2, self.in2 = _conv(width, 2 * width, 3, stride=2), InstanceNorm(2 * width)
        self.conv3, self.in3 = _conv(2 * width, 4 * width, 3, stride=2), InstanceNorm(4 * width)
        for number in range(1, 6):
            self.add_module(f"res{number}", Residual(4 * width))
        self.deconv1, self.in4 = _conv(4 * width, 2 * width, 3), InstanceNorm(2 * width)
        self.deconv2, self.in5 = _conv(2 * width, width, 3), InstanceNorm(width)
        self.deconv3 = _conv(width, 3, 9)
        # From about 0 it would take Adam hundreds of steps to the brightness of an image.
        with torch.no_grad():
            self.deconv3.weight.mul_(CONTRAST)
            cast(Tensor, self.deconv3.bias).fill_(255 / 2)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[B, 3, H, W]`` in [0, 255] to such images, not clamped."""
        x = F.relu(self.in1(self.conv1(images)))
        x = F.relu(self.in2(self.conv2(x)))
        x = F.relu(self.in3(self.conv3(x)))
        for number in range(1, 6):
            x = self.get_submodule(f"res{number}")(x)
        x = F.relu(self.in4(self.deconv1(_twice(x))))
        x = F.relu(self.in5(self.deconv2(_twice(x))))
        x = self.deconv3(x)
        # Of sides that 4 does not divide, a little more has come back.
        return cast(Tensor, x[..., : images.shape[2], : images.shape[3]])


def johnson(width: Annotated[int, Ge(1)] = 32) -> nn.Module:
    """The feed-forward network of Johnson et al. (arXiv 1603.08155), with instance norms.

    As in pytorch/examples, fast_neural_style, whose weights fit: reflected borders, and nearest
    neighbours before a convolution in place of transposed convolutions, which leave a chequered
    pattern. 1,679,235 parameters.

    Args:
        width: channels of the first convolution; there are up to four times as many.
    """
    return Johnson(width)


class AdaINDecoder(nn.Sequential):
    """See :func:`adain_decoder`."""

    pretrained_cfg: ClassVar[dict[str, Any]] = _CFG


def adain_decoder(width: Annotated[int, Ge(1)] = 64) -> nn.Module:
    """The decoder of AdaIN (arXiv 1703.06868): VGG up to ``relu4_1``, mirrored.

    Reflected borders, nearest neighbours in place of pools, no norms. From features
    ``[B, 512, h, w]`` to images ``[B, 3, 8h, 8w]`` in [0, 1], not clamped. 3,505,219 parameters;
    weights of naoto0804/pytorch-AdaIN fit.

    Args:
        width: channels before the last convolution; there are up to four times as many.
    """
    w = width
    blocks = [
        [(512, 4 * w)],
        [(4 * w, 4 * w), (4 * w, 4 * w), (4 * w, 4 * w), (4 * w, 2 * w)],
        [(2 * w, 2 * w), (2 * w, w)],
        [(w, w), (w, 3)],
    ]
    layers: list[nn.Module] = []
    for block in blocks:
        for before, after in block:
            layers += [_conv(before, after, 3), nn.ReLU()]
        layers.append(nn.Upsample(scale_factor=2, mode="nearest"))
    layers = layers[:-2]  # an image is neither rectified nor made larger
    # Torch's own start fades from layer to layer, to a black image. This one keeps the size of
    # the features, which is some tens, and makes a faint picture of it on grey.
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(cast(Tensor, layer.bias))
    last = cast(nn.Conv2d, layers[-1])
    with torch.no_grad():
        last.weight.mul_(FAINT)
        cast(Tensor, last.bias).fill_(0.5)
    return AdaINDecoder(*layers)


def _conv(before: int, after: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, padding_mode="reflect")


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")
