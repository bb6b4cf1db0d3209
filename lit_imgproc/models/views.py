"""The symmetries that an image is looked at from, and the ways back."""

from collections.abc import Callable
from itertools import chain, combinations
from typing import Literal, NamedTuple

from torch import Tensor

Symmetries = Literal["none", "hflip", "d4", "mirrors"]
"""``hflip``: an image and its mirror image. ``d4``: the eight symmetries of the square.
``mirrors``: mirrored along each set of axes, four views of an image and eight of a volume."""


class View(NamedTuple):
    """One look: what is done to ``[B, C, *S]``, and what undoes it."""

    there: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]


def views(symmetries: Symmetries, dimensions: int) -> list[View]:
    """All looks at images of so many dimensions, the plain one first."""
    if symmetries == "d4":
        return [_turned(turns, mirrored) for mirrored in (False, True) for turns in range(4)]
    axes = {"none": (), "hflip": (-1,), "mirrors": tuple(range(-dimensions, 0))}[symmetries]
    sets = chain.from_iterable(combinations(axes, count) for count in range(len(axes) + 1))
    return [_mirrored(along) for along in sets]


def _mirrored(axes: tuple[int, ...]) -> View:
    def flip(images: Tensor) -> Tensor:
        return images.flip(axes)

    return View(flip, flip)


def _turned(turns: int, mirrored: bool) -> View:
    """By so many quarters in the plane of height and width, mirrored left to right before."""
    axes = (-1,) if mirrored else ()

    def there(images: Tensor) -> Tensor:
        return images.flip(axes).rot90(turns, (-2, -1))

    def back(images: Tensor) -> Tensor:
        return images.rot90(-turns, (-2, -1)).flip(axes)

    return View(there, back)
