"""The metrics of a classifier, accumulated over a whole split and over all ranks."""

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
    arXiv 1706.04599); ``auroc`` is one against the rest, averaged over classes.
    """
    metrics = quick_metrics(num_classes, multilabel=multilabel)
    if multilabel:
        return metrics | {
            "auroc": MultilabelAUROC(num_classes),
            "average_precision": MultilabelAveragePrecision(num_classes),
            "exact_match": MultilabelExactMatch(num_classes),
        }
    return metrics | {
        "auroc": MulticlassAUROC(num_classes),
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
