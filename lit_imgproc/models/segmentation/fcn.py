"""Fully convolutional networks on VGG-16 (arXiv 1411.4038 and 1605.06211).

The reference implementation (github.com/shelhamer/fcn.berkeleyvision.org) pads images by 100
pixels and crops the scores, so that images of any size can be aligned. Here the layer ``fc6`` is
padded instead, by 3 cells, and each deconvolution by a quarter of its kernel. Scores then stand
over the middle of their cells as they do there, the layers and their weights are the same, and an
image of 96 pixels is not computed as one of 296. Sides have to be multiples of 32, which the module
sees to.
"""

from typing import Any, Literal, cast

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from lit_imgproc.models.backbones import State, replace_first_conv
from lit_imgproc.models.segmentation.networks import Count

POOL3, POOL4 = 17, 24
"""So many of VGG-16's layers end in its third and fourth pooling."""
HEADS = (
    *("score_fr", "score_pool4", "score_pool3"),
    *("upscore", "upscore2", "upscore16", "upscore_pool4", "upscore8"),
)
"""Layers with an output for each class; each network has some, and goes on from another's."""


class FCN(nn.Module):
    """FCN-32s, -16s or -8s on VGG-16.

    Called with normalized images ``[B, C, H, W]``, sides multiples of 32; gives logits
    ``[B, K, H, W]``. Layers are named as torchvision's (``features``) and as the reference
    implementation's (the others). Those that score begin at zero.

    Args:
        num_classes: K.
        in_channels: C.
        stride: of the finest scores.
        fc_channels: of ``fc6`` and ``fc7``.
        learned_upsampling: whether deconvolutions but the last are learned.
        scales: by which the fourth and the third pooling are multiplied before they are scored.
    """

    margin = 0
    divisor = 32
    remainder = 0

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        stride: Literal[8, 16, 32],
        fc_channels: int,
        learned_upsampling: bool,
        scales: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        super().__init__()
        self.stride, self.scales = stride, scales
        self.features: nn.Sequential = make_layers(cfgs["D"])
        replace_first_conv(self, "features.0", in_channels)
        self.fc6 = nn.Conv2d(512, fc_channels, 7, padding=3)
        self.fc7 = nn.Conv2d(fc_channels, fc_channels, 1)
        self.dropout = nn.Dropout(0.5)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):  # as torchvision's VGG begins
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        self.score_fr = _score(fc_channels, num_classes)
        if stride < 32:
            self.upscore2 = _upsampling(num_classes, 2, learned_upsampling)
            self.score_pool4 = _score(512, num_classes)
        if stride < 16:
            self.upscore_pool4 = _upsampling(num_classes, 2, learned_upsampling)
            self.score_pool3 = _score(256, num_classes)
        self.last = "upscore" if stride == 32 else f"upscore{stride}"
        self.add_module(self.last, _upsampling(num_classes, stride, learned=False))
        self.pretrained_cfg: dict[str, Any] = {
            "trunk": "vgg16",
            "trunk_source": "torchvision",
            "trunk_weights": "VGG16_Weights.IMAGENET1K_V1",
            "trunk_module": "features",
            "first_conv": "features.0",
            "classifier": HEADS,
            "attribution_layer": "features.29",
            "mean": IMAGENET_DEFAULT_MEAN,
            "std": IMAGENET_DEFAULT_STD,
        }

    def forward(self, images: Tensor) -> Tensor:
        """Logits, see the class.

        Raises:
            ValueError: sides that are not multiples of 32.
        """
        if any(side % self.divisor for side in images.shape[-2:]):
            raise ValueError(f"Images of {tuple(images.shape[-2:])}: FCN takes multiples of 32.")
        pool3 = self.features[:POOL3](images)
        pool4 = self.features[POOL3:POOL4](pool3)
        maps = self.dropout(self.fc6(self.features[POOL4:](pool4)).relu())
        scores = self.score_fr(self.dropout(self.fc7(maps).relu()))
        if self.stride < 32:
            scores = self.upscore2(scores) + self.score_pool4(pool4 * self.scales[0])
        if self.stride < 16:
            scores = self.upscore_pool4(scores) + self.score_pool3(pool3 * self.scales[1])
        return cast(Tensor, self.get_submodule(self.last)(scores))

    def take_from_classifier(self, state: State) -> None:
        """Let ``fc6`` and ``fc7`` start from the fully connected layers of torchvision's VGG-16.

        They do where they are as wide as those.
        """
        for layer, name in ((self.fc6, "classifier.0"), (self.fc7, "classifier.3")):
            weight = state.get(f"{name}.weight")
            if weight is not None and weight.numel() == layer.weight.numel():
                with torch.no_grad():
                    layer.weight.copy_(weight.view_as(layer.weight))
                    cast(Tensor, layer.bias).copy_(state[f"{name}.bias"])


def fcn32s(num_classes: Count, in_channels: Count = 3, fc_channels: Count = 4096) -> FCN:
    """FCN-32s on VGG-16 (arXiv 1411.4038), 136,152,917 parameters for 21 classes.

    Args:
        num_classes: K.
        in_channels: C.
        fc_channels: of the two layers that are fully connected in VGG-16: 4096 there, and only
            layers of that width start from its weights.
    """
    return FCN(num_classes, in_channels, 32, fc_channels, learned_upsampling=False)


def fcn16s(
    num_classes: Count,
    in_channels: Count = 3,
    fc_channels: Count = 4096,
    learned_upsampling: bool = False,
) -> FCN:
    """FCN-16s on VGG-16 (arXiv 1411.4038), to go on from the weights of an FCN-32s.

    Args:
        num_classes: K.
        in_channels: C.
        fc_channels: see :func:`fcn32s`.
        learned_upsampling: whether deconvolutions but the last are learned, from bilinear
            interpolation on, as in the paper; in its reference implementation all are fixed.
    """
    return FCN(num_classes, in_channels, 16, fc_channels, learned_upsampling)


def fcn8s(
    num_classes: Count,
    in_channels: Count = 3,
    fc_channels: Count = 4096,
    learned_upsampling: bool = False,
    at_once: bool = False,
) -> FCN:
    """FCN-8s on VGG-16 (arXiv 1411.4038), 134,489,759 parameters for 21 classes.

    Args:
        num_classes: K.
        in_channels: C.
        fc_channels: see :func:`fcn32s`.
        learned_upsampling: see :func:`fcn16s`.
        at_once: train it from VGG-16 without the coarser networks before it: the fourth and the
            third pooling are scaled by 0.01 and 0.0001 before they are scored, so that the coarse
            scores are learned first. Otherwise it goes on from the weights of an FCN-16s.
    """
    scales = (0.01, 0.0001) if at_once else (1.0, 1.0)
    return FCN(num_classes, in_channels, 8, fc_channels, learned_upsampling, scales)


def _score(channels: int, num_classes: int) -> nn.Conv2d:
    layer = nn.Conv2d(channels, num_classes, 1)
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def _upsampling(num_classes: int, factor: int, learned: bool) -> nn.ConvTranspose2d:
    """A deconvolution that interpolates bilinearly, each class by itself."""
    size = 2 * factor
    layer = nn.ConvTranspose2d(
        num_classes, num_classes, size, stride=factor, padding=factor // 2, bias=False
    )
    ramp = 1 - (torch.arange(size) - (size - 1) / 2).abs() / factor
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[range(num_classes), range(num_classes)] = torch.outer(ramp, ramp)
    layer.weight.requires_grad_(learned)
    return layer
