"""What the datamodules of labelled volumes share."""

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from annotated_types import Gt, Lt
from numpy.typing import NDArray

from lit_imgproc.data.base import (
    BatchSize,
    DataError,
    ImageDataModule,
    ImageDataset,
    NumWorkers,
    Split,
    available_cpus,
)
from lit_imgproc.data.medical.cases import Case, hold_out, list_cases
from lit_imgproc.data.medical.geometry import Orientation, Triple
from lit_imgproc.data.medical.intensity import Choice
from lit_imgproc.data.medical.prepared import (
    CaseReader,
    NonFinite,
    Preparation,
    Volume,
    prepare,
)
from lit_imgproc.data.medical.read import read_scan
from lit_imgproc.data.readable import OnError
from lit_imgproc.inputs import EIGHT_BIT, InputSpec

Fraction = Annotated[float, Gt(0), Lt(1)]
Millimetres = tuple[Annotated[float, Gt(0)], Annotated[float, Gt(0)], Annotated[float, Gt(0)]]

SAMPLE = 50
"""Mean and deviation are of up to so many training volumes, evenly spaced."""


SPLITS: tuple[Split, ...] = ("train", "val", "test")


class Found(NamedTuple):
    """What is kept of each case that has been looked at.

    Attributes:
        case: The case.
        shape: Depth, height and width, prepared.
        planes: For each axis, which of its slices have labels.
        counts: Voxels of each class.
    """

    case: Case
    shape: Triple
    planes: tuple[NDArray[np.intp], ...]
    counts: NDArray[np.intp]


class VolumeDataset(ImageDataset):
    """One split of cases.

    Args:
        reader: Of the cases of all splits.
        numbers: Which of them are of this split.
        class_names: Background first.
    """

    def __init__(
        self, reader: CaseReader, numbers: Sequence[int], class_names: Sequence[str]
    ) -> None:
        self.reader = reader
        self.numbers = list(numbers)
        self.class_names = list(class_names)

    def update_digest(self, digest: "hashlib._Hash") -> None:
        """Feed the class names and each case's name and the bytes of its files to a digest."""
        digest.update("\0".join([*self.class_names, *self.names]).encode())
        for number in self.numbers:
            case = self.reader.cases[number]
            for path in (case.image, case.label):
                files = sorted(path.iterdir()) if path.is_dir() else [path]
                for file in files:
                    with file.open("rb") as content:
                        digest.update(hashlib.file_digest(content, "sha256").digest())


class VolumeData(ImageDataModule):
    """What the datamodules of labelled volumes share.

    Args:
        root: The folder of the data set, with its ``dataset.json``.
        orientation: Where the axes of a volume run to.
        spacing: Millimetres from voxel to voxel along depth, height and width.
        interpolation: How images are resampled.
        intensity: Window, standardized or native values.
        crop_foreground: Whether what is empty around the patient is cut away.
        nonfinite: What happens at values that are NaN or infinite.
        cache: Whether prepared volumes stay in memory.
        val_fraction: Share of the cases to hold out for validation.
        test_fraction: Share of the cases to hold out for testing.
        batch_size: See :class:`~lit_imgproc.data.base.ImageDataModule`, as for the next two.
        num_workers: Processes that load.
        on_error: What happens at a case that cannot be used.
        seed: Of the order of the samples and of their augmentations.
    """

    suffixes: ClassVar[frozenset[str]] = frozenset({".nii", ".nii.gz", ".dcm"})

    def __init__(
        self,
        *,
        root: str,
        orientation: Orientation,
        spacing: Millimetres | None,
        interpolation: Literal["linear", "cubic"],
        intensity: Choice,
        crop_foreground: bool,
        nonfinite: NonFinite,
        cache: Literal["memory"] | None,
        val_fraction: float,
        test_fraction: float,
        batch_size: BatchSize,
        num_workers: NumWorkers,
        on_error: OnError,
        seed: int,
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers, seed=seed)
        self.on_error = on_error
        self.root = Path(root)
        self.preparation = Preparation(
            orientation,
            None if spacing is None else (spacing[0], spacing[1], spacing[2]),
            interpolation,
            intensity if not isinstance(intensity, list) else (intensity[0], intensity[1]),
            crop_foreground,
            nonfinite,
        )
        self.cache = cache
        self.val_fraction, self.test_fraction = val_fraction, test_fraction

    @property
    @abstractmethod
    def plane(self) -> tuple[int, int]:
        """Height and width of what a network sees."""

    @abstractmethod
    def _dataset(self, split: Split, found: dict[int, Found]) -> ImageDataset:
        """A split of the cases of the given numbers."""

    @abstractmethod
    def samples(self, path: Path) -> list[dict[str, Any]]:
        """All that evaluation would be given of one file: samples without a mask.

        The data set itself is not needed, as for :meth:`open`. Once it was read, a file must have
        as many channels as its volumes.

        Predictions of them go to :func:`~lit_imgproc.data.medical.geometry.join` and
        :func:`~lit_imgproc.data.medical.geometry.write_back`, with their ``geometry``.

        Raises:
            DataError: The file cannot be read.
        """

    def read(self) -> dict[Split, ImageDataset]:
        """Read ``dataset.json`` and, once, every file that it names."""
        cases = list_cases(self.root, self.val_fraction, self.test_fraction)
        everything = {case.name: case for split in cases.splits.values() for case in split}
        numbers = {name: number for number, name in enumerate(everything)}
        self.class_names, self.channels = cases.class_names, cases.channels
        self.reader = CaseReader(
            list(everything.values()),
            len(cases.class_names),
            self.preparation,
            in_memory=self.cache == "memory",
        )
        found, problems = self._look()
        self.settle([*cases.problems, *problems])
        for split, members in cases.splits.items():
            cases.splits[split] = [case for case in members if numbers[case.name] in found]
        hold_out(cases, self.val_fraction, self.test_fraction)
        train = [found[numbers[case.name]].counts for case in cases.splits["train"]]
        self._class_counts = np.sum(train, axis=0).tolist()
        return {
            split: self._dataset(
                split,
                {numbers[case.name]: found[numbers[case.name]] for case in cases.splits[split]},
            )
            for split in SPLITS
        }

    def facts(self) -> dict[str, Any]:
        """Classes, channels, size, and statistics of the training volumes as networks see them.

        ``class_counts`` are the voxels of each class in all of them. Mean and deviation are in the
        values that ``intensity`` gives, as is ``value_range``.
        """
        self.prepare()
        mean, std, _, _ = self._statistics
        return {
            "num_classes": len(self.class_names),
            "class_names": self.class_names,
            "class_counts": self._class_counts,
            "in_channels": self.channels,
            "mean": mean,
            "std": std,
            "value_range": list(self.value_range),
        }

    @property
    def value_range(self) -> tuple[float, float]:
        """Of a window (0, 1), otherwise lowest and highest value of the training volumes."""
        if isinstance(self.preparation.intensity, tuple):
            return (0.0, 1.0)
        self.prepare()
        _, _, low, high = self._statistics
        if (low, high) == EIGHT_BIT:  # which would say that samples are uint8
            high = float(np.nextafter(high, np.inf))
        return low, high

    def input_spec(self) -> InputSpec:
        """Channels, height and width of what evaluation sees, and its values."""
        self.prepare()
        return InputSpec(self.channels, self.plane, "none", value_range=self.value_range)

    def open(self, path: Path) -> NDArray[Any]:
        """Read one volume as those of this data set are read.

        Returns:
            float32 ``[D,H,W,C]``: turned, resampled, cropped.

        Raises:
            DataError: The file cannot be read.
        """
        volume = self._open(path)
        image, _ = volume.box((0, 0, 0), volume.grid.shape)
        return image.transpose(1, 2, 3, 0)

    def _open(self, path: Path) -> Volume:
        # A finished run reads files without the data that it was trained on.
        scan = read_scan(path)
        if self._datasets is not None and len(scan.stored) != self.channels:
            raise DataError(
                f"{path}: has {len(scan.stored)} channels where {self.channels} are needed."
            )
        return prepare(scan, None, self.preparation)

    def _look(self) -> tuple[dict[int, Found], list[str]]:
        """Read every case once."""

        def look(number: int) -> Found | str:
            try:
                volume = self.reader[number]
            except DataError as error:
                return str(error)
            assert volume.label is not None
            labelled = volume.label > 0
            axes = ((1, 2), (0, 2), (0, 1))
            planes = tuple(np.flatnonzero(labelled.any(axis=others)) for others in axes)
            counts = np.bincount(volume.label.ravel(), minlength=len(self.class_names))
            return Found(self.reader.cases[number], volume.grid.shape, planes, counts)

        numbers = range(len(self.reader.cases))
        with ThreadPoolExecutor(available_cpus(limit=8)) as pool:  # unpacking releases the GIL
            looks = list(pool.map(look, numbers))
        self.repaired.clear()
        repaired = self.reader.repaired
        if repaired:
            self.repaired["values that are NaN or infinite set to the lowest"] = repaired
        found = {number: one for number, one in enumerate(looks) if isinstance(one, Found)}
        return found, [one for one in looks if isinstance(one, str)]

    @cached_property
    def _statistics(self) -> tuple[list[float], list[float], float, float]:
        """Mean and deviation of each channel, and lowest and highest value of all."""
        train = self.dataset("train")
        assert isinstance(train, VolumeDataset)
        count = min(len(train.numbers), SAMPLE)
        chosen = np.linspace(0, len(train.numbers) - 1, count).round().astype(int)
        voxels, total, squares = 0, np.zeros(self.channels), np.zeros(self.channels)
        low, high = np.inf, -np.inf
        for position in chosen.tolist():
            volume = self.reader[train.numbers[position]]
            image, _ = volume.box((0, 0, 0), volume.grid.shape)
            flat = image.reshape(len(image), -1)
            mean, variance = flat.mean(1, dtype=np.float64), flat.var(1, dtype=np.float64)
            voxels += flat.shape[1]
            total += flat.shape[1] * mean
            squares += flat.shape[1] * (variance + mean**2)
            low, high = min(low, float(flat.min())), max(high, float(flat.max()))
        mean = total / voxels
        deviation = np.sqrt(np.maximum(squares / voxels - mean**2, 0))
        return mean.tolist(), deviation.tolist(), low, high
