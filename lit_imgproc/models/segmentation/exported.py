"""What is exported of a segmenter."""

from typing import cast

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
