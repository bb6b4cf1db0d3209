"""What files say about the images of a split, and what is wrong with that."""

import os
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lit_imgproc.data.coco.annotations import Source, Table
from lit_imgproc.data.coco.mend import CUT, mend
from lit_imgproc.data.coco.shapes import Shape, Shapes, Size
from lit_imgproc.data.probe import THREADS, Probe, probe

AT_ONCE = 64


class Listing(ABC):
    """The images of a split.

    Args:
        root: The folder of the data set.

    Attributes:
        names: The image files, relative to ``root``.
        said: The size of each, as its annotations say; ``None`` where they do not.
        sizes: Height and width of each, by its header; ``None`` where it cannot be used.
        problems: By the number of an image, a sentence for each reason not to use it.
        remarks: A sentence for what is wrong but of no image, and is not used.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.names: list[str] = []
        self.said: list[Size | None] = []
        self.sizes: list[Size | None] = []
        self.problems: dict[int, list[str]] = defaultdict(list)
        self.remarks: list[str] = []

    def add_image(self, name: str, said: Size | None = None) -> int:
        """Add an image and return its number."""
        self.names.append(name)
        self.said.append(said)
        return len(self.names) - 1

    def probe(self) -> None:
        """Look at the header of every image that has not been looked at."""

        def look(first: int) -> list[Probe | str]:
            return [probe(os.path.join(self.root, name)) for name in todo[first : first + AT_ONCE]]

        todo = self.names[len(self.sizes) :]
        with ThreadPoolExecutor(THREADS) as pool:
            found = [one for some in pool.map(look, range(0, len(todo), AT_ONCE)) for one in some]
        for one in found:
            number = len(self.sizes)
            self.sizes.append(None if isinstance(one, str) else (one.height, one.width))
            if isinstance(one, str):
                self.problems[number].append(one)
            elif self.said[number] not in (None, self.sizes[number]):
                height, width = self.said[number] or (0, 0)
                self.problems[number].append(
                    f"{self.root / self.names[number]}: is {one.height}x{one.width} and should be "
                    f"{height}x{width}, by its annotations."
                )

    def told(self) -> list[str]:
        """Every problem and remark."""
        by_image = (self.problems[number] for number in sorted(self.problems))
        return [*self.remarks, *(sentence for some in by_image for sentence in some)]

    def sound(self) -> NDArray[np.intp]:
        """The images without problems, in the order of their names."""
        fine = [n for n in range(len(self.names)) if not self.problems.get(n)]
        return np.array(sorted(fine, key=self.names.__getitem__), np.intp)

    def image_sizes(self, images: NDArray[np.intp]) -> NDArray[np.int32]:
        """int32 ``[N,2]`` of images without problems."""
        return np.array([self.sizes[n] for n in images.tolist()], np.int32).reshape(-1, 2)

    @abstractmethod
    def source(self) -> Source:
        """What can be used, in the order of the names."""

    def defects(self) -> tuple[Counter[str], list[str]]:
        """What was repaired to make the source, counted by kind, and a sentence for each."""
        return Counter(), []


class Draft(Listing):
    """Images and their objects, as a reader collects them.

    Args:
        root: See :class:`Listing`.
        shaped: Whether objects have segmentations.
        captioned: Whether images have captions.
    """

    def __init__(self, root: Path, *, shaped: bool = False, captioned: bool = False) -> None:
        super().__init__(root)
        self.shaped, self.captioned = shaped, captioned
        self.sentences: dict[int, list[str]] = defaultdict(list)
        self.origins: list[str] = []
        self.repairs: Counter[str] = Counter()
        self.repaired: list[str] = []
        self._images: list[int] = []
        self._boxes: list[tuple[float, float, float, float]] = []
        self._labels: list[int] = []
        self._iscrowd: list[bool] = []
        self._area: list[float] = []
        self._shapes: list[Shape] = []

    def add_object(
        self,
        image: int,
        box: tuple[float, float, float, float],
        label: int,
        origin: str,
        *,
        iscrowd: bool = False,
        area: float | None = None,
        shape: Shape = b"",
    ) -> None:
        """Add an object.

        Args:
            image: The number of its image.
            box: xyxy, in pixels.
            label: The number of its class.
            origin: The file and the place in it that say so.
            iscrowd: See :class:`~lit_imgproc.data.coco.annotations.Objects`.
            area: In pixels; ``None`` takes the box's.
            shape: Its segmentation, if the listing has them.
        """
        self._images.append(image)
        self._boxes.append(box)
        self._labels.append(label)
        self.origins.append(origin)
        self._iscrowd.append(iscrowd)
        self._area.append(np.nan if area is None else area)
        if self.shaped:
            self._shapes.append(shape)

    def repair(self, kind: str, sentence: str, count: int = 1) -> None:
        """Note what was done to an annotation."""
        self.repairs[kind] += count
        self.repaired.append(sentence)

    def defects(self) -> tuple[Counter[str], list[str]]:
        """What was repaired to make the source, counted by kind, and a sentence for each."""
        return self.repairs, self.repaired

    def source(self) -> Table:
        """The table of what can be used; boxes are mended, and what is done is noted."""
        chosen = self.sound()
        sizes = self.image_sizes(chosen)
        place = np.full(len(self.names), -1, np.int64)
        place[chosen] = np.arange(len(chosen))
        images = place[np.asarray(self._images, np.intp)]
        order = np.argsort(images, kind="stable")
        order = order[images[order] >= 0]
        images = images[order]
        given = np.asarray(self._boxes, np.float64).reshape(-1, 4)[order]
        labels = np.asarray(self._labels, np.int32)[order]
        shapes = [self._shapes[n] for n in order.tolist()] if self.shaped else None
        boxes, reasons = mend(given, images, labels, sizes, shapes)
        for number in np.flatnonzero(reasons.astype(bool)).tolist():
            sides = ", ".join(f"{side:g}" for side in given[number])
            kind, origin = str(reasons[number]), self.origins[order[number]]
            self.repair(kind, f"{origin}: the box {sides} (xyxy) is one of the {kind}.")
        kept = np.flatnonzero((reasons == "") | (reasons == CUT))
        area = np.asarray(self._area, np.float64)[order][kept]
        extent = boxes[kept, 2:] - boxes[kept, :2]
        numbers = order[kept].tolist()
        return Table(
            [self.names[n] for n in chosen.tolist()],
            sizes,
            np.searchsorted(images[kept], np.arange(len(chosen) + 1)).astype(np.int64),
            boxes[kept].astype(np.float32),
            labels[kept],
            np.asarray(self._iscrowd, np.bool_)[order][kept],
            np.where(np.isnan(area), extent.prod(1), area).astype(np.float32),
            Shapes.pack([self._shapes[n] for n in numbers]) if self.shaped else None,
            [self.sentences[n] for n in chosen.tolist()] if self.captioned else (),
        )


def list_folder(root: Path, folder: str, suffixes: frozenset[str]) -> list[str]:
    """The files in a folder and below with such suffixes, relative to ``root``, sorted."""
    start = root / folder
    found = (path for path in start.rglob("*") if path.suffix.lower() in suffixes)
    return sorted(path.relative_to(root).as_posix() for path in found if path.name[0] != ".")


def by_stem(names: Sequence[str], folder: str) -> dict[str, list[str]]:
    """Files by their path within a folder, without suffix."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in names:
        stem = os.path.relpath(name, folder).rpartition(".")[0].replace(os.sep, "/")
        found[stem].append(name)
    return dict(found)
