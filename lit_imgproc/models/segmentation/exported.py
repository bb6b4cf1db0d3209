"""What is exported of a segmenter."""

from collections.abc import Sequence
from typing import Any, cast

from timm.layers.conv2d_same import Conv2dSame
from timm.layers.pool2d_same import AvgPool2dSame
from torch import Tensor, nn

from lit_imgproc.models.segmentation.padding import mirror


class ProbabilityMap(nn.Module):
    """Class probabilities float32 ``[B, K, H, W]`` of images ``[B, C, H, W]`` in [0, 1].

    It looks once and at the whole image: windows and test-time augmentation are no part of it. At
    its lower and right edges the image is mirrored up to the next size that the network takes, as
    :class:`~lit_imgproc.models.segmentation.module.Segmenter` does it, and what is said of that is
    cut off again.

    Args:
        normalization: the first layer.
        network: from normalized images to logits, of the same size. Where sizes have to be
            multiples of some number, its attribute ``divisor`` is that.

    Attributes:
        divisor: that number, or 1. torch.export takes sizes that are left open as multiples of it.
    """

    def __init__(self, normalization: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.normalization = normalization
        self.network = network
        self.divisor = cast(int, getattr(network, "divisor", 1))

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        height, width = images.shape[2:]
        missing = [-side % self.divisor for side in (height, width)]
        logits: Tensor = self.network(mirror(self.normalization(images), (0, 0), missing))
        return logits[..., :height, :width].float().softmax(1)


def with_fixed_padding(network: nn.Module) -> nn.Module:
    """A network in which no padding depends on the size of the image; it is changed in place.

    Some layers of timm pad as much as the size asks for, as TensorFlow does, by a rule that
    torch.export cannot store. Of sizes that are multiples of a layer's stride it is always as much.
    """
    for name, child in network.named_children():
        if isinstance(child, Conv2dSame):
            plain = nn.Conv2d(
                child.in_channels,
                child.out_channels,
                child.kernel_size,  # type: ignore[arg-type]
                child.stride,  # type: ignore[arg-type]
                0,
                child.dilation,  # type: ignore[arg-type]
                child.groups,
                child.bias is not None,
            )
            plain.load_state_dict(child.state_dict())
            setattr(network, name, nn.Sequential(_padding(child, child.dilation), plain))
        elif isinstance(child, AvgPool2dSame):
            pool = nn.AvgPool2d(
                child.kernel_size, child.stride, 0, child.ceil_mode, child.count_include_pad
            )
            setattr(network, name, nn.Sequential(_padding(child, (1, 1)), pool))
        else:
            with_fixed_padding(child)
    return network


def _padding(layer: Any, dilation: Sequence[int]) -> nn.ZeroPad2d:
    """What a layer pads by at sizes that are multiples of its stride."""
    edges: list[int] = []
    for side in (1, 0):  # ZeroPad2d begins with the width
        reach = dilation[side] * (layer.kernel_size[side] - 1) + 1
        total = max(reach - layer.stride[side], 0)
        edges += [total // 2, total - total // 2]
    left, right, top, bottom = edges
    return nn.ZeroPad2d((left, right, top, bottom))
