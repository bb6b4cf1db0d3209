"""Borders between objects: how networks of semantic masks learn to keep objects apart."""

from dataclasses import dataclass
from math import ceil
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lit_imgproc.data.transforms import IGNORE

REACH = 4
"""Weights are computed up to so many sigma; beyond, they differ from 1 by 3e-4 of ``weight``."""

Numbers = NDArray[np.uint16]


@dataclass(frozen=True)
class Borders:
    """Background where objects touch, and weights that are high in narrow gaps: arXiv:1505.04597.

    The weight of a pixel of the background is ``1 + weight * exp(-(d1 + d2)^2 / (2 sigma^2))``,
    where ``d1`` and ``d2`` are its distances to the nearest and to the second nearest object
    (equation 2 there); that of an object is 1. The weights that balance classes, ``w_c`` there, are
    left to the class weights of the loss.

    Args:
        weight: What a gap of no width adds to the weight of a pixel; 10 in the paper.
        sigma: How fast that falls with the width of the gap, in pixels; 5 in the paper.
    """

    weight: float
    sigma: float

    def __call__(self, numbers: Numbers) -> dict[str, NDArray[Any]]:
        """What is learned of an image of objects.

        Args:
            numbers: ``[H,W]``, the number of the object of each pixel; 0 = none, 255 = ignore.

        Returns:
            ``mask`` uint8 ``[H,W]``, 1 in objects, 255 = ignore; and ``weight`` float32 ``[H,W]``,
            0 where the mask is to be ignored.
        """
        ignored = numbers == IGNORE
        objects = np.where(ignored, np.uint16(0), numbers)
        objects[touching(objects)] = 0
        weight = 1 + self.weight * self.closeness(objects)
        mask = (objects > 0).astype(np.uint8)
        mask[ignored], weight[ignored] = IGNORE, 0
        return {"mask": mask, "weight": weight}

    def closeness(self, objects: Numbers) -> NDArray[np.float32]:
        """``exp(-(d1 + d2)^2 / (2 sigma^2))`` in the background of ``[H,W]``, and 0 in objects."""
        nearest = np.full(objects.shape, np.inf, np.float32)
        second = nearest.copy()
        reach = ceil(REACH * self.sigma)
        for number, box in enumerate(ndimage.find_objects(objects), start=1):
            if box is None:
                continue
            # Both distances are at most their sum, so that an object does not matter from here on.
            window = tuple(slice(max(0, s.start - reach), s.stop + reach) for s in box)
            own = (objects[window] != number).view(np.uint8)
            distance = cv2.distanceTransform(own, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
            further = np.maximum(nearest[window], distance)
            np.minimum(nearest[window], distance, out=nearest[window])
            np.minimum(second[window], further, out=second[window])
        width = nearest + second
        close: NDArray[np.float32] = np.exp(width * width * np.float32(-0.5 / self.sigma**2))
        close[objects > 0] = 0
        return close


def touching(objects: Numbers) -> NDArray[np.bool_]:
    """Where one of the eight neighbours of an object's pixel is of another object: ``[H,W]``."""
    square = np.ones((3, 3), np.uint8)
    highest = cv2.dilate(objects, square)
    others = np.where(objects == 0, np.uint16(65535), objects)
    lowest = cv2.erode(others, square)
    found: NDArray[np.bool_] = (objects > 0) & ((highest != objects) | (lowest != objects))
    return found
