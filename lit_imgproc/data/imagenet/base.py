"""What the classification datamodules share."""

from typing import Any

import numpy as np

from lit_imgproc.data.base import BatchSize, ImageDataModule, NumWorkers
from lit_imgproc.data.imagenet.datasets import ClassificationDataset
from lit_imgproc.data.transforms import Augment, AugmentChoice


class ClassificationData(ImageDataModule):
    """What the classification datamodules share: their facts and their training images.

    Args:
        augment: ``{"train": choice}`` with a preset's name or a list of albumentations transforms;
            ``None`` augments nothing. See :mod:`lit_imgproc.data.transforms`.
        batch_size: See :class:`~lit_imgproc.data.base.ImageDataModule`, as for the others.
    """

    def __init__(
        self,
        *,
        augment: AugmentChoice,
        batch_size: BatchSize,
        num_workers: NumWorkers,
        seed: int,
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers, seed=seed)
        self.augment = augment or {"train": "none"}

    def facts(self) -> dict[str, Any]:
        """Classes, channels, size, and the statistics of the training images."""
        train, spec = self.dataset("train"), self.input_spec()
        assert isinstance(train, ClassificationDataset)
        mean, std = train.statistics
        multilabel = train.labels.ndim == 2
        facts: dict[str, Any] = {
            "num_classes": len(train.class_names),
            "class_names": train.class_names,
            "in_channels": spec.channels,
            "mean": mean,
            "std": std,
            "value_range": list(spec.value_range),
            "image_size": list(spec.size),
            "multilabel": multilabel,
        }
        if not multilabel:
            counts = np.bincount(train.labels.astype(int), minlength=len(train.class_names))
            facts["class_counts"] = counts.tolist()
        return facts

    def _augmentation(self) -> Augment:
        spec = self.input_spec()
        return Augment(self.augment["train"], spec.size[0], spec.channels)
