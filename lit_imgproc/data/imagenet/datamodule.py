"""Classification data: one's own folders, and the small sets that everybody knows."""

import os
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Gt, Le, Lt
from numpy.typing import NDArray

from lit_imgproc.data import probe
from lit_imgproc.data.base import (
    BatchSize,
    DataError,
    ImageDataset,
    NumWorkers,
    Progress,
    Split,
)
from lit_imgproc.data.cache import Cache, Form, load
from lit_imgproc.data.imagenet import toy
from lit_imgproc.data.imagenet.base import ClassificationData
from lit_imgproc.data.imagenet.cached import CachedDataset, Copies
from lit_imgproc.data.imagenet.datasets import ArrayDataset, FileDataset
from lit_imgproc.data.imagenet.folder import Listing, list_images
from lit_imgproc.data.imagenet.known import (
    CIFAR_CLASSES,
    FASHION_CLASSES,
    Arrays,
    read_cifar10,
    read_digits,
    read_idx_set,
)
from lit_imgproc.data.names import Names
from lit_imgproc.data.readable import OnError
from lit_imgproc.data.splits import held_out
from lit_imgproc.data.transforms import Augment, AugmentChoice
from lit_imgproc.inputs import InputSpec, Interpolation, Resize

SPLITS: tuple[Split, ...] = ("train", "val", "test")
Fraction = Annotated[float, Gt(0), Lt(1)]
Side = Annotated[int, Gt(0)]


class ImageFolder(ClassificationData):
    """One's own images, a class a folder or listed in a CSV file.

    The layouts, found by looking:

    - ``root/train/<class>/…``, ``root/test/<class>/…`` and, if there is one, ``root/val``
      (``valid``, ``validation``). Without it validation images are held out of the training
      images; without ``test`` the validation images are the test images, as with ImageNet.
    - ``root/<class>/…``: validation and test images are held out.
    - ``index``: a CSV file in ``root`` with the columns ``path`` (relative to ``root``), ``label``
      (several are separated by ``|``: the task is then multi-label) and, if it likes, ``split``.

    What is held out is the same share of every class and always the same images, whatever the
    seed. Frames of one object must not be parted: give such data a ``split``.

    Mean and deviation are of up to 1,000 training images, evenly spaced, as evaluation sees them.
    As many images of each split are decoded at the start, and the first and last bytes of all
    files are looked at, so that broken files show.

    A ``cache`` saves decoding. ``jpeg`` and ``raw`` are copies on disk of the size that evaluation
    needs, which ``lit-imgproc data prepare`` makes once for everybody; see
    :mod:`lit_imgproc.data.cache` for what they hold. ``memory`` keeps what ``raw`` does in memory,
    once a rank; ``device`` has all images on the device, where it also makes the batches. What
    ``random_resized_crop`` cuts out is then a part of the smaller image, not of the original.

    Example:
        >>> data = ImageFolder(root="data/fruits", image_size=112, augment={"train": "flip"})
        >>> data.facts()["class_names"]
        ['apple', 'cherry', 'tomato']

    Args:
        root: The folder of the data set.
        index: A CSV file in ``root`` to be read instead of looking at folders.
        image_size: Height and width of the images that networks see, in pixels.
        resize: See :class:`~lit_imgproc.inputs.InputSpec`, as for the next two.
        crop_fraction: Share of the scaled image's side that ``resize: crop`` keeps.
        interpolation: How images are scaled in evaluation.
        in_channels: 3 for RGB, 1 for grey.
        images_per_class: Train on so many images of each class only, drawn by ``seed``.
        val_fraction: Share of the images to hold out for validation where that is not given.
        test_fraction: Share of the images to hold out for testing where that is not given.
        augment: What training does, for example ``{"train": "random_resized_crop"}``.
        cache: Where images are taken from, if not from their files.
        cache_dir: The folder of caches. ``None`` takes ``.lit_imgproc`` in ``root``, or where that
            cannot be written to ``~/.cache/lit_imgproc``. All data sets may share one.
        batch_size: Images in a batch of one process.
        num_workers: Processes that load images; ``None`` goes by the CPUs of this rank.
        on_error: What happens when an image can no longer be read in mid-run: ``stop``, or
            ``skip`` it, with a warning and the metric ``data/skipped``. In training another image
            then takes its place; an evaluation is of the images that can be read.
        seed: Seed of the order of the images and of their augmentations.

    Raises:
        DataError: When it is prepared, with one line for everything that is wrong.
    """

    def __init__(
        self,
        *,
        root: str,
        index: str | None = None,
        image_size: Side = 224,
        resize: Resize = "crop",
        crop_fraction: Annotated[float, Gt(0), Le(1)] = 0.875,
        interpolation: Interpolation = "area",
        in_channels: Literal[1, 3] = 3,
        images_per_class: Annotated[int, Gt(0)] | None = None,
        val_fraction: Fraction = 0.15,
        test_fraction: Fraction = 0.15,
        augment: AugmentChoice = None,
        cache: Literal["jpeg", "raw", "memory", "device"] | None = None,
        cache_dir: str | None = None,
        batch_size: BatchSize = 32,
        num_workers: NumWorkers = None,
        on_error: OnError = "stop",
        seed: int = 0,
    ) -> None:
        super().__init__(
            augment=augment, cache=cache, batch_size=batch_size, num_workers=num_workers, seed=seed
        )
        self.on_error = on_error
        self.root = Path(root)
        self.cache_dir = cache_dir
        self.index = index
        self.images_per_class = images_per_class
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        size = (image_size, image_size)
        self.spec = InputSpec(in_channels, size, resize, crop_fraction, interpolation)

    def input_spec(self) -> InputSpec:
        """What evaluation does to an image."""
        return self.spec

    def read(self) -> dict[Split, ImageDataset]:
        """List the files, look at each, and decode a sample of each split."""
        listing = self._listing()
        form = Form("jpeg" if self.cache == "jpeg" else "raw", self.spec)
        names, copies = listing.names(), None
        if self.cache in ("jpeg", "raw"):
            copies = Copies(self.root, names, self._cache(names).open(), form)
        problems = probe.problems(self.root, names) if copies is None else copies.problems()
        listing.leave_out(problems)
        if self.images_per_class is not None:
            listing.draw(self.images_per_class, self.seed)
        if self.cache in ("memory", "device") and not listing.problems:
            names = listing.names()
            copies = Copies(self.root, names, load(self.root, names, form), form)
            problems += copies.problems()
            listing.leave_out(copies.problems())
        datasets: dict[Split, ImageDataset] = {}
        while not listing.problems:
            split = {split: self._split(listing, split, copies) for split in SPLITS}
            unreadable = [problem for dataset in split.values() for problem in _unreadable(dataset)]
            problems += unreadable
            listing.leave_out(unreadable)
            if not unreadable:
                datasets |= split
                break
        self.settle(list(dict.fromkeys(problems)))
        listing.raise_problems()
        return datasets

    def prepare_cache(self, progress: Progress) -> Path:
        """Make the cache on disk, or what is not there or damaged of it.

        Args:
            progress: Shows how far it is.

        Returns:
            The folder of the cache.

        Raises:
            DataError: ``cache`` is none on disk, it cannot be written, or files cannot be read.
        """
        if self.cache not in ("jpeg", "raw"):
            raise DataError(
                f"data.cache is {self.cache or 'null'}, which needs no preparation: "
                "set it to jpeg or raw."
            )
        names = self._listing().names()
        cache = self._cache(names)
        folder = cache.prepare(progress)
        self.settle(Copies(self.root, names, cache.open(), cache.form).problems())
        return folder

    def verify_cache(self, progress: Progress) -> list[str]:
        """Read all of the cache on disk, if there is to be one; a sentence a damaged part."""
        if self.cache not in ("jpeg", "raw"):
            return []
        return self._cache(self._listing().names()).verify(progress)

    def _listing(self) -> Listing:
        return list_images(self.root, self.index, self.val_fraction, self.test_fraction)

    def _cache(self, names: Sequence[str]) -> Cache:
        if self.cache_dir is not None:
            folders = [Path(self.cache_dir)]
        else:
            own = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
            folders = [self.root / ".lit_imgproc", own / "lit_imgproc" / "data"]
        form = Form("jpeg" if self.cache == "jpeg" else "raw", self.spec)
        return Cache(self.root, names, form, folders)

    def _split(self, listing: Listing, split: Split, copies: Copies | None) -> FileDataset:
        names = Names(name for name, _ in listing.files[split])
        augment = self._augmentation() if split == "train" else None
        labels, classes = listing.encode(split), listing.class_names
        if copies is None:
            return FileDataset(self.root, names, labels, classes, self.spec, augment)
        pack = copies.of(names)
        return CachedDataset(
            self.root, names, labels, classes, self.spec, augment, pack, copies.form
        )

    @classmethod
    def write_toy(cls, root: Path) -> None:
        """Three classes of drawn shapes in ``train``, ``val`` and ``test``, JPEG and PNG."""
        toy.write_folder(root)


def _unreadable(dataset: FileDataset) -> list[str]:
    """What is wrong with the images that mean and deviation are of."""
    try:
        _ = dataset.statistics
    except DataError as error:
        return str(error).splitlines()
    return []


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
