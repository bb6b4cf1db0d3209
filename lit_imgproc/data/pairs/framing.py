"""How pictures come to the size that networks see: several of one scene all alike."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import albumentations as A
import numpy as np
from numpy.typing import NDArray

from lit_imgproc.data.transforms import PRESETS, Augment
from lit_imgproc.inputs import InputSpec
from lit_imgproc.seams import starts

Pixels = NDArray[np.uint8]
"""A picture ``[H,W,C]``, or class numbers ``[H,W]``, which take the nearest pixel."""
Sizing = Literal["squash", "crop", "none"]


@dataclass(frozen=True)
class Framing:
    """What is seen of a picture, in evaluation and in training.

    Args:
        image_size: Height and width of the result, in pixels.
        load_size: Training scales to this and cuts ``image_size`` out at random, the jitter of
            arXiv:1611.07004 (286 for 256). ``None`` scales no larger than it must.
        resize: ``squash`` changes the aspect ratio. ``crop`` keeps it: the shorter side is scaled,
            and the longer one is cut, in its middle in evaluation and anywhere in training.
            ``none`` does not scale: training cuts out anywhere, evaluation into tiles.
    """

    image_size: int
    load_size: int | None
    resize: Sizing

    def spec(self, channels: int) -> InputSpec:
        """What evaluation does to a picture."""
        return InputSpec(channels, (self.image_size, self.image_size), self.resize)

    def problem(self, height: int, width: int) -> str | None:
        """Why a picture of this size cannot be used, as the rest of a sentence, if it cannot."""
        if self.resize != "none" or min(height, width) >= self.image_size:
            return None
        return (
            f"is a picture of {height}x{width}, smaller than data.image_size={self.image_size}: "
            "lower that, or set data.resize to crop or squash."
        )

    def corners(self, height: int, width: int) -> list[tuple[int, int]]:
        """The upper left corners, row and column, of the tiles that evaluation sees of a picture.

        The last tile of a row or column ends where the picture does. Without tiles it is one, at 0.
        """
        if self.resize != "none":
            return [(0, 0)]
        rows, columns = (starts(side, self.image_size, 0) for side in (height, width))
        return [(row, column) for row in rows for column in columns]

    def evaluated(self, layers: list[Pixels], corner: tuple[int, int]) -> list[Pixels]:
        """Pictures of one scene as evaluation sees them.

        Args:
            layers: All of one height and width.
            corner: One of :meth:`corners`.
        """
        if self.resize == "none":
            return [_cut(layer, *corner, self.image_size) for layer in layers]
        return [self._framed(layer) for layer in layers]

    def trained(
        self, layers: list[Pixels], sample_seed: int, augment: Augment | None
    ) -> list[Pixels]:
        """Pictures of one scene as training sees them, all cut and augmented alike.

        Args:
            layers: All of one height and width.
            sample_seed: Where to cut and how to augment.
            augment: What to do beside; where it cuts or scales by itself, this does not.
        """
        if augment is None or not augment.resizes:
            layers = self._cut_anywhere(layers, np.random.default_rng(sample_seed))
        if augment is not None:
            layers = augmented(layers, augment, sample_seed)
        return [_scaled(layer, self.image_size, self.image_size) for layer in layers]

    def _framed(self, layer: Pixels) -> Pixels:
        if layer.ndim == 3:
            return self.spec(layer.shape[2])(layer)
        size = (self.image_size, self.image_size)
        spec = InputSpec(1, size, self.resize, interpolation="nearest")
        return spec(layer)[:, :, 0]

    def _cut_anywhere(self, layers: list[Pixels], random: np.random.Generator) -> list[Pixels]:
        height, width = layers[0].shape[:2]
        side = self.load_size or self.image_size
        if self.resize == "squash":
            height = width = side
        elif self.resize == "crop":
            scale = side / min(height, width)
            height, width = round(height * scale), round(width * scale)
        row = int(random.integers(height - self.image_size + 1))
        column = int(random.integers(width - self.image_size + 1))
        scaled = (_scaled(layer, height, width) for layer in layers)
        return [_cut(layer, row, column, self.image_size) for layer in scaled]


def augmented(layers: list[Pixels], augment: Augment, sample_seed: int) -> list[Pixels]:
    """Augment pictures of one scene alike: as channels of one image, class numbers as its mask."""
    pictures = [layer for layer in layers if layer.ndim == 3]
    masks = [layer for layer in layers if layer.ndim == 2]
    image = np.concatenate(pictures or [np.zeros((*masks[0].shape, 1), np.uint8)], axis=2)
    mask = np.stack(masks, axis=2) if masks else None
    found = augment.sample(sample_seed, image=image, mask=mask)
    ends = np.cumsum([picture.shape[2] for picture in pictures])
    of_pictures = iter(np.split(found["image"], ends[:-1], axis=2))
    of_masks = iter(np.moveaxis(found["mask"], 2, 0) if masks else ())
    return [next(of_pictures if layer.ndim == 3 else of_masks) for layer in layers]


def converted(picture: Pixels, channels: int) -> Pixels:
    """A picture ``[H,W,C]`` with 1 or 3 channels."""
    return InputSpec(channels, (picture.shape[0], picture.shape[1]), "none")(picture)


def _cut(layer: Pixels, row: int, column: int, side: int) -> Pixels:
    return layer[row : row + side, column : column + side]


def _scaled(layer: Pixels, height: int, width: int) -> Pixels:
    """Averaged where it shrinks; class numbers take the nearest."""
    if layer.ndim == 3:
        return InputSpec(layer.shape[2], (height, width), "squash")(layer)
    spec = InputSpec(1, (height, width), "squash", interpolation="nearest")
    return spec(layer)[:, :, 0]


def colour_transforms(choice: str | list[dict[str, Any]]) -> list[str]:
    """The names of the transforms of an augmentation that change colours."""
    if isinstance(choice, str):
        kinds = [type(step) for step in _leaves(PRESETS[choice](256, 3))]
    else:
        kinds = [getattr(A, name) for name in _named(choice)]
    return sorted({kind.__name__ for kind in kinds if issubclass(kind, A.ImageOnlyTransform)})


def _leaves(steps: Sequence[Any]) -> Iterator[Any]:
    for step in steps:
        yield from _leaves(step.transforms) if isinstance(step, A.BaseCompose) else [step]


def _named(steps: Sequence[dict[str, Any]]) -> Iterator[str]:
    for step in steps:
        yield from [step["name"], *_named(step.get("transforms", []))]
