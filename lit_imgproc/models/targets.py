"""What an explanation is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A class that an image shows; families add where.

    Attributes:
        label: The class, an index of the class names.
    """

    label: int


Box = tuple[float, float, float, float]
"""xyxy in pixels."""

Targets = Target | Sequence[Target] | None
"""The same for all images; or one an image; or None: what the network itself answers."""
