"""What is known of images, in one form whatever kind of file told it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from lit_imgproc.data.coco.shapes import Mask, Shapes, Size
from lit_imgproc.data.names import Names
from lit_imgproc.data.transforms import IGNORE

BACKGROUND = "background"
"""Class 0 of a semantic mask; the classes of objects follow."""


class Objects(NamedTuple):
    """The objects of one image.

    Attributes:
        boxes: float32 ``[N,4]``, xyxy in pixels of the stored image: edges, so that a box of the
            whole image is ``0, 0, width, height``.
        labels: int64 ``[N]``, from 0.
        iscrowd: int64 ``[N]``: 1 where it is several objects, or one that is not to be counted.
        area: float32 ``[N]``, in pixels of the stored image.
        masks: uint8 ``[N,H,W]`` of 0 and 1, where they were asked for.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    iscrowd: NDArray[np.int64]
    area: NDArray[np.float32]
    masks: Mask | None = None


class Source(ABC):
    """The images of one split and what is in them.

    Attributes:
        names: The image files, relative to the root of the data set.
        sizes: int32 ``[N,2]``: height and width of the upright images.
    """

    names: Names
    sizes: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.names)

    def size(self, index: int) -> Size:
        """Height and width of an image as it is stored."""
        height, width = self.sizes[index].tolist()
        return height, width

    @abstractmethod
    def objects(self, index: int, size: Size | None = None) -> Objects:
        """The objects of an image, with masks where a size for these is given.

        Raises:
            DataError: A file that is read for this cannot be.
        """

    @abstractmethod
    def semantic(self, index: int, size: Size) -> Mask:
        """The class of each pixel, at a size: 0 is background, 255 to be ignored.

        Raises:
            DataError: A file that is read for this cannot be.
        """

    def numbered(self, index: int, size: Size) -> NDArray[np.uint16] | None:
        """The number of the object of each pixel, at a size, where semantic masks are made of it.

        0 is background, and the mask 1 in objects. None has the number 255: it stands for pixels to
        be ignored, as in masks, so that augmentation moves numbers as it moves masks. ``None``:
        classes of pixels are known, and no objects.

        Raises:
            DataError: A file that is read for this cannot be.
        """
        return None

    @abstractmethod
    def captions(self, index: int) -> list[str]:
        """What people wrote about an image."""

    @abstractmethod
    def select(self, images: NDArray[np.intp]) -> Self:
        """Some of the images, in this order."""

    @abstractmethod
    def digest(self, index: int) -> bytes:
        """The annotations of an image as bytes."""


class Table(Source):
    """Objects in arrays: COCO's 860,000 take 27 MB, and 360 MB with their polygons.

    Args:
        names: See :class:`Source`.
        sizes: See :class:`Source`.
        starts: int64 ``[N+1]``: the first object of each image, and the number of objects.
        boxes: float32 ``[M,4]``, as in :class:`Objects`, like the next three.
        labels: int32 ``[M]``.
        iscrowd: bool ``[M]``.
        area: float32 ``[M]``.
        shapes: The segmentation of each object, if these are needed.
        sentences: The captions of each image.
    """

    def __init__(
        self,
        names: Sequence[str],
        sizes: NDArray[np.int32],
        starts: NDArray[np.int64],
        boxes: NDArray[np.float32],
        labels: NDArray[np.int32],
        iscrowd: NDArray[np.bool_],
        area: NDArray[np.float32],
        shapes: Shapes | None = None,
        sentences: Sequence[Sequence[str]] = (),
    ) -> None:
        self.names, self.sizes, self.starts = Names(names), sizes, starts
        self.boxes, self.labels, self.iscrowd, self.area = boxes, labels, iscrowd, area
        self.shapes = shapes
        self._sentences = Names(sentence for some in sentences for sentence in some)
        self._first = np.cumsum([0, *map(len, sentences)], dtype=np.int64)

    @property
    def counts(self) -> NDArray[np.int64]:
        """int64 ``[N]``: how many objects each image has."""
        return np.diff(self.starts)

    def objects(self, index: int, size: Size | None = None) -> Objects:
        """The objects of an image."""
        here = slice(*self.starts[index : index + 2].tolist())
        return Objects(
            self.boxes[here],
            self.labels[here].astype(np.int64),
            self.iscrowd[here].astype(np.int64),
            self.area[here],
            None if size is None else self._masks(index, size),
        )

    def semantic(self, index: int, size: Size) -> Mask:
        """Crowds are ignored where no object lies; of two objects, the smaller is seen."""
        assert self.shapes is not None
        mask = np.zeros(size, np.uint8)
        numbers = np.arange(*self.starts[index : index + 2])
        crowd, area = self.iscrowd[numbers], self.area[numbers]
        for number in numbers[np.lexsort((-area, ~crowd))].tolist():
            patch = self.shapes.patch(number, self.size(index), size)
            value = IGNORE if self.iscrowd[number] else self.labels[number] + 1
            mask[patch.rows, patch.columns][patch.mask == 1] = value
        return mask

    def captions(self, index: int) -> list[str]:
        """In the order of the file."""
        return list(self._sentences[slice(*self._first[index : index + 2].tolist())])

    def select(self, images: NDArray[np.intp]) -> Self:
        """Some of the images, with their objects."""
        counts = self.counts[images]
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        within = np.arange(starts[-1]) - np.repeat(starts[:-1], counts)
        objects = np.repeat(self.starts[images], counts) + within
        captioned = len(self._first) > 1
        return type(self)(
            [self.names[image] for image in images.tolist()],
            self.sizes[images],
            starts,
            self.boxes[objects],
            self.labels[objects],
            self.iscrowd[objects],
            self.area[objects],
            None if self.shapes is None else self.shapes.select(objects),
            [self.captions(image) for image in images.tolist()] if captioned else (),
        )

    def digest(self, index: int) -> bytes:
        """Boxes, labels, crowds, areas, shapes and captions."""
        first, last = self.starts[index : index + 2].tolist()
        arrays = (self.boxes, self.labels, self.iscrowd, self.area)
        parts = [array[first:last].tobytes() for array in arrays]
        if self.shapes is not None:
            for shape in map(self.shapes.__getitem__, range(first, last)):
                parts += [shape] if isinstance(shape, bytes) else shape
        captions = self.captions(index) if len(self._first) > 1 else []
        return b"\0".join([*parts, *(caption.encode() for caption in captions)])

    def _masks(self, index: int, size: Size) -> Mask:
        assert self.shapes is not None
        first, last = self.starts[index : index + 2].tolist()
        masks = np.zeros((last - first, *size), np.uint8)
        for mask, number in zip(masks, range(first, last), strict=True):
            patch = self.shapes.patch(number, self.size(index), size)
            mask[patch.rows, patch.columns] = patch.mask
        return masks
