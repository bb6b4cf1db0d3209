"""Crops that are drawn before the image is decoded, and no larger than they are needed."""

import random
from typing import Any

import albumentations as A
import cv2
import numpy as np
from albumentations.augmentations.geometric.functional import resize
from numpy.typing import NDArray

from lit_imgproc.data.decode import Encoded

Pixels = NDArray[Any]
Box = tuple[int, int, int, int]


class AveragedCrop(A.RandomResizedCrop):  # type: ignore[misc]  # albumentations has no types
    """Albumentations' ``RandomResizedCrop``, but what shrinks to a half or less is averaged first.

    Bilinear sampling looks at four pixels. Where an image shrinks to less than a half it passes
    over others, and fine patterns turn into coarse ones that evaluation, which averages, does not
    show. Here such a crop is made two, four or eight times smaller by averages of whole pixels, as
    long as it stays at least as large as ``size``, before it is sampled. A JPEG is decoded at that
    size, which takes a fraction of the time. For this the crop's edges are moved up and left to
    where these averages end, by less than a pixel of the result. Smaller crops are albumentations'
    own.
    """

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        """Draw a crop; how many times smaller it is made; and whether it does not grow."""
        box: Box = super().get_params_dependent_on_data(params, data)["crop_coords"]
        left, top, right, bottom = box
        times = min((bottom - top) // self.size[0], (right - left) // self.size[1], 8)
        if times < 2:
            return {"crop_coords": box, "factor": 1, "shrinks": times == 1}
        factor = 1 << times.bit_length() - 1  # 2, 4 or 8
        moved = tuple(edge // factor * factor for edge in box)
        return {"crop_coords": moved, "factor": factor, "shrinks": True}

    def apply(self, img: Pixels, crop_coords: Box, factor: int = 1, **params: Any) -> Pixels:
        """Crop one image ``[H,W,C]``."""
        left, top, right, bottom = crop_coords
        crop = img[top:bottom, left:right]
        if factor > 1:
            sides = ((bottom - top) // factor, (right - left) // factor)
            crop = _resize(crop, sides, cv2.INTER_AREA)
        return _resize(crop, self.size, self.interpolation)


def _resize(image: Pixels, size: tuple[int, int], interpolation: int) -> Pixels:
    """Albumentations' own function, but for the usual images not through its layers."""
    if image.shape[2] > 4:
        result: Pixels = resize(image, size, interpolation)
    else:
        result = np.asarray(cv2.resize(image, size[::-1], interpolation=interpolation))
    return result.reshape(*size, image.shape[2])  # OpenCV drops a single channel


class CropFirst:
    """A pipeline for images alone that begins with a random crop, without what it can do without.

    It draws what ``albumentations.Compose`` would draw, in that order, and runs the same
    transforms: the same seed gives the same pixels. It leaves out the checks of ``Compose``, which
    take longer than mirroring an image, and decodes after the crop is drawn.

    Args:
        steps: The transforms, of which the first satisfies :meth:`leads`.
        generator: Python's generator that they draw from, too.
    """

    def __init__(
        self, steps: list[A.BasicTransform | A.BaseCompose], generator: random.Random
    ) -> None:
        self._crop, *self._rest = steps
        self._generator = generator

    @staticmethod
    def leads(steps: list[A.BasicTransform | A.BaseCompose]) -> bool:
        """Whether the first transform is a random resized crop of every image."""
        return bool(steps) and isinstance(steps[0], A.RandomResizedCrop) and steps[0].p == 1

    def __call__(self, image: Pixels | Encoded) -> Pixels:
        """Augment one image ``[H,W,C]``, or decode and augment it.

        Raises:
            DataError: It cannot be decoded.
        """
        self._generator.random()  # Compose draws whether to do anything at all
        params = self._crop.get_params_dependent_on_data({"shape": image.shape}, {})
        if isinstance(image, Encoded):
            image, params = self._decode(image, params)
        result: Pixels = self._crop.apply(image, **params)
        for step in self._rest:
            result = step(image=result)["image"]
        return result

    @staticmethod
    def _decode(image: Encoded, params: dict[str, Any]) -> tuple[Pixels, dict[str, Any]]:
        """The image, not better than the crop needs it, and the crop in its pixels."""
        factor = params.get("factor", 1)
        if factor > 1 and image.is_jpeg:
            box = tuple(edge // factor for edge in params["crop_coords"])
            return image.decode(factor), {"crop_coords": box}
        return image.decode(smooth=not params.get("shrinks", False)), params
