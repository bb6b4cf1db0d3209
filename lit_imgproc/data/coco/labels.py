"""Label images: files whose pixels are numbers of objects or of classes."""

import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple, Self

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from lit_imgproc.data.coco.annotations import Objects, Source
from lit_imgproc.data.coco.listing import Listing
from lit_imgproc.data.coco.shapes import Mask, Size
from lit_imgproc.data.decode import is_sound_png as is_sound_png
from lit_imgproc.data.errors import DataError
from lit_imgproc.data.headers import PNG
from lit_imgproc.data.names import Names
from lit_imgproc.data.probe import THREADS
from lit_imgproc.data.transforms import IGNORE

Numbers = NDArray[np.int32]

LABEL_SUFFIXES = frozenset({".png", ".tif", ".tiff", ".bmp"})
MODES = frozenset({"1", "L", "P", "I", "I;16", "I;16B", "I;16L"})
"""Pillow's kinds of images whose pixels are integers; those of a palette stay its indices."""
MOST_OBJECTS = 2**16 - 2
"""What fits into 16 bits beside 0 and 255."""


class MaskValues(NamedTuple):
    """What the values of label images of classes mean.

    Attributes:
        classes: int16: the class of each value from 0, and last that of all that are higher; 255
            to be ignored, -1 to be refused.
        settings: Where that is set, for who is refused.
    """

    classes: NDArray[np.int16]
    settings: str

    @classmethod
    def of(
        cls,
        values: Sequence[Sequence[int]],
        ignored: Iterable[int] = (),
        others: Literal[255, -1] = -1,
        settings: str = "data.class_names",
    ) -> Self:
        """From the values of each class; 255 is to be ignored where it is of none.

        Args:
            values: Of each class.
            ignored: Further values to ignore.
            others: What the values are that are not told of.
            settings: See :class:`MaskValues`.
        """
        ignored = [IGNORE, *ignored]
        highest = max(*ignored, *(value for some in values for value in some))
        classes = np.full(highest + 2, others, np.int16)
        classes[ignored] = IGNORE
        for number, some in enumerate(values):
            classes[list(some)] = number
        return cls(classes, settings)

    def read(self, path: str, numbers: Numbers) -> Mask:
        """The classes of the pixels of a file, uint8 ``[H,W]``.

        Raises:
            DataError: There are values that are of no class.
        """
        found = self.classes[np.minimum(numbers, len(self.classes) - 1)]
        if (found < 0).any():
            unknown = np.unique(numbers[found < 0])[:9].tolist()
            raise DataError(
                f"{path}: has pixels of the values {unknown}, which are of no class "
                f"({self.settings})."
            )
        return found.astype(np.uint8)


class LabelFiles(Source):
    """Images beside label images of the same size, which are read with each.

    Args:
        root: The folder that all names are relative to.
        names: See :class:`Source`, as for ``sizes``.
        instances: For each image a file whose pixels are numbers of objects; 0 is background.
        classes: For each image a file whose pixels stand for classes, 255 to be ignored, in
            ``instances`` then, too, where 0 must be background and objects are of the classes from
            1. ``None``: all objects are of one.
        values: What the values in these are.
    """

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        sizes: NDArray[np.int32],
        instances: Sequence[str] | None,
        classes: Sequence[str] | None,
        values: MaskValues | None,
    ) -> None:
        self.root, self.names, self.sizes = root, Names(names), sizes
        self.instances = None if instances is None else Names(instances)
        self.classes = None if classes is None else Names(classes)
        self.values = values

    def objects(self, index: int, size: Size | None = None) -> Objects:
        """Every number of the label image but 0 is an object; its box is around all its pixels."""
        numbers, counts, there = self._numbers(index)
        dense = np.zeros(len(counts), np.uint16)
        dense[there] = np.arange(1, len(there) + 1)
        numbered = dense[numbers]
        windows = ndimage.find_objects(numbered, len(there))
        boxes = [[columns.start, rows.start, columns.stop, rows.stop] for rows, columns in windows]
        return Objects(
            np.asarray(boxes, np.float32).reshape(-1, 4),
            self._labels(index, numbered, windows),
            np.zeros(len(there), np.int64),
            counts[there].astype(np.float32),
            None if size is None else _masks(numbered, len(there), size),
        )

    def semantic(self, index: int, size: Size) -> Mask:
        """The class of each pixel."""
        mask = self._classes(index)
        scaled = cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST)
        return np.asarray(scaled, np.uint8)

    def numbered(self, index: int, size: Size) -> NDArray[np.uint16] | None:
        """The number of the object of each pixel, where all objects are of one class."""
        if self.classes is not None:
            return None
        numbers, counts, there = self._numbers(index)
        dense = np.zeros(len(counts), np.uint16)
        ordinals = np.arange(1, len(there) + 1)
        dense[there] = ordinals + (ordinals >= IGNORE)
        scaled = cv2.resize(dense[numbers], size[::-1], interpolation=cv2.INTER_NEAREST)
        return np.asarray(scaled, np.uint16)

    def captions(self, index: int) -> list[str]:
        """None."""
        return []

    def select(self, images: NDArray[np.intp]) -> Self:
        """Some of the images."""

        def of(names: Names | None) -> list[str] | None:
            return None if names is None else [names[n] for n in images.tolist()]

        names = [self.names[n] for n in images.tolist()]
        files = of(self.instances), of(self.classes)
        return type(self)(self.root, names, self.sizes[images], *files, self.values)

    def digest(self, index: int) -> bytes:
        """What values mean, and SHA-256 of the label images."""
        result = b"" if self.values is None else self.values.classes.tobytes()
        for names in (self.instances, self.classes):
            if names is not None:
                with open(self._path(names, index), "rb") as file:
                    result += hashlib.file_digest(file, "sha256").digest()
        return result

    def _numbers(self, index: int) -> tuple[Numbers, NDArray[np.intp], NDArray[np.intp]]:
        """The label image of objects, how many pixels each number has, and the objects' numbers."""
        assert self.instances is not None
        numbers = self._read(self.instances, index)
        if self.classes is not None:
            numbers[numbers == IGNORE] = 0
        counts = np.bincount(numbers.ravel())
        counts[0] = 0
        there = np.flatnonzero(counts)
        if len(there) > MOST_OBJECTS:
            raise DataError(f"{self._path(self.instances, index)}: has {len(there)} objects.")
        return numbers, counts, there

    def _classes(self, index: int) -> Mask:
        assert self.classes is not None
        assert self.values is not None
        numbers = self._read(self.classes, index)
        return self.values.read(self._path(self.classes, index), numbers)

    def _labels(
        self, index: int, numbered: NDArray[np.uint16], windows: list[tuple[slice, slice]]
    ) -> NDArray[np.int64]:
        """The class that most pixels of each object are of."""
        labels = np.zeros(len(windows), np.int64)
        if self.classes is None:
            return labels
        classes = self._classes(index)
        for number, window in enumerate(windows):
            here = classes[window][numbered[window] == number + 1]
            counts = np.bincount(here, minlength=IGNORE + 1)[1:IGNORE]
            if not counts.any():
                raise DataError(
                    f"{self._path(self.classes, index)}: object {number + 1} is of no class there."
                )
            labels[number] = counts.argmax()
        return labels

    def _read(self, names: Names, index: int) -> Numbers:
        path = self._path(names, index)
        numbers = read_numbers(path)
        if numbers.shape != self.size(index):
            height, width = self.size(index)
            raise DataError(
                f"{path}: is {numbers.shape[0]}x{numbers.shape[1]}, and its image {height}x{width}."
            )
        return numbers

    def _path(self, names: Names, index: int) -> str:
        return os.path.join(self.root, names[index])


class LabelListing(Listing):
    """Images beside label images; see :class:`LabelFiles`.

    Args:
        root: See :class:`LabelFiles`.
        has_instances: Whether the images have label images of objects.
        values: What the values of label images of classes are, if the images have such.
    """

    def __init__(self, root: Path, has_instances: bool, values: MaskValues | None = None) -> None:
        super().__init__(root)
        self.instances: list[str] | None = [] if has_instances else None
        self.classes: list[str] | None = None if values is None else []
        self.values = values

    def probe(self) -> None:
        """Look at the headers of images and of label images."""
        super().probe()
        for files in (self.instances, self.classes):
            if files is not None:
                with ThreadPoolExecutor(THREADS) as pool:
                    found = pool.map(self._look, files, self.sizes)
                    for number, problem in enumerate(found):
                        if problem:
                            self.problems[number].append(problem)

    def source(self) -> LabelFiles:
        """What can be used, in the order of the names."""
        chosen = self.sound()
        lists = [
            None if files is None else [files[n] for n in chosen.tolist()]
            for files in (self.instances, self.classes)
        ]
        names = [self.names[n] for n in chosen.tolist()]
        sizes = self.image_sizes(chosen)
        return LabelFiles(self.root, names, sizes, lists[0], lists[1], self.values)

    def _look(self, name: str, size: Size | None) -> str:
        path = self.root / name
        try:
            with Image.open(path) as image:
                width, height = image.size
        except (OSError, ValueError, Image.DecompressionBombError):
            return f"{path}: is no label image that can be read."
        if size is not None and (height, width) != size:
            return f"{path}: is {height}x{width}, and its image {size[0]}x{size[1]}."
        return ""


def read_numbers(path: str) -> Numbers:
    """The pixels of a label image, int32 ``[H,W]``; those of a palette are its indices.

    Raises:
        DataError: It is damaged, or its pixels are no numbers from 0.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
        with Image.open(io.BytesIO(data)) as image:
            mode, numbers = image.mode, np.array(image)
    except FileNotFoundError:
        raise DataError(f"{path}: cannot be read (No such file or directory).") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: is no label image that can be read ({error}).") from None
    if data.startswith(PNG) and not is_sound_png(data):
        raise DataError(f"{path}: the PNG is damaged (a checksum is wrong).")
    if mode not in MODES:
        raise DataError(f"{path}: is an image of kind {mode}; its pixels must be one integer each.")
    if numbers.size and (numbers.min() < 0 or numbers.max() >= 2**24):
        raise DataError(f"{path}: has labels from {numbers.min()} to {numbers.max()}.")
    return numbers.astype(np.int32)


def _masks(numbered: NDArray[np.uint16], count: int, size: Size) -> Mask:
    """A mask for each number from 1, at a size."""
    scaled = np.asarray(cv2.resize(numbered, size[::-1], interpolation=cv2.INTER_NEAREST))
    masks = np.zeros((count, *size), np.uint8)
    for number, window in enumerate(ndimage.find_objects(scaled, count)):
        if window is not None:  # it may be too small to be seen
            masks[number][window] = scaled[window] == number + 1
    return masks
