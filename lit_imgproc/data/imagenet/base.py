"""What the classification datamodules share."""

from collections.abc import Sequence
from typing import Any, Literal, cast

import numpy as np
import torch

from lit_imgproc.data.base import BatchSize, ImageDataModule, NumWorkers, Split
from lit_imgproc.data.imagenet.datasets import ClassificationDataset
from lit_imgproc.data.on_device import OnDevice, check_preset
from lit_imgproc.data.readable import Readable, collate
from lit_imgproc.data.transforms import Augment, AugmentChoice


class ClassificationData(ImageDataModule):
    """What the classification datamodules share: their facts and their training images.

    Args:
        augment: ``{"train": choice}`` with a preset's name or a list of albumentations transforms;
            ``None`` augments nothing. See :mod:`lit_imgproc.data.transforms`.
        cache: ``device`` keeps all images on the device and makes batches there; see
            :class:`~lit_imgproc.data.on_device.OnDevice`. What else there is, is for the subclass.
        batch_size: See :class:`~lit_imgproc.data.base.ImageDataModule`, as for the others.

    Raises:
        DataError: Batches of this augmentation cannot be made on the device.
    """

    def __init__(
        self,
        *,
        augment: AugmentChoice,
        cache: Literal["jpeg", "raw", "memory", "device"] | None,
        batch_size: BatchSize,
        num_workers: NumWorkers,
        seed: int,
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers, seed=seed)
        self.augment = augment or {"train": "none"}
        self.cache = cache
        self._on_device: dict[tuple[Split, torch.device], OnDevice] = {}
        if cache == "device":
            check_preset(self.augment["train"])

    def batch(self, split: Split, indices: Sequence[int]) -> dict[str, Any]:
        """Some images of a split as evaluation sees them, in main memory.

        Raises:
            DataError: One of them cannot be read, or none where they are to be skipped.
        """
        if self.cache != "device":
            return super().batch(split, indices)
        # Of the images that the device was given, which were all read.
        return cast(dict[str, Any], collate(super()._readable(split).__getitems__(indices)))

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

    def _readable(self, split: Split) -> Readable:
        if self.cache != "device":
            return super()._readable(split)
        device = torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
        if (split, device) not in self._on_device:
            dataset = self.dataset(split)
            assert isinstance(dataset, ClassificationDataset)
            preset = self.augment["train"] if split == "train" else "none"
            self._on_device[split, device] = OnDevice(dataset, str(preset), device)
        return self._on_device[split, device]

    def _loader_settings(self) -> dict[str, Any]:
        settings = super()._loader_settings()
        if self.cache == "device":  # batches come whole, and workers could only carry them back
            settings |= {"collate_fn": as_it_is, "num_workers": 0, "persistent_workers": False}
            settings |= {"pin_memory": False, "worker_init_fn": None}
        return settings


def as_it_is(batch: dict[str, Any]) -> dict[str, Any]:
    """Collate nothing."""
    return batch
