"""Crops that are drawn before the image is decoded, and no larger than they are needed."""

import random
from typing import Any

import albumentations as A
import cv2
from albumentations.augmentations.geometric.functional import resize
from numpy.typing import NDArray

from lit_imgproc.data.decode import Encoded

Pixels = NDArray[Any]
Box = tuple[int, int, int, int]


class AveragedCrop(A.RandomResizedCrop):
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
        """Draw a crop, and how many times smaller it is made."""
        box: Box = super().get_params_dependent_on_data(params, data)["crop_coords"]
        left, top, right, bottom = box
        times = min((bottom - top) // self.size[0], (right - left) // self.size[1], 8)
        factor = 1 << max(times.bit_length() - 1, 0)  # 1, 2, 4 or 8
        return {"crop_coords": tuple(edge // factor * factor for edge in box), "factor": factor}

    def apply(self, img: Pixels, crop_coords: Box, factor: int = 1, **params: Any) -> Pixels:
        """Crop one image ``[H,W,C]``."""
        if factor == 1:
            return super().apply(img, crop_coords, **params)
        left, top, right, bottom = crop_coords
        smaller = ((bottom - top) // factor, (right - left) // factor)
        averages = resize(img[top:bottom, left:right], smaller, cv2.INTER_AREA)
        return resize(averages, self.size, self.interpolation)


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
            factor = params.get("factor", 1)
            if factor > 1 and image.is_jpeg:
                image = image.decode(factor)
                params = {"crop_coords": tuple(edge // factor for edge in params["crop_coords"])}
            else:
                image = image.decode()
        result: Pixels = self._crop.apply(image, **params)
        for step in self._rest:
            result = step(image=result)["image"]
        return result
