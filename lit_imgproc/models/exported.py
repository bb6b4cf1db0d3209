"""Images as networks make them and as they are shown, and what is exported of such a network."""

from typing import cast

from torch import Tensor, nn


class ImageToImage(nn.Module):
    """Images float32 ``[B, C', H, W]`` in [0, 1] of images ``[B, C, H, W]`` in [0, 1].

    Args:
        normalization: the first layer.
        network: from normalized images to images of the same size in [-1, 1]. Where sizes have to
            be multiples of some number, its attribute ``divisor`` is that.

    Attributes:
        divisor: that number, or 1.
    """

    def __init__(self, normalization: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.normalization = normalization
        self.network = network
        self.divisor = cast(int, getattr(network, "divisor", 1))

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        return shown(self.network(self.normalization(images)))


def shown(made: Tensor) -> Tensor:
    """Images float32 in [0, 1], of what a network made in [-1, 1]."""
    return (made.float() + 1).div(2).clamp(0, 1)
