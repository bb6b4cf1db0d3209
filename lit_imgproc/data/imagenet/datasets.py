"""Images with a class or several labels each, from memory or from files."""

import hashlib
import os
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from lit_imgproc.data.base import DataError, ImageDataset, available_cpus
from lit_imgproc.data.decode import Encoded, read_encoded, read_image
from lit_imgproc.data.names import Names
from lit_imgproc.data.probe import probe
from lit_imgproc.data.transforms import Augment
from lit_imgproc.inputs import InputSpec

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64] | NDArray[np.float32]

SAMPLE = 1000
"""How many images of a split are decoded to check them and to measure mean and deviation."""


class ClassificationDataset(ImageDataset):
    """One split, each item ``{"image": uint8 [C,H,W], "label": int or float32 [K], "id": str}``.

    Args:
        names: What identifies each image: its file relative to the root, or ``train/123``.
        labels: int64 ``[N]`` class indices, or float32 ``[N,K]`` zeros and ones.
        class_names: The names of the K classes.
        spec: What evaluation does to an image, and training where the augmentation does not crop.
        augment: What training does beside.
    """

    def __init__(
        self,
        names: Sequence[str],
        labels: Labels,
        class_names: Sequence[str],
        spec: InputSpec,
        augment: Augment | None = None,
    ) -> None:
        self.names = names if isinstance(names, Names) else Names(names)
        self.labels = labels
        self.class_names = list(class_names)
        self.spec = spec
        self.augment = augment

    @abstractmethod
    def image(self, index: int) -> Pixels:
        """The image as it is stored, uint8 ``[H,W,C]``."""

    def stored(self, index: int) -> Pixels | Encoded:
        """The image as it is stored, not decoded where that can wait until it is cropped."""
        return self.image(index)

    @cached_property
    @abstractmethod
    def statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel's ``[0,1]`` pixels."""

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        sample = self.fetch(index)
        pixels = sample["image"]
        if not (pixels.flags.c_contiguous and pixels.flags.writeable):
            pixels = pixels.copy()
        return {**sample, "image": torch.from_numpy(pixels).permute(2, 0, 1)}

    def fetch(self, index: int | tuple[int, int]) -> dict[str, Any]:
        """An item with its image as an array ``[H,W,C]``, which is the fastest to make a batch of.

        The array may be a part of what the data set holds: it is to be copied, not written to.
        """
        if isinstance(index, tuple):
            index, sample_seed = index
            image = self._augmented(index, sample_seed)
        else:
            image = self.image(index)
        label = self.labels[index]
        return {
            "image": self.spec(image),
            "label": int(label) if label.ndim == 0 else torch.from_numpy(label),
            "id": self.names[index],
        }

    def _augmented(self, index: int, sample_seed: int) -> Pixels:
        if self.augment is None:
            return self.image(index)
        if self.augment.resizes:
            return self.augment(self.stored(index), sample_seed)
        return self.augment(self.spec(self.image(index)), sample_seed)


class ArrayDataset(ClassificationDataset):
    """Images that are all in memory.

    Args:
        images: uint8 ``[N,H,W,C]``.
        names: See :class:`ClassificationDataset`, as for the others.
    """

    def __init__(
        self,
        images: Pixels,
        names: Sequence[str],
        labels: Labels,
        class_names: Sequence[str],
        spec: InputSpec,
        augment: Augment | None = None,
    ) -> None:
        super().__init__(names, labels, class_names, spec, augment)
        self.images = images

    def size(self, index: int) -> tuple[int, ...]:
        """Height and width of the image."""
        return tuple(self.images.shape[1:3])

    def image(self, index: int) -> Pixels:
        """The image itself, not a copy."""
        pixels: Pixels = self.images[index]
        return pixels

    @cached_property
    def statistics(self) -> tuple[list[float], list[float]]:
        """Over all pixels, at the size they are stored in."""
        count, height, width, channels = self.images.shape
        return pixel_statistics([self.images.reshape(count * height, width, channels)])

    def update_digest(self, digest: "hashlib._Hash") -> None:
        """Feed the class names, names, labels and pixels to a digest."""
        digest.update("\0".join([*self.class_names, *self.names]).encode())
        digest.update(self.labels.tobytes())
        digest.update(self.images.tobytes())


class FileDataset(ClassificationDataset):
    """Images that are decoded when they are asked for.

    Args:
        root: The folder that ``names`` are relative to.
        names: See :class:`ClassificationDataset`, as for the others.
    """

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        labels: Labels,
        class_names: Sequence[str],
        spec: InputSpec,
        augment: Augment | None = None,
    ) -> None:
        super().__init__(names, labels, class_names, spec, augment)
        self.root = root

    def size(self, index: int) -> tuple[int, ...]:
        """Height and width of the upright image, from the file's header."""
        found = probe(self._path(index))
        if isinstance(found, str):
            raise DataError(found)
        return found.height, found.width

    def image(self, index: int) -> Pixels:
        """The decoded file."""
        return read_image(self._path(index), self.spec.channels)

    def stored(self, index: int) -> Pixels | Encoded:
        """The file's bytes."""
        return read_encoded(self._path(index), self.spec.channels)

    @cached_property
    def statistics(self) -> tuple[list[float], list[float]]:
        """Over up to 1,000 images, evenly spaced in the split, as evaluation sees them.

        Raises:
            DataError: With one line for each of these images that cannot be read.
        """
        count = min(len(self), SAMPLE)
        chosen = np.linspace(0, len(self) - 1, count).round().astype(int).tolist()
        problems: list[str] = []

        def load(index: int) -> Pixels | None:
            try:
                return self.spec(self.image(index))
            except DataError as error:
                problems.append(str(error))
                return None

        with ThreadPoolExecutor(available_cpus(limit=8)) as pool:  # decoding releases the GIL
            result = pixel_statistics(
                image for image in pool.map(load, chosen) if image is not None
            )
        if problems:
            raise DataError("\n".join(sorted(problems)))
        return result

    def update_digest(self, digest: "hashlib._Hash") -> None:
        """Feed the class names and each file's name, label and bytes to a digest."""
        digest.update("\0".join(self.class_names).encode())
        for index, (name, label) in enumerate(zip(self.names, self.labels, strict=True)):
            digest.update(f"\0{name}\0".encode())
            digest.update(label.tobytes())
            digest.update(self._digest(index))

    def _digest(self, index: int) -> bytes:
        """SHA-256 of a file's bytes."""
        with open(self._path(index), "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()

    def _path(self, index: int) -> str:
        return os.path.join(self.root, self.names[index])  # a Path takes ten times as long


def pixel_statistics(images: Iterable[Pixels]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel over all pixels of uint8 ``[H,W,C]`` images.

    Returns:
        Two lists with a value a channel, for pixels in ``[0,1]``.
    """
    count, total, squares = 0, np.zeros(1), np.zeros(1)
    for image in images:
        pixels = image.shape[0] * image.shape[1]
        mean, deviation = (value.ravel() / 255 for value in cv2.meanStdDev(image))
        count += pixels
        total = total + pixels * mean
        squares = squares + pixels * (deviation**2 + mean**2)
    mean = total / max(count, 1)
    return mean.tolist(), np.sqrt(np.maximum(squares / max(count, 1) - mean**2, 0)).tolist()
