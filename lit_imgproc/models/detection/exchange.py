"""Between batches and what torchvision's networks take and give."""

from typing import cast

from torch import Tensor

from lit_imgproc.models.detection.batch import DetectionBatch
from lit_imgproc.models.objects import Detections, Truth

INSIDE = 0.5
"""The least probability of a pixel of a mask."""


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
