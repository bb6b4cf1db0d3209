"""A contact sheet: what a network would see of a split, with its targets drawn into it."""

from collections.abc import Sequence
from itertools import islice
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lit_imgproc import pictures
from lit_imgproc.data.base import ImageDataModule, Split

LARGEST = 480
"""The longer side of a tile, in pixels, at most."""


def contact_sheet(
    data: ImageDataModule, split: Split, images: int, *, augmented: bool, epoch: int = 0
) -> pictures.Picture:
    """Draw some images of a split with their labels, boxes, masks or captions.

    Args:
        data: Prepared or not.
        split: Which of its images.
        images: How many at most: those that training begins with, or spread evenly over the split.
        augmented: Whether they are augmented, as training images are; of the training split alone.
        epoch: The epoch of training whose order and augmentations are shown.

    Returns:
        uint8 ``[H,W,3]``.
    """
    dataset = data.dataset(split)
    if augmented:
        samples = [dataset[key] for key in islice(data.training_order(epoch), images)]
    else:
        count = min(images, len(dataset))
        samples = [dataset[i * len(dataset) // count] for i in range(count)]
    return pictures.grid([draw(sample, dataset.class_names) for sample in samples])


def draw(sample: dict[str, Any], class_names: Sequence[str]) -> pictures.Picture:
    """One sample as a tile with a caption, its target beside; of a volume, the middle slice."""
    image = np.asarray(sample["image"])
    mask = np.asarray(sample["mask"]) if "mask" in sample else None
    if image.ndim == 4:
        middle = image.shape[1] // 2
        image, mask = image[:, middle], None if mask is None else mask[middle]
    height = image.shape[1]
    tile = _tile(image)
    lines = []
    if mask is not None:
        tile = pictures.paint(tile, mask)
        there = [k for k in np.unique(mask).tolist() if k < len(class_names)]
        lines.append(", ".join(class_names[k] for k in there))
    if "boxes" in sample:
        labels = np.asarray(sample["labels"]).tolist()
        if "masks" in sample:
            for number, one in enumerate(np.asarray(sample["masks"])):
                tile = pictures.paint(tile, np.where(one, number + 1, 0))
        scale = tile.shape[0] / height
        tile = pictures.outline(tile, np.asarray(sample["boxes"]) * scale, labels)
        lines.append(", ".join(sorted({class_names[k] for k in labels})) or "nothing")
    if "label" in sample:
        lines.append(_label(sample["label"], class_names))
    lines += sample.get("captions", [])[:1]
    if "target" in sample:
        tile = pictures.grid([tile, _tile(np.asarray(sample["target"]))])
    return pictures.caption(tile, [*lines, str(sample["id"])])


def _tile(image: NDArray[Any]) -> pictures.Picture:
    """An image ``[C,H,W]`` as a tile."""
    unit = np.float32(255 if image.dtype == np.uint8 else 1)
    return pictures.tile(_shrunk(image.astype(np.float32) / unit))


def _shrunk(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """An image ``[C,H,W]`` of which no side is longer than :data:`LARGEST`."""
    scale = LARGEST / max(image.shape[1:])
    if scale >= 1:
        return image
    shown = np.ascontiguousarray(image[:3].transpose(1, 2, 0))
    small = cv2.resize(shown, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32).reshape(*small.shape[:2], -1).transpose(2, 0, 1)


def _label(label: Any, class_names: Sequence[str]) -> str:
    if getattr(label, "ndim", 0) == 1:
        return ", ".join(class_names[k] for k in np.flatnonzero(label).tolist()) or "-"
    return class_names[int(label)]
