"""Between batches, what torchvision's networks take and give, and plain values."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from faster_coco_eval.core import mask as coco_mask
from numpy.typing import NDArray
from torch import Tensor

from lit_imgproc.geometry import masks_to_original
from lit_imgproc.models.detection.batch import DetectionBatch, Detections
from lit_imgproc.models.detection.metrics import Truth, encode

INSIDE = 0.5
"""The least probability of a pixel of a mask."""
COLOURS = 200
"""So many objects have a colour of their own where masks are drawn."""


def targets(batch: DetectionBatch) -> list[dict[str, Tensor]]:
    """What torchvision's detectors learn from: no crowds, no boxes without area, labels from 1."""
    learned = []
    for i, boxes in enumerate(batch["boxes"]):
        keep = (boxes[:, 2:] > boxes[:, :2]).all(1) & (batch["iscrowd"][i] == 0)
        target = {"boxes": boxes[keep], "labels": batch["labels"][i][keep] + 1}
        if "masks" in batch:
            target["masks"] = batch["masks"][i][keep]
        learned.append(target)
    return learned


def truths(batch: DetectionBatch) -> list[Truth]:
    """What detections are compared with, in pixels of the batch's images."""
    columns = {key: values for key, values in batch.items() if key in Truth.__annotations__}
    rows = zip(*cast("dict[str, list[Tensor]]", columns).values(), strict=True)
    return [cast(Truth, dict(zip(columns, row, strict=True))) for row in rows]


def rles(masks: Tensor, geometry: dict[str, Any] | None) -> list[dict[str, Any]]:
    """COCO's run-length encoding of masks bool ``[N, H, W]``, at the size of the image's file."""
    pixels = masks.to(torch.uint8).cpu().numpy()
    if geometry is not None:
        pixels = masks_to_original(pixels, geometry)
    size = list(pixels.shape[1:])
    codes = encode(torch.from_numpy(pixels))
    return [{"size": size, "counts": code.decode("ascii")} for code in codes]


def answers(found: list[dict[str, Tensor]]) -> list[Detections]:
    """What torchvision's networks say, with labels from 0 and masks of yes and no."""
    result: list[Detections] = []
    for one in found:
        # Networks of one stage have an output for the background, too, that nothing is taught.
        objects = one["labels"] > 0
        answer: Detections = {
            "boxes": one["boxes"][objects].float(),
            "labels": one["labels"][objects] - 1,
            "scores": one["scores"][objects].float(),
        }
        if "masks" in one:
            answer["masks"] = one["masks"][objects, 0] >= INSIDE
        result.append(answer)
    return result


def decoded(codes: Sequence[dict[str, Any]]) -> NDArray[np.uint8]:
    """Masks ``[N, H, W]`` of what :func:`rles` made, of one image."""
    bytes_ = [code | {"counts": code["counts"].encode("ascii")} for code in codes]
    return np.ascontiguousarray(coco_mask.decode(bytes_).transpose(2, 0, 1))


def numbered(masks: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Masks ``[N, H, W]`` as numbers ``[H, W]``: from 1, the first on top; 0 outside."""
    numbers = 1 + np.arange(len(masks)) % COLOURS
    first = masks.argmax(0)
    return np.where(masks.any(0), numbers[first], 0)
