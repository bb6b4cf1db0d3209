"""What pairs of one scene and unpaired pictures of two domains share."""

from abc import abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import numpy as np
import torch
from annotated_types import Gt, Lt
from numpy.typing import NDArray

from lit_imgproc.data.base import (
    BatchSize,
    ImageDataModule,
    ImageDataset,
    NumWorkers,
    Split,
    available_cpus,
    raise_all,
)
from lit_imgproc.data.errors import DataError
from lit_imgproc.data.pairs.files import SPLITS
from lit_imgproc.data.pairs.framing import Framing
from lit_imgproc.data.readable import OnError
from lit_imgproc.data.transforms import AugmentChoice
from lit_imgproc.errors import UserError
from lit_imgproc.inputs import InputSpec

T = TypeVar("T")

Fraction = Annotated[float, Gt(0), Lt(1)]
Side = Annotated[int, Gt(0)]

SAMPLE = 1000
"""So many files of a split are decoded at the start, to see whether they can be."""
MIDDLE = 0.5
"""Mean and deviation of what networks here see: values from -1 to 1."""


class TwoPictures(ImageDataset):
    """Items ``{"image": source, "target": target, "id": str, "geometry": dict}``.

    Both are uint8 ``[C,H,W]`` of one height and width.
    """

    class_names = ()

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        sample = self.fetch(index)
        return {**sample, "image": as_tensor(sample["image"])}

    @abstractmethod
    def fetch(self, index: int | tuple[int, int]) -> dict[str, Any]:
        """An item with its ``image`` as an array ``[H,W,C]``, which is copied into a batch."""


class PairData(ImageDataModule, Generic[T]):
    """A source and a target of each sample.

    Args:
        root: The folder of the data set.
        framing: What is seen of a picture.
        in_channels: Of the source.
        out_channels: Of the target.
        augment: What training does beside; see :mod:`lit_imgproc.data.transforms`.
        batch_size: See :class:`~lit_imgproc.data.base.ImageDataModule`, as for the others.

    Raises:
        UserError: ``load_size`` is less than ``image_size``, or there is nothing to be scaled.
    """

    def __init__(
        self,
        *,
        root: str,
        framing: Framing,
        in_channels: int,
        out_channels: int,
        augment: AugmentChoice,
        batch_size: BatchSize,
        num_workers: NumWorkers,
        on_error: OnError,
        seed: int,
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers, seed=seed)
        self.root, self.framing, self.on_error = Path(root), framing, on_error
        self.in_channels, self.out_channels = in_channels, out_channels
        self.augment = augment or {"train": "none"}
        if framing.load_size is not None:
            if framing.resize == "none":
                raise UserError("data.load_size scales, which data.resize=none does not: leave it")
            if framing.load_size < framing.image_size:
                raise UserError(
                    f"data.load_size={framing.load_size} is less than "
                    f"data.image_size={framing.image_size}, which is cut out of it"
                )

    @abstractmethod
    def find(self) -> tuple[dict[Split, T], list[str]]:
        """What each split is made of, all headers looked at.

        Returns:
            The test split is that of validation where there is none; and a sentence for each file
            that cannot be used.

        Raises:
            DataError: There is nothing to train on.
        """

    @abstractmethod
    def decoded(self, files: T) -> tuple[T, list[str]]:
        """Decode some files of a split: what is left of it, and a sentence for each that fails."""

    @abstractmethod
    def make(self, split: Split, files: T) -> ImageDataset:
        """The data set of a split."""

    def input_spec(self) -> InputSpec:
        """What evaluation does to a source."""
        return self.framing.spec(self.in_channels)

    def facts(self) -> dict[str, Any]:
        """Channels, size, and the mean and deviation that make [0, 1] into [-1, 1]."""
        spec = self.input_spec()
        return {
            "class_names": [],
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "mean": [MIDDLE] * self.in_channels,
            "std": [MIDDLE] * self.in_channels,
            "value_range": list(spec.value_range),
            "image_size": list(spec.size),
        }

    def read(self) -> dict[Split, ImageDataset]:
        """Find the files, look at each, and decode some of each split."""
        found, problems = self.find()
        datasets: dict[Split, ImageDataset] = {}
        for split in SPLITS:
            if split == "test" and found["test"] is found["val"]:
                datasets["test"] = datasets["val"]
                continue
            left, unreadable = self.decoded(found[split])
            problems += unreadable
            datasets[split] = self.make(split, left)
        self.settle(list(dict.fromkeys(problems)))
        raise_all(
            [
                f"{self.root}: no {split} images; give some, or more images to hold out of."
                for split, dataset in datasets.items()
                if not len(dataset)
            ]
        )
        return datasets


def decode(read: Callable[[T], Any], files: list[T]) -> tuple[list[T], list[str]]:
    """Read up to :data:`SAMPLE` files, evenly spaced.

    Returns:
        The files without those that cannot be read, and a sentence for each of these.
    """

    def fails(number: int) -> str | None:
        try:
            read(files[number])
        except DataError as error:
            return str(error)
        return None

    count = min(len(files), SAMPLE)
    chosen = np.linspace(0, len(files) - 1, count).round().astype(int).tolist()
    with ThreadPoolExecutor(available_cpus(limit=8)) as pool:  # decoding releases the GIL
        found = dict(zip(chosen, pool.map(fails, chosen), strict=True))
    kept = [file for number, file in enumerate(files) if found.get(number) is None]
    return kept, [problem for problem in found.values() if problem is not None]


def as_tensor(pixels: NDArray[np.uint8]) -> torch.Tensor:
    """``[H,W,C]`` as ``[C,H,W]``."""
    return torch.from_numpy(np.require(pixels, requirements=["C", "W"])).permute(2, 0, 1)
