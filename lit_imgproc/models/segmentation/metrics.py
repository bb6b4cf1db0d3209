"""The metrics of a segmenter, accumulated over all pixels of a split and over all ranks."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override

from lit_imgproc.models.segmentation.batch import IGNORE
from lit_imgproc.models.segmentation.boundary import boundary_counts, boundary_f1

BACKGROUND = "background"
"""A first class of this name is no foreground."""


class SegmentationMetrics(Metric):
    """Overlap and accuracy of pixels, and the F1 of boundaries, of one confusion matrix.

    All pixels of the split weigh alike, whichever image they are of: the intersections and unions
    of all images are added up before they are divided, as PASCAL VOC, Cityscapes and ADE20K do it.
    Pixels whose truth is 255 are not counted.

    After :meth:`compute`, ``confusion`` holds the counts of pixels of all ranks, int64 ``[K, K]``
    on the CPU: rows are the truth, columns the prediction. Before, it is zero.

    Args:
        class_names: the names of the K classes.
        boundary_tolerance: how far in pixels a predicted boundary may be from the true one, see
            :mod:`~lit_imgproc.models.segmentation.boundary`; None: boundaries are not measured.
            Those of volumes never are.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    pixels: Tensor
    boundaries: Tensor

    def __init__(
        self, class_names: Sequence[str], *, boundary_tolerance: int | None = None
    ) -> None:
        super().__init__()
        self.class_names, self.boundary_tolerance = list(class_names), boundary_tolerance
        classes = len(self.class_names)
        self.confusion = torch.zeros(classes, classes, dtype=torch.int64)
        self.add_state("pixels", self.confusion.clone(), dist_reduce_fx="sum")
        if boundary_tolerance is not None:
            zeros = torch.zeros(4, classes, dtype=torch.int64)
            self.add_state("boundaries", zeros, dist_reduce_fx="sum")

    @override
    def reset(self) -> None:
        super().reset()
        self.confusion = torch.zeros_like(self.confusion)

    @override
    def update(self, prediction: Tensor, mask: Tensor) -> None:
        """Count the pixels of a batch.

        Args:
            prediction: int64 ``[B, H, W]`` or ``[B, D, H, W]``: a class of each pixel.
            mask: int64 of the same shape: the true class, 255 where there is none.

        Raises:
            ValueError: The shapes differ, or the mask holds a number that is no class.
        """
        if prediction.shape != mask.shape:
            shapes = f"{list(prediction.shape)} and {list(mask.shape)}"
            raise ValueError(f"prediction and mask differ in shape: {shapes}")
        classes = len(self.class_names)
        # Ignored pixels go to a bin of their own: to select the others would stop the GPU.
        pairs = torch.where(mask == IGNORE, 0, 1 + mask * classes + prediction)
        counts = torch.bincount(pairs.flatten(), minlength=classes**2 + 1)
        if len(counts) > classes**2 + 1:
            allowed = f"0 to {classes - 1} and {IGNORE} are allowed"
            raise ValueError(f"a mask or a prediction holds a number that is no class: {allowed}")
        self.pixels = self.pixels + counts[1:].view(classes, classes)
        if self.boundary_tolerance is not None and mask.ndim == 3:
            counts = boundary_counts(prediction, mask, classes, self.boundary_tolerance)
            self.boundaries = self.boundaries + counts

    @override
    def compute(self) -> dict[str, float]:
        """The metrics by name; -1 where nothing was counted.

        - ``iou/CLASS``: intersection over union, and ``iou``, the mean over the classes.
        - ``dice/CLASS``: twice the intersection over the sum of both areas, and ``dice``, the mean
          over the foreground, which is all classes but a first one that is called ``background``.
        - ``accuracy``: the share of pixels that are right.
        - ``class_accuracy``: the mean over classes of the share of their pixels that are right.
        - ``boundary_f1/CLASS`` and ``boundary_f1``, the mean over the classes, if asked for.

        A class that is neither in the truth nor in the prediction has no value and is in no mean,
        one that is not in the truth is not in ``class_accuracy``, and one without a boundary in
        both, such as one that fills all its images, not in ``boundary_f1``.
        """
        self.confusion = self.pixels.cpu()
        counts = self.confusion.double()
        right, true, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
        there = true + predicted > 0
        # A class that is not there has no right pixels: 0 / 1 instead of 0 / 0, then left out.
        iou = right / (true + predicted - right).clamp(min=1)
        dice = 2 * right / (true + predicted).clamp(min=1)
        recall = right / true.clamp(min=1)
        foreground = there.clone()
        foreground[0] &= self.class_names[0] != BACKGROUND
        values = {
            "iou": _mean(iou, there),
            "dice": _mean(dice, foreground),
            "accuracy": float(right.sum() / counts.sum()) if there.any() else -1.0,
            "class_accuracy": _mean(recall, true > 0),
        }
        values |= self._named("iou", iou, there) | self._named("dice", dice, there)
        if self.boundary_tolerance is not None:
            f1, bounded = boundary_f1(self.boundaries.cpu())
            values["boundary_f1"] = _mean(f1, bounded)
            values |= self._named("boundary_f1", f1, bounded)
        return values

    def _named(self, metric: str, values: Tensor, measured: Tensor) -> dict[str, float]:
        """The values ``[K]`` of the classes that were measured, such as ``iou/cat``."""
        rows = zip(self.class_names, values.tolist(), measured.tolist(), strict=True)
        return {f"{metric}/{name}": value for name, value, known in rows if known}


def _mean(values: Tensor, measured: Tensor) -> float:
    """The mean of what was measured; -1 where nothing was."""
    return float(values[measured].mean()) if measured.any() else -1.0
