"""A small data set that lies on the device as a whole, where its batches are made, too."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from lit_imgproc.data.errors import DataError
from lit_imgproc.data.imagenet.datasets import ClassificationDataset
from lit_imgproc.data.readable import Key, Readable

BATCHED = ("none", "flip", "crop_flip", "shift", "dihedral")
"""The presets that have a form for whole batches."""


def check_preset(choice: str | list[dict[str, Any]]) -> None:
    """Raise a ``DataError`` where an augmentation has no form for whole batches."""
    if choice not in BATCHED:
        raise DataError(
            f"data.cache=device: augment.train={choice!r} has no form for whole batches on a "
            f"device, but {', '.join(BATCHED)} do: choose one of these, or data.cache=memory."
        )


class OnDevice(Readable):
    """The images of a split as evaluation sees them, on a device; whole batches are asked for.

    Augmentation happens there, too, for all images of a batch at once. It is as random as the
    preset of that name, but draws other numbers from a sample's seed.

    Args:
        dataset: What is put on the device, all of it now.
        preset: What training does: one of :data:`BATCHED`.
        device: Where the batches are to be.

    Raises:
        DataError: An image cannot be read.
    """

    def __init__(self, dataset: ClassificationDataset, preset: str, device: torch.device) -> None:
        super().__init__(dataset, "stop")
        self.names, self.preset, self.device = dataset.names, preset, device
        channels, (height, width) = dataset.spec.channels, dataset.spec.size
        images = np.empty((len(dataset), channels, height, width), np.uint8)
        for index, image in enumerate(images):
            image[:] = dataset.spec(dataset.image(index)).transpose(2, 0, 1)
        self.images = torch.from_numpy(images).to(device)
        self.labels = torch.from_numpy(dataset.labels).to(device)

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, keys: Sequence[Key]) -> Any:
        """A batch for indices, or for ``(index, sample_seed)`` in training."""
        numbers = np.array(keys, np.int64)
        indices = numbers if numbers.ndim == 1 else numbers[:, 0]
        chosen = self._move(indices)
        images = self.images[chosen]
        if numbers.ndim == 2:
            images = self._augment(images, numbers[:, 1].astype(np.uint64))
        return {
            "image": images,
            "label": self.labels[chosen],
            "id": [self.names[index] for index in indices.tolist()],
        }

    def _augment(self, images: Tensor, seeds: NDArray[np.uint64]) -> Tensor:
        """Augment ``[B,C,H,W]`` by as many seeds."""
        draw = _Draws(seeds, self._move)
        if self.preset in ("crop_flip", "shift"):
            images = _shifted(images, draw)
        if self.preset in ("flip", "crop_flip", "dihedral"):
            images = _where(draw(2), images.flip(3), images)
        if self.preset == "dihedral":
            images = _where(draw(2), images.flip(2), images)
            images = _where(draw(2), images.transpose(2, 3), images)
        return images

    def _move(self, values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values).to(self.device, non_blocking=True)


class _Draws:
    """Random numbers that are functions of each sample's seed, one after the other.

    They are those of SplitMix64 (Steele, Lea, Flood, 2014), a generator a sample.
    """

    def __init__(self, seeds: NDArray[np.uint64], move: Callable[[NDArray[Any]], Tensor]) -> None:
        self._state, self._move = seeds, move

    def __call__(self, below: int) -> Tensor:
        """An integer from 0 to less than ``below`` for each sample: int64 ``[B]``."""
        self._state = self._state + np.uint64(0x9E3779B97F4A7C15)
        mixed = self._state
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed = (mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)
        return self._move((mixed % np.uint64(below)).astype(np.int64))


def _shifted(images: Tensor, draw: _Draws) -> Tensor:
    """Pad with black by an eighth and cut the size out again at random."""
    count, channels, height, width = images.shape
    pad = round(height / 8)
    padded = functional.pad(images, (pad, pad, pad, pad))
    top, left = draw(2 * pad + 1), draw(2 * pad + 1)
    rows = top[:, None] + torch.arange(height, device=images.device)
    columns = left[:, None] + torch.arange(width, device=images.device)
    places = rows[:, :, None] * (width + 2 * pad) + columns[:, None, :]
    places = places.reshape(count, 1, -1).expand(-1, channels, -1)
    return padded.flatten(2).gather(2, places).reshape(images.shape)


def _where(chosen: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Of each sample, ``one`` where it is chosen."""
    return torch.where(chosen.bool()[:, None, None, None], one, other)
