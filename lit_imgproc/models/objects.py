"""Objects in one image: what is found, and what is there to be found."""

from typing import NotRequired, TypedDict

from torch import Tensor


class Detections(TypedDict):
    """What was found in one image, best first, in pixels of that image."""

    boxes: Tensor
    """float32 ``[N, 4]``, xyxy."""
    labels: Tensor
    """int64 ``[N]``, from 0."""
    scores: Tensor
    """float32 ``[N]`` in [0, 1]."""
    masks: NotRequired[Tensor]
    """bool ``[N, H, W]``; or numbers, int64 ``[H, W]`` from 1 in the order of the objects, where
    none overlaps another."""


class Truth(TypedDict):
    """The objects of one image, in the pixels that its detections are in."""

    boxes: Tensor
    """float32 ``[N, 4]``, xyxy."""
    labels: Tensor
    """int64 ``[N]``, from 0."""
    iscrowd: Tensor
    """int64 ``[N]``: 1 for a region of many objects."""
    area: Tensor
    """float32 ``[N]``: what the annotation says, which for COCO is the area of the mask."""
    masks: NotRequired[Tensor]
    """uint8 or bool ``[N, H, W]``; or numbers, as those of :class:`Detections`."""
