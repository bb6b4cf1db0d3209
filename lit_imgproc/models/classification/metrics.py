"""The metrics of a classifier, accumulated over a whole split and over all ranks."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassAUROC,
    MulticlassCalibrationError,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MultilabelAccuracy,
    MultilabelAUROC,
    MultilabelAveragePrecision,
    MultilabelConfusionMatrix,
    MultilabelExactMatch,
    MultilabelF1Score,
)
from typing_extensions import override


class MeanAUROC(MulticlassAUROC):
    """AUROC of each class against the rest, averaged over the classes that the split has.

    torchmetrics counts a class without images as zero, or one without others: neither was measured.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, average="none")

    @override
    def compute(self) -> Tensor:  # type: ignore[override]  # torchmetrics says so of itself
        target = torch.nn.functional.one_hot(_joined(self.target), self.num_classes)
        return _mean_over_measured(super().compute, target)


class MeanMultilabelAUROC(MultilabelAUROC):
    """AUROC of each label, averaged over those that some images have and others have not."""

    def __init__(self, num_labels: int) -> None:
        super().__init__(num_labels, average="none")

    @override
    def compute(self) -> Tensor:  # type: ignore[override]  # torchmetrics says so of itself
        return _mean_over_measured(super().compute, _joined(self.target))


class MeanAveragePrecision(MultilabelAveragePrecision):
    """Average precision of each label, averaged over those that some images have."""

    def __init__(self, num_labels: int) -> None:
        super().__init__(num_labels, average="none")

    @override
    def compute(self) -> Tensor:  # type: ignore[override]  # torchmetrics says so of itself
        return _mean_over_measured(super().compute, _joined(self.target))


def _joined(batches: list[Tensor] | Tensor) -> Tensor:
    """The targets of all batches, which a sync between ranks has joined already."""
    return torch.cat(batches) if isinstance(batches, list) else batches


def _mean_over_measured(compute: Callable[[], Tensor], target: Tensor) -> Tensor:
    """The mean of the scores ``[K]`` of columns of ``target`` ``[N, K]`` with both values."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No (positive|negative) samples")
        scores = compute()
    measured = (target == 1).any(0) & (target == 0).any(0)
    return scores[measured].mean()


def quick_metrics(num_classes: int, *, multilabel: bool) -> dict[str, Metric]:
    """What is worth knowing after every epoch, from probabilities ``[B, K]`` and labels."""
    if multilabel:
        return {
            "accuracy": MultilabelAccuracy(num_classes, average="micro"),
            "f1": MultilabelF1Score(num_classes, average="macro"),
        }
    metrics: dict[str, Metric] = {
        "accuracy": MulticlassAccuracy(num_classes, average="micro"),
        "f1": MulticlassF1Score(num_classes, average="macro"),
    }
    if num_classes > 5:
        metrics["accuracy_top5"] = MulticlassAccuracy(num_classes, average="micro", top_k=5)
    return metrics


def full_metrics(num_classes: int, *, multilabel: bool) -> dict[str, Metric]:
    """What a test reports: the quick metrics, and those that keep every prediction in memory.

    ``calibration_error`` is the expected calibration error over 15 bins (Guo et al.,
    arXiv 1706.04599).
    """
    metrics = quick_metrics(num_classes, multilabel=multilabel)
    if multilabel:
        return metrics | {
            "auroc": MeanMultilabelAUROC(num_classes),
            "average_precision": MeanAveragePrecision(num_classes),
            "exact_match": MultilabelExactMatch(num_classes),
        }
    return metrics | {
        "auroc": MeanAUROC(num_classes),
        "calibration_error": MulticlassCalibrationError(num_classes, n_bins=15),
    }


def collection(metrics: dict[str, Metric], prefix: str) -> MetricCollection:
    """The metrics under names such as ``val/accuracy``."""
    # Each with a state of its own: torchmetrics lets metrics share one if they agree after the
    # first batch, and after a batch without mistakes macro F1 would become the top-5 accuracy.
    return MetricCollection(dict(metrics), prefix=prefix, compute_groups=False)


def confusion_matrix(num_classes: int, *, multilabel: bool) -> Metric:
    """Counts ``[K, K]``, rows the truth; for multi-label ``[K, 2, 2]``."""
    if multilabel:
        return MultilabelConfusionMatrix(num_classes)
    return MulticlassConfusionMatrix(num_classes)


def per_class_accuracy(confusion: Tensor) -> Tensor:
    """The share of each class's images that was found ``[K]``; NaN for a class without images."""
    counts = confusion.double()
    if counts.ndim == 3:  # [K, 2, 2]: truth by prediction for each label
        return counts[:, 1, 1] / counts[:, 1].sum(1)
    return counts.diagonal() / counts.sum(1)
