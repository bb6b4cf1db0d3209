"""The MedMNIST archives, and archives of one's own of the same form."""

from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from lit_imgproc.data.base import BatchSize, ImageDataset, NumWorkers, Split
from lit_imgproc.data.imagenet.base import ClassificationData
from lit_imgproc.data.imagenet.datasets import ArrayDataset, pixel_statistics
from lit_imgproc.data.medical import toy
from lit_imgproc.data.medical.archives import CLASSES, Part, read_archive
from lit_imgproc.data.medical.patches import VolumeAugment, VolumeAugmentChoice, augment_patch
from lit_imgproc.data.names import Names
from lit_imgproc.data.transforms import AugmentChoice
from lit_imgproc.inputs import InputSpec


class MedMNIST(ClassificationData):
    """A two-dimensional set of MedMNIST v2, or an archive of one's own of the same form.

    Yang et al., arXiv:2110.14795. The archive holds ``train_images``, ``train_labels`` and the
    same for ``val`` and ``test``: the official splits. Images are grey or RGB, of 8 bits. Labels of
    several columns are several labels an image. An archive of one's own may hold ``class_names``.
    It is read into memory.

    Example:
        >>> data = MedMNIST(root="data/medmnist", dataset="pneumoniamnist")
        >>> data.splits()
        {'train': 4708, 'val': 524, 'test': 624}

    Args:
        root: The folder of its archive.
        dataset: Its name, such as ``pathmnist``.
        size: Side of its images: 28, or 64, 128 or 224 of the larger archives.
        augment: What training does, for example ``{"train": "flip"}``.
        cache: ``device`` keeps all images on the device and makes the batches there.
        batch_size: Images in a batch of one process.
        num_workers: Processes that load images; ``None`` goes by the CPUs of this rank.
        seed: Seed of the order of the images and of their augmentations.

    Raises:
        DataError: When it is prepared and the archive is missing (with where to get it) or damaged.
    """

    def __init__(
        self,
        *,
        root: str = "data/medmnist",
        dataset: str,
        size: Literal[28, 64, 128, 224] = 28,
        augment: AugmentChoice = None,
        cache: Literal["device"] | None = None,
        batch_size: BatchSize = 128,
        num_workers: NumWorkers = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            augment=augment, cache=cache, batch_size=batch_size, num_workers=num_workers, seed=seed
        )
        self.root = Path(root)
        self.archive, self.side = dataset, size
        self._spec: InputSpec | None = None

    def input_spec(self) -> InputSpec:
        """What evaluation does to an image: scale it to the archive's size."""
        if self._spec is None:
            self.prepare()
        assert self._spec is not None
        return self._spec

    def read(self) -> dict[Split, ImageDataset]:
        """Read all images."""
        found = read_archive(self.root, self.archive, self.side, "2d")
        _, height, width, channels = found.parts["train"].images.shape
        self._spec = InputSpec(channels, (height, width), "squash", interpolation="bilinear")
        return {
            split: ArrayDataset(
                part.images,
                Names(f"{split}/{number}" for number in part.numbers.tolist()),
                part.labels,
                found.class_names,
                self._spec,
                self._augmentation() if split == "train" else None,
            )
            for split, part in found.parts.items()
        }

    @classmethod
    def write_toy(cls, root: Path) -> None:
        """Small archives of all sets' names: rings, a radius a class."""
        for name, classes in CLASSES["2d"].items():
            toy.write_archive(
                root / f"{name}.npz",
                classes=len(classes),
                channels=3 if name in COLOUR else 1,
                several=name == "chestmnist",
            )


COLOUR = ("pathmnist", "dermamnist", "retinamnist", "bloodmnist")


class ArchivedVolumes(ArrayDataset):
    """Volumes in memory, each ``{"image": uint8 [1,D,H,W], "label": int, "id": str}``.

    Args:
        part: Of the archive.
        names: Of the volumes.
        class_names: In the order of the labels.
        spec: See :class:`MedMNIST3D`.
        choice: What training does to them.
    """

    def __init__(
        self,
        part: Part,
        names: Names,
        class_names: list[str],
        spec: InputSpec,
        choice: VolumeAugment,
    ) -> None:
        super().__init__(part.images, names, part.labels, class_names, spec)
        self.choice = choice

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        sample_seed = None
        if isinstance(index, tuple):
            index, sample_seed = index
        volume = self.images[index][np.newaxis]
        if sample_seed is not None and self.choice != "none":
            random = np.random.default_rng(sample_seed)
            changed, _ = augment_patch(
                volume.astype(np.float32), None, self.choice, random, (0.0, 255.0)
            )
            volume = changed.round().astype(np.uint8)
        label = self.labels[index]
        return {
            "image": torch.from_numpy(np.array(volume)),
            "label": int(label) if label.ndim == 0 else torch.from_numpy(label),
            "id": self.names[index],
        }

    def fetch(self, index: int | tuple[int, int]) -> dict[str, Any]:
        """The item: of volumes there is no faster way to a batch."""
        return self[index]

    @cached_property
    def statistics(self) -> tuple[list[float], list[float]]:
        """Over all voxels."""
        return pixel_statistics([self.images.reshape(len(self.images), -1, 1)])

    def size(self, index: int) -> tuple[int, ...]:
        """Depth, height and width."""
        return tuple(self.images.shape[1:])


class MedMNIST3D(ClassificationData):
    """A three-dimensional set of MedMNIST v2: volumes of 28 or 64 voxels a side, with a class.

    As :class:`MedMNIST`; images are ``[1,D,H,W]``, and a network of three dimensions is needed.

    Example:
        >>> data = MedMNIST3D(root="data/medmnist", dataset="organmnist3d")
        >>> data.facts()["image_size"]
        [28, 28, 28]

    Args:
        root: The folder of its archive.
        dataset: Its name, such as ``organmnist3d``.
        size: Side of its volumes.
        augment: What training does, for example ``{"train": "flip"}``: see
            :data:`~lit_imgproc.data.medical.patches.VolumeAugment`.
        batch_size: Volumes in a batch of one process.
        num_workers: Processes that load volumes; ``None`` goes by the CPUs of this rank.
        seed: Seed of the order of the volumes and of their augmentations.

    Raises:
        DataError: When it is prepared and the archive is missing (with where to get it) or damaged.
    """

    dimensions: ClassVar[Literal[2, 3]] = 3

    def __init__(
        self,
        *,
        root: str = "data/medmnist",
        dataset: str,
        size: Literal[28, 64] = 28,
        augment: VolumeAugmentChoice = None,
        batch_size: BatchSize = 32,
        num_workers: NumWorkers = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            augment=None, cache=None, batch_size=batch_size, num_workers=num_workers, seed=seed
        )
        self.root = Path(root)
        self.archive, self.side = dataset, size
        self.choice: VolumeAugment = augment["train"] if augment else "none"

    def input_spec(self) -> InputSpec:
        """Height and width of the volumes, which stay as they are."""
        return InputSpec(1, (self.side, self.side), "none")

    def facts(self) -> dict[str, Any]:
        """As of images, with depth, height and width as ``image_size``."""
        return super().facts() | {"image_size": list(self.dataset("train").size(0))}

    def read(self) -> dict[Split, ImageDataset]:
        """Read all volumes."""
        found = read_archive(self.root, self.archive, self.side, "3d")
        return {
            split: ArchivedVolumes(
                part,
                Names(f"{split}/{number}" for number in part.numbers.tolist()),
                found.class_names,
                self.input_spec(),
                self.choice if split == "train" else "none",
            )
            for split, part in found.parts.items()
        }

    @classmethod
    def write_toy(cls, root: Path) -> None:
        """Small archives of all sets' names: rings, a radius a class."""
        for name, classes in CLASSES["3d"].items():
            toy.write_archive(root / f"{name}.npz", classes=len(classes), depth=28)
