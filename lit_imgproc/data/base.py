"""What every datamodule here offers, whatever the family."""

import hashlib
import logging
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, cast

import cv2
import lightning.pytorch as pl
from annotated_types import Ge, Gt
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from lit_imgproc.data import workers
from lit_imgproc.data.decode import IMAGE_SUFFIXES, read_image
from lit_imgproc.data.errors import DataError as DataError
from lit_imgproc.data.order import EvalBatches, Loader, OrderedLoader, TrainBatches, TrainLoader
from lit_imgproc.data.readable import OnError, Readable, collate
from lit_imgproc.errors import UserError
from lit_imgproc.inputs import InputSpec

# Workers are the parallelism: threads of OpenCV's own beside them only get in each other's way.
cv2.setNumThreads(0)

Split = Literal["train", "val", "test"]
BatchSize = Annotated[int, Gt(0)] | Literal["auto"]
NumWorkers = Annotated[int, Ge(0)] | None

Progress = Callable[[Iterable[Any], str, int], Iterable[Any]]
"""Passes an iterable on while it shows how far it is: of what, and of how many."""

log = logging.getLogger(__name__)

SHOWN = 50
"""So many problems are told one by one; of the others, their number."""


class ImageDataset(Dataset[dict[str, Any]], ABC):
    """The images of one split.

    ``dataset[index]`` is an image as evaluation sees it; ``dataset[index, sample_seed]`` is
    augmented, as a function of the image and the seed alone.

    Attributes:
        names: What identifies each image: the ``id`` of its sample.
        class_names: The names of the classes; empty where there are none.
        groups: What each image was taken of, a patient or a tile, of which no two splits may have
            a part; ``None`` where that is not known.
    """

    names: Sequence[str]
    class_names: Sequence[str]
    groups: Sequence[str] | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]: ...

    @abstractmethod
    def size(self, index: int) -> tuple[int, ...]:
        """Height and width (of a volume: depth, height, width) of an image as it is stored.

        Raises:
            DataError: The file cannot be read.
        """

    @abstractmethod
    def update_digest(self, digest: "hashlib._Hash") -> None:
        """Feed the names, labels and bytes of all images, in order, to a digest."""


class ImageDataModule(pl.LightningDataModule, ABC):
    """Splits, loaders and facts over :class:`ImageDataset`.

    A subclass reads its files in :meth:`read` and states its :meth:`facts`. Everything that
    Lightning needs follows: ``trainer.fit(module, datamodule)`` works with nothing else.

    Args:
        batch_size: Images in a batch of one process; ``auto``, in a recipe, finds the largest, up
            to 1024, whose training fits into memory.
        num_workers: Processes that load images; ``None`` takes the CPUs that this rank may use,
            less one for training, and at most eight.
        seed: Seed of the order of the training images and of their augmentations.
    """

    suffixes: ClassVar[frozenset[str]] = IMAGE_SUFFIXES
    """What files of this kind of data end with."""

    dimensions: ClassVar[Literal[2, 3]] = 2
    """Of what a network sees: 2 of images and of slices, 3 of volumes."""

    on_error: OnError = "stop"
    """What happens at an image that cannot be read; a subclass that reads lazily lets choose."""

    def __init__(
        self, *, batch_size: BatchSize = 32, num_workers: NumWorkers = None, seed: int = 0
    ) -> None:
        super().__init__()
        if batch_size == "auto":
            raise UserError("batch_size=auto is for recipes, which find a number: give one here")
        self.batch_size = batch_size
        self.num_workers = available_cpus(limit=9) - 1 if num_workers is None else num_workers
        self.seed = seed
        self.left_out: list[str] = []
        """A sentence for each file that is not used since it cannot be."""
        self.repaired: Counter[str] = Counter()
        """How many annotations were repaired, by what was done to them."""
        self._datasets: dict[Split, ImageDataset] | None = None

    @abstractmethod
    def read(self) -> dict[Split, ImageDataset]:
        """Read the data set, after fetching it under a file lock where it can be fetched.

        Raises:
            DataError: With one line for everything that is wrong with the files.
        """

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What modules and networks need to know, as plain values.

        Constructor parameters of the same name that a recipe leaves unset are filled from here.
        """

    @abstractmethod
    def input_spec(self) -> InputSpec:
        """What evaluation does to an image."""

    @classmethod
    @abstractmethod
    def write_toy(cls, root: Path) -> None:
        """Write a small, always equal data set in the real format, for tests and ``--toy``."""

    def open(self, path: Path) -> NDArray[Any]:
        """Read one file as those of this data set are read, before :meth:`input_spec`.

        Returns:
            ``[H,W,C]``, uint8 where the files are of 8 bits.

        Raises:
            DataError: The file cannot be read.
        """
        return read_image(path, self.input_spec().channels)

    def parts(self, path: Path) -> Iterator[tuple[NDArray[Any], dict[str, Any] | None]]:
        """What a network looks at of one file, before :meth:`input_spec`: by default all of it.

        Yields:
            Pixels as of :meth:`open`; and, of a part, the ``geometry`` that says where it lies.

        Raises:
            DataError: The file cannot be read.
        """
        yield self.open(path), None

    def settle(self, problems: Sequence[str]) -> None:
        """Decide about files that cannot be used, as ``on_error`` says.

        Args:
            problems: A sentence a file, which begins with its path.

        Raises:
            DataError: With all of them, where they are not to be skipped.
        """
        if self.on_error == "stop":
            raise_all(problems)
        for problem in problems:
            log.warning("left out: %s", problem)
        self.left_out += problems

    def prepare_cache(self, progress: Progress) -> Path:
        """Make the copies that ``cache`` asks for, or what is not there or damaged of them.

        Args:
            progress: Shows how far it is.

        Returns:
            The folder that they lie in.

        Raises:
            DataError: There are none to be made, or they cannot be.
        """
        raise DataError(f"{type(self).__name__} keeps no copies that could be prepared.")

    def verify_cache(self, progress: Progress) -> list[str]:
        """Read all of the prepared copies, if there are to be any; a sentence a damaged part."""
        return []

    def prepare(self) -> None:
        """Read and check the data set, once; a second call does nothing."""
        if self._datasets is None:
            self._datasets = self.read()
            for repair, count in self.repaired.items():
                log.warning("mended: %s (%d)", repair, count)

    def setup(self, stage: str) -> None:
        """Lightning's hook, the same on every rank."""
        self.prepare()

    def dataset(self, split: Split) -> ImageDataset:
        """The images of one split."""
        self.prepare()
        assert self._datasets is not None
        return self._datasets[split]

    def batch(self, split: Split, indices: Sequence[int]) -> dict[str, Any]:
        """Some images of a split as evaluation sees them, without those that are skipped.

        Raises:
            DataError: One of them cannot be read, or none where they are to be skipped.
        """
        found = collate(self._readable(split).__getitems__(indices))
        if isinstance(found, DataError):
            raise found
        return cast(dict[str, Any], found)

    def splits(self) -> dict[Split, int]:
        """The number of images in each split."""
        self.prepare()
        assert self._datasets is not None
        return {split: len(dataset) for split, dataset in self._datasets.items()}

    def fingerprint(self) -> str:
        """SHA-256 over the names, labels and bytes of everything that is used, as hex digits.

        It does not depend on where the files lie nor on what is done to the pixels.
        """
        digest = hashlib.sha256()
        for split in self.splits():
            digest.update(f"{split}\0".encode())
            self.dataset(split).update_digest(digest)
        return digest.hexdigest()

    def steps_per_epoch(self, world_size: int = 1) -> int:
        """Training batches that each of ``world_size`` processes sees in an epoch."""
        return len(self._train_batches(rank=0, world_size=world_size))

    def training_order(self, epoch: int) -> Iterator[tuple[int, int]]:
        """The images of an epoch of one process: pairs for :class:`ImageDataset`, in order."""
        batches = self._train_batches(rank=0, world_size=1)
        batches.set_epoch(epoch)
        for batch in batches:
            yield from batch

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled and augmented; its position is part of Lightning's checkpoints."""
        if getattr(self.trainer, "overfit_batches", 0) > 0:
            return self._eval_loader("train")  # the same images in every epoch
        batches = self._train_batches(*self._rank())
        dataset = self._readable("train")
        return TrainLoader(dataset, batch_sampler=batches, **self._loader_settings())

    def val_dataloader(self) -> DataLoader[Any]:
        """Every validation image once over all ranks."""
        return self._eval_loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Every test image once over all ranks."""
        return self._eval_loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """The test images, shared out as Lightning's own sampler would but without padding."""
        # Lightning rebuilds this loader to track indices, which it can do for plain samplers only.
        rank, world_size = self._rank()
        dataset = self._readable("test")
        return Loader(
            dataset,
            batch_size=self.batch_size,
            sampler=range(rank, len(dataset), world_size),
            **self._loader_settings(),
        )

    def on_exception(self, exception: BaseException) -> None:
        """End the workers of training; Lightning ends those of the loop that failed alone."""
        loader = getattr(self.trainer, "train_dataloader", None)
        if isinstance(loader, Loader):
            workers.end(loader)

    def _train_batches(self, rank: int, world_size: int) -> TrainBatches:
        size = len(self.dataset("train"))
        return TrainBatches(size, self.batch_size, self.seed, rank, world_size)

    def _eval_loader(self, split: Split) -> DataLoader[Any]:
        dataset = self._readable(split)
        batches = EvalBatches(len(dataset), self.batch_size, *self._rank())
        return OrderedLoader(dataset, batch_sampler=batches, **self._loader_settings())

    def _readable(self, split: Split) -> Readable:
        return Readable(self.dataset(split), self.on_error)

    def _rank(self) -> tuple[int, int]:
        """This process and the number of processes among those that share the data."""
        # The strategy knows: under tensor parallelism several ranks see the same images.
        shares = self.trainer.distributed_sampler_kwargs if self.trainer is not None else None
        return (shares["rank"], shares["num_replicas"]) if shares else (0, 1)

    def _loader_settings(self) -> dict[str, Any]:
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return {
            "collate_fn": collate,
            "worker_init_fn": workers.shield,
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": on_gpu,
        }


def raise_all(problems: Sequence[str]) -> None:
    """Raise a ``DataError`` with a line for each problem, if there are any."""
    if problems:
        rest = len(problems) - SHOWN
        more = [f"and {rest} more problems like these."] if rest > 0 else []
        raise DataError("\n".join([*problems[:SHOWN], *more]))


def available_cpus(limit: int) -> int:
    """The CPUs that this rank may use, at least one and at most ``limit``."""
    if "SLURM_CPUS_PER_TASK" in os.environ:
        cpus = int(os.environ["SLURM_CPUS_PER_TASK"])
    elif hasattr(os, "sched_getaffinity"):
        cpus = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    else:
        cpus = os.cpu_count() or 1
    return max(1, min(cpus, limit))
