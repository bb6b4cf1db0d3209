"""Classification data: the small sets that everybody knows, beside one's own folders."""

from abc import abstractmethod
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from lit_imgproc.data.base import BatchSize, ImageDataset, NumWorkers, Split
from lit_imgproc.data.errors import DataError
from lit_imgproc.data.imagenet import toy
from lit_imgproc.data.imagenet.base import ClassificationData
from lit_imgproc.data.imagenet.datasets import ArrayDataset
from lit_imgproc.data.imagenet.image_folder import Fraction, Side
from lit_imgproc.data.imagenet.image_folder import ImageFolder as ImageFolder
from lit_imgproc.data.imagenet.known import (
    CIFAR_CLASSES,
    FASHION_CLASSES,
    Arrays,
    read_cifar10,
    read_digits,
    read_idx_set,
)
from lit_imgproc.data.names import Names
from lit_imgproc.data.splits import held_out
from lit_imgproc.data.transforms import Augment, AugmentChoice
from lit_imgproc.inputs import InputSpec


class KnownSet(ClassificationData):
    """A known data set whose images fit into memory.

    The official test images are the test images; validation images are held out of the training
    images, the same share of every class and always the same ones, whatever the seed. Files that
    are not in ``root`` are downloaded there and checked, under a file lock.

    Args:
        root: The folder of its files, for example that of a torchvision data set.
        image_size: Side that images are scaled to, in pixels; ``None`` leaves them as they are.
        val_fraction: Share of the training images to hold out; ``None`` takes the usual one.
        augment: What training does, for example ``{"train": "crop_flip"}``.
        cache: Where the images are kept; on the ``device`` batches are made there, too.
        batch_size: Images in a batch of one process.
        num_workers: Processes that load images; ``None`` goes by the CPUs of this rank.
        seed: Seed of the order of the images and of their augmentations.

    Raises:
        DataError: When it is prepared and its files are missing or damaged.
    """

    usual_root: ClassVar[str]
    usual_val_fraction: ClassVar[float]
    class_names: ClassVar[tuple[str, ...]]
    image_shape: ClassVar[tuple[int, int, int]]

    def __init__(
        self,
        *,
        root: str | None = None,
        image_size: Side | None = None,
        val_fraction: Fraction | None = None,
        augment: AugmentChoice = None,
        cache: Literal["memory", "device"] = "memory",
        batch_size: BatchSize = 32,
        num_workers: NumWorkers = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            augment=augment, cache=cache, batch_size=batch_size, num_workers=num_workers, seed=seed
        )
        self.root = self.usual_root if root is None else root
        self.val_fraction = self.usual_val_fraction if val_fraction is None else val_fraction
        height, width, channels = self.image_shape
        size = (height, width) if image_size is None else (image_size, image_size)
        self.spec = InputSpec(channels, size, resize="squash", interpolation="bilinear")

    @abstractmethod
    def read_arrays(self) -> tuple[Arrays, Arrays]:
        """The training images, those of validation among them, and the test images."""

    def input_spec(self) -> InputSpec:
        """What evaluation does to an image."""
        return self.spec

    def read(self) -> dict[Split, ImageDataset]:
        """Read all images and hold out those of validation."""
        train, test = self.read_arrays()
        for images, labels in (train, test):
            classes = len(self.class_names)
            if not len(labels) or images.shape[1:] != self.image_shape or labels.max() >= classes:
                raise DataError(
                    f"{self.root}: not {type(self).__name__}: its images have shape "
                    f"{list(images.shape)}, its labels are {sorted(set(labels.tolist()))}."
                )
        names = [f"train/{number}" for number in range(len(train.labels))]
        out = held_out(names, train.labels.tolist(), self.val_fraction)
        everything = np.arange(len(test.labels))
        return {
            "train": self._part(train, "train", np.flatnonzero(~out), self._augmentation()),
            "val": self._part(train, "train", np.flatnonzero(out), None),
            "test": self._part(test, "test", everything, None),
        }

    def _part(
        self, arrays: Arrays, file: str, numbers: NDArray[np.intp], augment: Augment | None
    ) -> ArrayDataset:
        names = Names(f"{file}/{number}" for number in numbers)
        images, labels = arrays.images[numbers], arrays.labels[numbers]
        return ArrayDataset(images, names, labels, self.class_names, self.spec, augment)


class FashionMNIST(KnownSet):
    """Fashion-MNIST: 60,000 and 10,000 grey images of clothes, 28x28, 10 classes.

    arXiv:1708.07747. The idx files lie in ``root``, ``root/raw`` or torchvision's
    ``root/FashionMNIST/raw``, packed or not. 5,000 training images are held out.

    Example:
        >>> data = FashionMNIST(batch_size=128, augment={"train": "crop_flip"})
        >>> data.splits()
        {'train': 55000, 'val': 5000, 'test': 10000}
    """

    usual_root = "data/fashion_mnist"
    usual_val_fraction = 1 / 12
    image_shape = (28, 28, 1)
    class_names = FASHION_CLASSES

    def read_arrays(self) -> tuple[Arrays, Arrays]:
        """The official training and test images."""
        return read_idx_set(Path(self.root), "FashionMNIST")

    @classmethod
    def write_toy(cls, root: Path) -> None:
        """Four small idx files of drawn rings, a radius a class."""
        toy.write_idx_set(root)


class MNIST(KnownSet):
    """MNIST: 60,000 and 10,000 grey handwritten digits, 28x28, 10 classes.

    LeCun et al., 1998. The idx files lie in ``root``, ``root/raw`` or torchvision's
    ``root/MNIST/raw``, packed or not. About 5,000 training images are held out.

    Example:
        >>> data = MNIST(augment={"train": "shift"})
        >>> data.input_spec().size
        (28, 28)
    """

    usual_root = "data/mnist"
    usual_val_fraction = 1 / 12
    image_shape = (28, 28, 1)
    class_names = tuple("0123456789")

    def read_arrays(self) -> tuple[Arrays, Arrays]:
        """The official training and test images."""
        return read_idx_set(Path(self.root), "MNIST")

    @classmethod
    def write_toy(cls, root: Path) -> None:
        """Four small idx files of drawn rings, a radius a class."""
        toy.write_idx_set(root)


class CIFAR10(KnownSet):
    """CIFAR-10: 50,000 and 10,000 colour photographs, 32x32, 10 classes.

    Krizhevsky, 2009. The Python batches lie in ``root`` or ``root/cifar-10-batches-py``. 5,000
    training images are held out, as in arXiv:1512.03385.

    Example:
        >>> data = CIFAR10(root="data/cifar10", augment={"train": "crop_flip"})
        >>> data.input_spec().channels
        3
    """

    usual_root = "data/cifar10"
    usual_val_fraction = 0.1
    image_shape = (32, 32, 3)
    class_names = CIFAR_CLASSES

    def read_arrays(self) -> tuple[Arrays, Arrays]:
        """The official training and test images."""
        return read_cifar10(Path(self.root))

    @classmethod
    def write_toy(cls, root: Path) -> None:
        """Six small batches of drawn rings, a radius a class."""
        toy.write_cifar10(root)


class Digits(KnownSet):
    """scikit-learn's digits: 1,797 grey handwritten digits, 8x8, 10 classes, no download.

    Optical recognition of handwritten digits, UCI, 1998. Grey levels 0..16 become 0..255. 15 % of
    the images are for testing and 15 % for validation. ``root`` is only needed for another file of
    the same format, ``digits.csv.gz``.

    Example:
        >>> data = Digits(image_size=32)
        >>> data.facts()["image_size"]
        [32, 32]
    """

    usual_root = ""
    usual_val_fraction = 0.15 / 0.85
    image_shape = (8, 8, 1)
    class_names = tuple("0123456789")

    def read_arrays(self) -> tuple[Arrays, Arrays]:
        """85 % and 15 % of every class; there is no official split of this copy."""
        digits = read_digits(Path(self.root) if self.root else None)
        names = [str(number) for number in range(len(digits.labels))]
        out = held_out(names, digits.labels.tolist(), 0.15)
        return (
            Arrays(digits.images[~out], digits.labels[~out]),
            Arrays(digits.images[out], digits.labels[out]),
        )

    @classmethod
    def write_toy(cls, root: Path) -> None:
        """The first 300 digits in the same format."""
        toy.write_digits(root)
