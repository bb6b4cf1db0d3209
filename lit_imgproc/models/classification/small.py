"""Networks for small images that no library has: the CIFAR ResNets and a fast CNN."""

from typing import Any, ClassVar, cast

import torch.nn.functional as F
from torch import Tensor, nn


class CifarBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters (option A of the paper)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.added = channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        """Take ``[B, C, H, W]`` to ``[B, channels, H / stride, W / stride]``."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.added:
            half = self.added // 2  # Every second pixel, and zeros for the channels that are new.
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, half))
        return F.relu(y + x)


class CifarResNet(nn.Module):
    """The ResNet for 32x32 images of section 4.2 of https://arxiv.org/abs/1512.03385.

    Args:
        depth: 6 n + 2, for n blocks in each of three stages of 16, 32 and 64 channels.
        num_classes: K.
        in_channels: of the images.
    """

    pretrained_cfg: ClassVar[dict[str, Any]] = {
        "first_conv": "conv1",
        "classifier": "linear",
        "attribution_layer": "layer3",
    }

    def __init__(self, depth: int, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        n = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(CifarBlock(16, 16, 1) for _ in range(n)))
        self.layer2 = nn.Sequential(
            *(CifarBlock(32 if i else 16, 32, 1 if i else 2) for i in range(n))
        )
        self.layer3 = nn.Sequential(
            *(CifarBlock(64 if i else 32, 64, 1 if i else 2) for i in range(n))
        )
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Take images ``[B, C, H, W]`` to logits ``[B, K]``."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return cast(Tensor, self.linear(x.mean((2, 3))))


class ConvNet(nn.Module):
    """Three convolutions with batch norm, small enough to learn Fashion-MNIST on a CPU.

    Pooling comes before the norm, which so has a quarter of the work, and most of the arithmetic
    is done at half and at a quarter of the image's side.

    Args:
        num_classes: K.
        in_channels: C; images of 12 pixels or more.
        drop_rate: dropout before the classifier.
    """

    pretrained_cfg: ClassVar[dict[str, Any]] = {
        "first_conv": "conv1",
        "classifier": "linear",
        "attribution_layer": "relu3",
    }

    def __init__(self, num_classes: int, in_channels: int = 3, drop_rate: float = 0.2) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(32)
        self.conv3 = nn.Conv2d(32, 96, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(96)
        self.relu3 = nn.ReLU()
        self.drop = nn.Dropout(drop_rate)
        self.linear = nn.Linear(96 * 9, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Take images ``[B, C, H, W]`` to logits ``[B, K]``."""
        x = F.relu(self.bn1(F.max_pool2d(self.conv1(x), 2)))
        x = F.relu(self.bn2(F.max_pool2d(self.conv2(x), 2)))
        x = self.relu3(self.bn3(self.conv3(x)))
        return cast(Tensor, self.linear(self.drop(F.adaptive_max_pool2d(x, 3).flatten(1))))
