"""The segmenter of objects: a semantic network and a watershed that tells them apart."""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from lit_imgproc import pictures
from lit_imgproc.errors import UserError
from lit_imgproc.models.base import Batch
from lit_imgproc.models.coco_metrics import CocoMetrics
from lit_imgproc.models.extended import extended
from lit_imgproc.models.objects import Detections, Truth
from lit_imgproc.models.rle import COLOURS, rles
from lit_imgproc.models.segmentation.batch import IGNORE, SegmentationBatch
from lit_imgproc.models.segmentation.instances import (
    MinSize,
    Neck,
    Numbers,
    Threshold,
    best_first,
    boxes_of,
    large,
    split_instances,
)
from lit_imgproc.models.segmentation.metrics import SegmentationMetrics
from lit_imgproc.models.segmentation.module import Segmenter

MAX_OBJECTS = 1000
"""How many objects of an image are counted: far more than COCO's 100 are usual in microscopy."""
HEADLINES = ("mask_map", "mask_map_50", "mask_matching_50")
"""What is logged even where there is nothing to measure: callbacks wait for it."""


@extended
class InstanceSegmenter(Segmenter):
    """A segmenter of background and objects of one class that tells the objects apart.

    The network is trained as any segmenter's. The objects are found in its probabilities, by
    :func:`~lit_imgproc.models.segmentation.instances.split_instances`, and measured as a detector's
    masks are, by the same names: ``mask_map``, ``mask_map_50``, ``mask_matching_50``. What an
    object scores is its mean probability. Evaluation needs ``instances`` in the batch.

    Args:
        threshold: pixels of a higher probability are of objects.
        neck: two parts are two objects if what joins them is narrower than this share of the
            narrower one: 0 cuts nothing, 1 wherever it becomes narrower at all.
        min_size: smaller objects are dropped, in pixels of the images that the network sees.
        options: the arguments of :class:`~lit_imgproc.models.segmentation.module.Segmenter`;
            ``num_classes`` is 2.

    Raises:
        UserError: more than one class of objects, a network for volumes, or what a segmenter
            raises.
    """

    def __init__(
        self,
        *,
        threshold: Threshold = 0.5,
        neck: Neck = 0.7,
        min_size: MinSize = 16,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.threshold, self.neck, self.min_size = threshold, neck, min_size
        if len(self.class_names) != 2:
            raise UserError(
                "a watershed tells objects of one class apart, so that classes are two, the "
                f"background and theirs, but model.num_classes is {len(self.class_names)}: take "
                "model.name=segmenter, or a detector with masks"
            )
        if self.volumetric:
            raise UserError(
                "model.name=instance_segmenter looks at images, but its network at volumes: take "
                "model.name=segmenter, or a two-dimensional network"
            )
        self.object_metrics = CocoMetrics(
            self.class_names[1:], masks=True, max_detections=MAX_OBJECTS, score_threshold=0.0
        )

    def split(self, scores: Tensor) -> Numbers:
        """The objects ``[h, w]`` in scores ``[2, h, w]``."""
        return split_instances(
            scores[1].detach().cpu().numpy(),
            threshold=self.threshold,
            neck=self.neck,
            min_size=self.min_size,
        )

    # Evaluation ----------------------------------------------------------------------------------

    @override
    def compare(
        self,
        metrics: SegmentationMetrics,
        scores: Tensor,
        mask: Tensor,
        batch: SegmentationBatch,
        first: int,
    ) -> None:
        super().compare(metrics, scores, mask, batch, first)
        if "instances" not in batch:
            raise UserError(
                "the data has classes of pixels and no numbers of objects to measure these by: "
                "take model.name=segmenter, or data.name=label_images with data.target=semantic"
            )
        for i, (one, true) in enumerate(zip(scores, mask, strict=True), start=first):
            instances, sure = best_first(one[1].detach().cpu().numpy(), self.split(one))
            geometry = batch["geometry"][i] if "geometry" in batch else {}
            there, ignored = batch["instances"][i].cpu().numpy(), (true == IGNORE).cpu().numpy()
            truth = truth_of(there, ignored, float(np.prod(geometry.get("scale", 1.0))))
            found: Detections = {
                "boxes": torch.from_numpy(boxes_of(instances)),
                "labels": torch.zeros(len(sure), dtype=torch.int64),
                "scores": torch.from_numpy(sure),
                "masks": torch.from_numpy(instances),
            }
            self.object_metrics.update([found], [truth])

    @override
    def summary(self, metrics: SegmentationMetrics) -> dict[str, Any]:
        values = super().summary(metrics)
        for name, value in self.object_metrics.compute().items():
            # Of one class, so that what is said of each is said already; boxes follow from masks.
            kind, _, of_class = name.partition("/")
            if kind.startswith("mask_") and not of_class and (value >= 0 or kind in HEADLINES):
                values[name] = value
        self.object_metrics.reset()
        return values

    # Answers, pictures ---------------------------------------------------------------------------

    @override
    def answer(self, scores: Tensor, geometry: Mapping[str, Any]) -> dict[str, Any]:
        """What is said of one image, with its objects, best first, in pixels of the file.

        Beside what a segmenter says: ``boxes``, xyxy; ``labels``, names; ``scores``; ``masks``, as
        COCO's RLE; and ``instances``, int32 ``[H, W]``, the number of the object of each pixel,
        from 1 in this order, 0 for none.
        """
        said = super().answer(scores, geometry)
        instances = self.split(scores)
        probability = self.in_file(scores, geometry)[1].detach().cpu().numpy()
        if instances.shape != probability.shape:
            size = probability.shape[::-1]
            scaled = cv2.resize(instances, size, interpolation=cv2.INTER_NEAREST)
            instances = large(np.asarray(scaled, np.int32), 1)  # a smaller file may have lost some
        instances, sure = best_first(probability, instances)
        return said | {
            "boxes": boxes_of(instances).tolist(),
            "labels": self.class_names[1:] * len(sure),
            "scores": sure.tolist(),
            "masks": rles(torch.from_numpy(instances), None),
            "instances": instances,
        }

    @override
    def draw(self, batch: Batch, output: list[dict[str, Any]]) -> pictures.Picture:
        """Each image twice: with the objects that are there, and with those that were found."""
        tiles = []
        for i, (image, answer) in enumerate(zip(batch["image"], output, strict=True)):
            plain = pictures.tile(image.float().cpu().numpy())
            sides = {"found": torch.from_numpy(answer["instances"])}
            if "instances" in batch:
                sides = {"is": batch["instances"][i].cpu(), **sides}
            for said, numbers in sides.items():
                colours = torch.where(numbers > 0, 1 + (numbers - 1) % COLOURS, 0)
                painted = pictures.paint(plain, colours.numpy())
                tiles.append(pictures.caption(painted, [said]))
        return pictures.grid(tiles)


def truth_of(instances: NDArray[np.int64], ignored: NDArray[np.bool_], scale: float) -> Truth:
    """What the objects of one image are compared with.

    Args:
        instances: the number of the object of each pixel, int64 ``[H, W]``, 0 for none; there may
            be gaps.
        ignored: bool ``[H, W]``: what is found there, mostly, counts nowhere, as COCO has it for
            crowds.
        scale: of the image's area over its file's, by which objects count as small or large.
    """
    own = np.where(ignored, 0, instances).astype(np.int64)
    known = np.unique(own[own > 0])
    numbers = np.where(own > 0, 1 + np.searchsorted(known, own), 0)
    # All that is ignored is one more object, the last.
    numbers[ignored] = len(known) + 1
    area = np.bincount(numbers.ravel())[1:]
    return {
        "boxes": torch.from_numpy(boxes_of(numbers)),
        "labels": torch.zeros(len(area), dtype=torch.int64),
        "iscrowd": (torch.arange(len(area)) >= len(known)).long(),
        "area": torch.from_numpy(area) / scale,
        "masks": torch.from_numpy(numbers),
    }
