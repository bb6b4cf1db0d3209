"""A network that measures and does not learn: part of a loss or a metric, not of a model."""

from collections.abc import Callable
from typing import Self, cast

from torch import Tensor, nn


class Frozen(nn.Module):
    """Holds a network so that it moves with the module round it and is otherwise none of its own.

    The network goes to another device or type with the module and is copied with it. It is no
    submodule: its weights are in no checkpoint, optimizer, average or exchange between ranks
    (14.7 million of VGG-16 would be copied at every step), it needs no gradient, and ``train()``
    leaves it in eval mode. Whoever makes the module again makes the network again.

    Args:
        network: any network; it is frozen in place.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        # Within a tuple: torch registers a module that is an attribute.
        self._held = (network.eval().requires_grad_(False),)

    @property
    def network(self) -> nn.Module:
        """The network that is held."""
        return self._held[0]

    def forward(self, images: Tensor) -> Tensor:
        """What the network says of images ``[B, C, H, W]``."""
        return cast(Tensor, self.network(images))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What ``to``, ``cuda`` and ``double`` call."""
        self.network._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return cast(Self, super()._apply(fn, recurse))  # type: ignore[no-untyped-call]
