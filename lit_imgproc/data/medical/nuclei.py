"""Crops of microscopy images, by what lies in their centre."""

import csv
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, cast

import cv2
import numpy as np
from annotated_types import Gt
from numpy.typing import NDArray

from lit_imgproc.data.base import BatchSize, DataError, ImageDataset, NumWorkers, Split
from lit_imgproc.data.decode import read_image
from lit_imgproc.data.imagenet.base import ClassificationData
from lit_imgproc.data.imagenet.datasets import ArrayDataset
from lit_imgproc.data.medical.pictures import read_picture
from lit_imgproc.data.names import Names
from lit_imgproc.data.transforms import AugmentChoice
from lit_imgproc.inputs import InputSpec

INDEX = "index.csv"
CLASSES = ("background", "single", "touching")
SPLITS: tuple[Split, ...] = ("train", "val", "test")

FIELD = 48
"""Side of a crop, in pixels of the image: three times the diameter of a usual nucleus."""
APART = 3
"""Pixels that the centre of a background crop has to be away from every nucleus, at least."""


class Crops(NamedTuple):
    """The crops of a split.

    Attributes:
        images: uint8 ``[N,side,side,3]``.
        labels: int64 ``[N]``.
        names: ``<image>/<row>_<column>`` of the centre, in pixels.
        groups: The image that each is of.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    names: list[str]
    groups: list[str]


class NucleiCrops(ClassificationData):
    """What is in the centre of a crop: background, a nucleus, or one that touches another.

    Made of images with a label a nucleus, such as those of the 2018 Data Science Bowl (BBBC038):
    ``root/index.csv`` with the columns ``id`` and ``split``, ``root/images/<id>.png`` of 8 bits and
    ``root/labels/<id>.png``, in which 0 is background and every other value a nucleus. All crops of
    an image are in the split of the image. A nucleus touches another if they have neighbouring
    pixels; background is where no nucleus is near. Crops are of 48 pixels a side, in images that
    are mirrored at their edges, and are scaled to ``image_size``.

    Example:
        >>> data = NucleiCrops(root="data/nuclei", augment={"train": "dihedral"})
        >>> data.facts()["class_names"]
        ['background', 'single', 'touching']

    Args:
        root: The folder of the data set.
        image_size: Side that crops are scaled to, in pixels.
        per_image: Of each image so many crops of each class, at most, evenly spread over its
            nuclei; otherwise a few crowded images would be half of the data.
        augment: What training does, for example ``{"train": "dihedral"}``.
        cache: ``device`` keeps all crops on the device and makes the batches there.
        batch_size: Crops in a batch of one process.
        num_workers: Processes that load crops; ``None`` goes by the CPUs of this rank.
        seed: Seed of the order of the crops and of their augmentations.

    Raises:
        DataError: When it is prepared, with one line for everything that is wrong.
    """

    def __init__(
        self,
        *,
        root: str = "data/nuclei",
        image_size: Annotated[int, Gt(0)] = 32,
        per_image: Annotated[int, Gt(0)] = 12,
        augment: AugmentChoice = None,
        cache: Literal["device"] | None = None,
        batch_size: BatchSize = 128,
        num_workers: NumWorkers = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            augment=augment, cache=cache, batch_size=batch_size, num_workers=num_workers, seed=seed
        )
        self.root = Path(root)
        self.per_image = per_image
        self.spec = InputSpec(3, (image_size, image_size), "squash")

    def input_spec(self) -> InputSpec:
        """What evaluation does to a crop."""
        return self.spec

    def read(self) -> dict[Split, ImageDataset]:
        """Read all images and cut the crops out of them."""
        datasets: dict[Split, ImageDataset] = {}
        listed, problems = _list(self.root), []
        for split in SPLITS:
            found: list[tuple[str, NDArray[np.uint8], int, str]] = []
            for name in listed[split]:
                try:
                    found += [(name, *crop) for crop in self._crops(name)]
                except DataError as error:
                    problems.append(str(error))
            if not found and not problems:
                problems.append(f"{self.root / INDEX}: no crops of {split} images.")
            if problems:
                continue
            groups, images, labels, names = zip(*found, strict=True)
            dataset = ArrayDataset(
                np.stack(images),
                Names(names),
                np.array(labels, np.int64),
                CLASSES,
                self.spec,
                self._augmentation() if split == "train" else None,
            )
            dataset.groups = Names(groups)
            datasets[split] = dataset
        if problems:
            raise DataError("\n".join(problems))
        return datasets

    def _crops(self, name: str) -> Iterator[tuple[NDArray[np.uint8], int, str]]:
        """Crop, class and name of all crops of an image."""
        path = self.root / "labels" / f"{name}.png"
        image = read_image(self.root / "images" / f"{name}.png", 3)
        nuclei = read_picture(path)[:, :, 0]
        if nuclei.shape != image.shape[:2]:
            raise DataError(
                f"{path}: is {nuclei.shape[0]}x{nuclei.shape[1]} pixels, its image "
                f"{image.shape[0]}x{image.shape[1]}."
            )
        half = FIELD // 2
        around = cv2.copyMakeBorder(image, half, half, half, half, cv2.BORDER_REFLECT_101)
        for label, centres in enumerate(_centres(nuclei, name)):
            count = min(self.per_image, len(centres))
            chosen = np.linspace(0, len(centres) - 1, count).round().astype(int)
            for row, column in centres[chosen].tolist():
                crop = around[row : row + FIELD, column : column + FIELD]
                yield self.spec(crop), label, f"{name}/{row}_{column}"

    @classmethod
    def write_toy(cls, root: Path) -> None:
        """Ten images of bright discs, some of which touch."""
        for folder in ("images", "labels"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(0)
        lines = ["id,split"]
        for number in range(10):
            image = random.integers(0, 40, (96, 96), np.uint8)
            nuclei = np.zeros((96, 96), np.uint16)
            for place in range(8):
                x, y = 16 + 32 * (place % 3), 16 + 32 * (place // 3)
                cv2.circle(nuclei, (x, y), 6, 2 * place + 1, -1)
                if place % 2:
                    cv2.circle(nuclei, (x + 10, y), 5, 2 * place + 2, -1)
            image[nuclei > 0] += 160
            cv2.imwrite(str(root / "images" / f"toy{number}.png"), image)
            cv2.imwrite(str(root / "labels" / f"toy{number}.png"), nuclei)
            lines.append(f"toy{number},{SPLITS[max(number - 7, 0)]}")
        (root / INDEX).write_text("\n".join(lines) + "\n", "utf-8")


def _list(root: Path) -> dict[Split, list[str]]:
    path = root / INDEX
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error}) (data.root).") from error
    listed: dict[Split, list[str]] = {split: [] for split in SPLITS}
    for line, row in enumerate(rows, start=2):
        if not row.get("id") or row.get("split") not in SPLITS:
            raise DataError(
                f"{path}:{line}: an `id` and a `split` of train, val or test are needed."
            )
        listed[cast(Split, row["split"])].append(row["id"])
    return listed


def _centres(nuclei: NDArray[Any], name: str) -> list[NDArray[np.int64]]:
    """Rows and columns ``[N,2]`` of the centres of the crops of each class."""
    values = nuclei.astype(np.float32)
    square = np.ones((3, 3), np.uint8)
    highest = cv2.dilate(values, square)
    lowest = cv2.erode(np.where(values > 0, values, np.float32(2**16)), square)
    meets = (values > 0) & ((highest > values) | (lowest < values))
    touching = set(np.unique(nuclei[meets]).tolist())
    centres: list[list[tuple[int, int]]] = [[], []]
    rows, columns = np.nonzero(nuclei)
    numbers, members, counts = np.unique(
        nuclei[rows, columns], return_inverse=True, return_counts=True
    )
    pixels = np.split(np.argsort(members, kind="stable"), np.cumsum(counts)[:-1])
    for number, some in zip(numbers.tolist(), pixels, strict=True):
        y, x = rows[some], columns[some]
        # The pixel of the nucleus nearest to its middle: a bent one may not hold its middle.
        nearest = int(np.argmin((y - y.mean()) ** 2 + (x - x.mean()) ** 2))
        centres[number in touching].append((int(y[nearest]), int(x[nearest])))
    far = cv2.distanceTransform((nuclei == 0).astype(np.uint8), cv2.DIST_L2, 3) > APART
    empty = np.argwhere(far)
    random = np.random.default_rng(zlib.crc32(name.encode()))
    count = min(len(empty), max(map(len, centres)))
    background = empty[np.sort(random.choice(len(empty), count, replace=False))]
    return [background, *(np.array(found, np.int64).reshape(-1, 2) for found in centres)]
