"""Medical images of two dimensions with a class or several labels each."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from annotated_types import Gt, Le, Lt
from numpy.typing import NDArray

from lit_imgproc.data.base import (
    BatchSize,
    DataError,
    ImageDataset,
    NumWorkers,
    Split,
    available_cpus,
)
from lit_imgproc.data.decode import IMAGE_SUFFIXES
from lit_imgproc.data.imagenet.base import ClassificationData
from lit_imgproc.data.imagenet.datasets import ClassificationDataset, Labels
from lit_imgproc.data.medical import toy
from lit_imgproc.data.medical.listing import SPLITS, Row, list_rows
from lit_imgproc.data.medical.read import read_header
from lit_imgproc.data.medical.scan import Array
from lit_imgproc.data.medical.shown import Show, read_shown
from lit_imgproc.data.names import Names
from lit_imgproc.data.readable import OnError
from lit_imgproc.data.transforms import Augment, AugmentChoice
from lit_imgproc.inputs import EIGHT_BIT, InputSpec, Interpolation, Resize

Fraction = Annotated[float, Gt(0), Lt(1)]
SAMPLE = 1000
"""How many images of a split are decoded to check them and to measure mean and deviation."""


class Survey(NamedTuple):
    """What a sample of the images is like.

    Attributes:
        problems: A sentence for each of them that cannot be read, by its index.
        mean: Of each channel, 8-bit images in [0, 1].
        std: Of each channel.
        low: The lowest value.
        high: The highest value.
    """

    problems: dict[int, str]
    mean: list[float]
    std: list[float]
    low: float
    high: float


class MedicalFiles(ClassificationDataset):
    """Images that are decoded when they are asked for.

    Each is ``{"image": [C,H,W], "label": int or float32 [K], "id": str}``, uint8 or float32.

    Args:
        root: The folder that paths are relative to.
        rows: The images.
        labels: See :class:`~lit_imgproc.data.imagenet.datasets.ClassificationDataset`, as for the
            next ones.
        class_names: Of the classes.
        spec: What evaluation does to an image.
        show: See :func:`read_shown`.
        eight_bit: Whether images are uint8.
    """

    def __init__(
        self,
        root: Path,
        rows: Sequence[Row],
        labels: Labels,
        class_names: Sequence[str],
        spec: InputSpec,
        show: Show,
        eight_bit: bool,
    ) -> None:
        super().__init__(Names(row.name for row in rows), labels, class_names, spec)
        self.root = root
        self.show = show
        self.eight_bit = eight_bit
        self.groups = Names(row.patient for row in rows)
        self._paths = Names(row.path for row in rows)
        self._frames = np.array([-1 if row.frame is None else row.frame for row in rows])

    def path(self, index: int) -> Path:
        """The file of an image."""
        return self.root / self._paths[index]

    def image(self, index: int) -> Array:
        """The decoded file, ``[H,W,C]``.

        Raises:
            DataError: It cannot be read, or has 8 bits where others have more or the other way.
        """
        path, frame = self.path(index), int(self._frames[index])
        image = read_shown(path, self.spec.channels, self.show, None if frame < 0 else frame)
        if (image.dtype == np.uint8) != self.eight_bit:
            has, others = ("8 bits", "more") if image.dtype == np.uint8 else ("more bits", "8")
            raise DataError(f"{path}: has {has} where other images have {others}.")
        return image

    def size(self, index: int) -> tuple[int, ...]:
        """Height and width as they are stored."""
        return read_header(self.path(index)).shape[2:]

    @property
    def statistics(self) -> tuple[list[float], list[float]]:
        """Mean and deviation of each channel: see :attr:`survey`."""
        return self.survey.mean, self.survey.std

    @cached_property
    def survey(self) -> Survey:
        """Of up to 1,000 images, evenly spaced in the split, as evaluation sees them."""
        chosen = np.linspace(0, len(self) - 1, min(len(self), SAMPLE)).round().astype(int).tolist()
        problems: dict[int, str] = {}

        def look(index: int) -> Array | None:
            try:
                return self.spec(self.image(index))
            except DataError as error:
                problems[index] = str(error)
                return None

        pixels, moments, low, high = 0, np.zeros((2, self.spec.channels)), np.inf, -np.inf
        with ThreadPoolExecutor(available_cpus(limit=8)) as pool:
            for image in pool.map(look, chosen):
                if image is not None:
                    flat = image.reshape(-1, image.shape[2]).astype(np.float64)
                    pixels += len(flat)
                    moments += [flat.sum(0), (flat**2).sum(0)]
                    low, high = min(low, float(flat.min())), max(high, float(flat.max()))
        mean, squares = moments / max(pixels, 1)
        scale = 255 if self.eight_bit else 1
        std = np.sqrt(np.maximum(squares - mean**2, 0))
        return Survey(problems, (mean / scale).tolist(), (std / scale).tolist(), low, high)

    def update_digest(self, digest: "hashlib._Hash") -> None:
        """Feed the class names and each image's name, label and file to a digest."""
        digest.update("\0".join(self.class_names).encode())
        for index, (name, label) in enumerate(zip(self.names, self.labels, strict=True)):
            digest.update(f"\0{name}\0".encode())
            digest.update(label.tobytes())
            with self.path(index).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())


class MedicalImages(ClassificationData):
    """DICOM, PNG, TIFF and JPEG images with a class or several labels each, by patient.

    ``root/index.csv`` has the columns ``path`` (relative to ``root``), ``label`` (several are
    separated by ``|``: the task is then multi-label), ``patient`` and, if it likes, ``split``
    (train, val or test) and ``frame`` (of a file of several, from 0). Whole patients are held out
    where splits are not given, always the same ones. A patient in two given splits is an error.

    Images of 8 bits stay uint8. All others are float32, in [0, 1] where ``window`` is given, else
    in native values: those of a CT in Hounsfield units, once rescaled. MONOCHROME1 is inverted.
    Mean, deviation and value range are measured on up to 1,000 training images, and as many of
    each split are decoded at the start, so that broken files show.

    Example:
        >>> data = MedicalImages(root="data/chest", image_size=224, window=(40, 400))
        >>> data.facts()["value_range"]
        [0.0, 1.0]

    Args:
        root: The folder of the data set.
        index: A CSV file in ``root``.
        image_size: Height and width of the images that networks see, in pixels.
        window: ``[center, width]`` in native values to [0, 1]; ``file`` takes the VOI lookup table
            or the window of each DICOM file; ``None`` leaves native values.
        resize: See :class:`~lit_imgproc.inputs.InputSpec`, as for the next two.
        crop_fraction: Share of the scaled image's side that ``resize: crop`` keeps.
        interpolation: How images are scaled in evaluation.
        in_channels: 1 for grey, 3 for RGB; grey images are repeated.
        val_fraction: Share of the images to hold out for validation where that is not given.
        test_fraction: Share of the images to hold out for testing where that is not given.
        augment: What training does, for example ``{"train": "flip"}``.
        batch_size: Images in a batch of one process.
        num_workers: Processes that load images; ``None`` goes by the CPUs of this rank.
        on_error: ``stop`` at files that cannot be used, or ``skip`` them.
        seed: Seed of the order of the images and of their augmentations.

    Raises:
        DataError: When it is prepared, with one line for everything that is wrong.
    """

    suffixes: ClassVar[frozenset[str]] = IMAGE_SUFFIXES | {".dcm"}

    def __init__(
        self,
        *,
        root: str,
        index: str = "index.csv",
        image_size: Annotated[int, Gt(0)] = 224,
        window: tuple[float, Annotated[float, Gt(0)]] | Literal["file"] | None = None,
        resize: Resize = "squash",
        crop_fraction: Annotated[float, Gt(0), Le(1)] = 0.875,
        interpolation: Interpolation = "area",
        in_channels: Literal[1, 3] = 1,
        val_fraction: Fraction = 0.15,
        test_fraction: Fraction = 0.15,
        augment: AugmentChoice = None,
        batch_size: BatchSize = 32,
        num_workers: NumWorkers = None,
        on_error: OnError = "stop",
        seed: int = 0,
    ) -> None:
        super().__init__(
            augment=augment, cache=None, batch_size=batch_size, num_workers=num_workers, seed=seed
        )
        self.on_error = on_error
        self.root, self.index = Path(root), index
        self.show: Show = window if window is None or window == "file" else (window[0], window[1])
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        size = (image_size, image_size)
        # The values are those of windowed images until others have been measured.
        self.spec = InputSpec(
            in_channels, size, resize, crop_fraction, interpolation, value_range=(0.0, 1.0)
        )

    def input_spec(self) -> InputSpec:
        """What evaluation does to an image."""
        if self.show is None:
            self.prepare()
        return self.spec

    def read(self) -> dict[Split, ImageDataset]:
        """List the files and decode a sample of each split."""
        rows = list_rows(self.root, self.index, self.val_fraction, self.test_fraction)
        self.settle(rows.problems)
        rows.check()
        eight_bit = self._eight_bit([row for split in SPLITS for row in rows.splits[split]])
        if eight_bit:
            self.spec = replace(self.spec, value_range=EIGHT_BIT)

        def made(split: Split) -> MedicalFiles:
            some, names = rows.splits[split], rows.class_names
            labels = rows.encode(split)
            return MedicalFiles(self.root, some, labels, names, self.spec, self.show, eight_bit)

        datasets = {split: made(split) for split in SPLITS}
        broken = {
            dataset.names[index]: problem
            for dataset in datasets.values()
            for index, problem in dataset.survey.problems.items()
        }
        if broken:
            self.settle(list(broken.values()))
            for split in SPLITS:
                rows.splits[split] = [row for row in rows.splits[split] if row.name not in broken]
            rows.check()
            datasets = {split: made(split) for split in SPLITS}
        if self.show is None and not eight_bit:
            survey = datasets["train"].survey
            self.spec = replace(self.spec, value_range=_not_eight_bit(survey.low, survey.high))
            for dataset in datasets.values():
                dataset.spec = self.spec
        kind = np.uint8 if eight_bit else np.float32
        datasets["train"].augment = Augment(
            self.augment["train"],
            self.spec.size[0],
            self.spec.channels,
            kind,
            self.spec.value_range[1],
        )
        return {**datasets}

    def open(self, path: Path) -> NDArray[Any]:
        """Read one file, windowed as the data set is.

        Returns:
            ``[H,W,C]``: uint8 of a data set of 8 bits, else float32.

        Raises:
            DataError: The file cannot be read.
        """
        return read_shown(path, self.spec.channels, self.show)

    def _eight_bit(self, rows: Sequence[Row]) -> bool:
        """Whether images are uint8: the first that can be read decides."""
        if self.show is not None:
            return False
        for row in rows:
            try:
                image = read_shown(self.root / row.path, self.spec.channels, None, row.frame)
            except DataError:
                continue
            return image.dtype == np.uint8
        return False

    @classmethod
    def write_toy(cls, root: Path) -> None:
        """48 DICOM images of 24 patients."""
        toy.write_images(root)


def _not_eight_bit(low: float, high: float) -> tuple[float, float]:
    if (low, high) == EIGHT_BIT:  # which would say that samples are uint8
        high = float(np.nextafter(high, np.inf))
    return low, high
