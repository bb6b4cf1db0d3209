"""The stack of electron microscopy of the segmentation challenge of ISBI 2012."""

import hashlib
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import torch
from annotated_types import Gt
from numpy.typing import NDArray

from lit_imgproc.data.base import (
    BatchSize,
    DataError,
    ImageDataModule,
    ImageDataset,
    NumWorkers,
    Split,
)
from lit_imgproc.data.imagenet.datasets import pixel_statistics
from lit_imgproc.data.transforms import Augment, AugmentChoice
from lit_imgproc.geometry import geometry_of
from lit_imgproc.inputs import InputSpec

Pages = NDArray[np.uint8]

VOLUME, LABELS = "train-volume.tif", "train-labels.tif"
CLASSES = ("membrane", "cell")


class StackPages(ImageDataset):
    """Some pages, each ``{"image": uint8 [1,H,W], "mask": int64 [H,W], "id": str}``.

    As evaluation sees them, they have their ``geometry``, too.

    Args:
        path: Of the stack.
        first: The number in it of the first of the pages.
        images: uint8 ``[N,H,W]``.
        masks: uint8 ``[N,H,W]``, indices of :data:`CLASSES`.
        augment: What training does.
    """

    class_names = CLASSES

    def __init__(
        self, path: Path, first: int, images: Pages, masks: Pages, augment: Augment | None
    ) -> None:
        self.path = path
        self.names = [f"{path.name}/{first + page}" for page in range(len(images))]
        self.images, self.masks, self.augment = images, masks, augment

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        if not isinstance(index, tuple):
            size = self.images[index].shape
            geometry = geometry_of(str(self.path), size, size)
            return {
                **self._item(index, self.images[index], self.masks[index]),
                "geometry": geometry,
            }
        index, sample_seed = index
        image, mask = self.images[index][:, :, np.newaxis], self.masks[index]
        if self.augment is not None:
            moved = self.augment.sample(sample_seed, image=image, mask=mask)
            image, mask = moved["image"], moved["mask"]
        return self._item(index, image[:, :, 0], mask)

    def size(self, index: int) -> tuple[int, ...]:
        """Height and width."""
        return tuple(self.images.shape[1:])

    def update_digest(self, digest: "hashlib._Hash") -> None:
        """Feed the names, pixels and labels to a digest."""
        digest.update("\0".join([*self.class_names, *self.names]).encode())
        digest.update(self.images.tobytes())
        digest.update(self.masks.tobytes())

    def _item(self, index: int, image: Pages, mask: Pages) -> dict[str, Any]:
        pixels = torch.from_numpy(image.copy())[np.newaxis]
        return {
            "image": pixels,
            "mask": torch.from_numpy(mask.astype(np.int64)),
            "id": self.names[index],
        }


class ISBI2012(ImageDataModule):
    """Membranes of neurons in 30 serial sections of 512x512 pixels: the set of arXiv:1505.04597.

    ``root`` holds ``train-volume.tif`` and ``train-labels.tif`` of as many pages, in which 0 is a
    membrane and 255 the inside of a cell. Sections that lie next to each other are alike, so that
    the last are held out, one after another: first those of validation, then those of testing. The
    labels of ``test-volume.tif`` are the challenge's own; a run predicts its pages as
    ``run.predict(read_pages("test-volume.tif")[..., None])``.

    Example:
        >>> data = ISBI2012(root="data/isbi_2012", augment={"train": "dihedral"})
        >>> data.splits()
        {'train': 24, 'val': 3, 'test': 3}

    Args:
        root: The folder of the data set.
        val_pages: How many pages to validate on.
        test_pages: How many pages to test on, the last ones.
        augment: What training does, for example ``{"train": "dihedral"}``.
        batch_size: Pages in a batch of one process.
        num_workers: Processes that load pages; ``None`` goes by the CPUs of this rank.
        seed: Seed of the order of the pages and of their augmentations.

    Raises:
        DataError: When it is prepared, and a file is missing, damaged or not as it should be.
    """

    def __init__(
        self,
        *,
        root: str = "data/isbi_2012",
        val_pages: Annotated[int, Gt(0)] = 3,
        test_pages: Annotated[int, Gt(0)] = 3,
        augment: AugmentChoice = None,
        batch_size: BatchSize = 4,
        num_workers: NumWorkers = None,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers, seed=seed)
        self.root = Path(root)
        self.val_pages, self.test_pages = val_pages, test_pages
        self.augment = augment or {"train": "none"}

    def read(self) -> dict[Split, ImageDataset]:
        """Read both stacks."""
        path = self.root / VOLUME
        images, labels = read_pages(path), read_pages(self.root / LABELS)
        if images.shape != labels.shape:
            raise DataError(
                f"{self.root / LABELS}: is {_shape(labels)}, and its images {_shape(images)}."
            )
        if unknown := sorted(set(np.unique(labels).tolist()) - {0, 255}):
            raise DataError(
                f"{self.root / LABELS}: has the values {unknown[:9]}; 0 is a membrane and 255 the "
                "inside of a cell."
            )
        test = len(images) - self.test_pages
        val = test - self.val_pages
        if val < 1:
            raise DataError(
                f"{path}: data.val_pages and data.test_pages leave none of its {len(images)} pages "
                "to train on."
            )
        masks = (labels == 255).astype(np.uint8)
        augment = Augment(self.augment["train"], min(images.shape[1:]), 1)
        pages: dict[Split, slice] = {
            "train": slice(0, val),
            "val": slice(val, test),
            "test": slice(test, None),
        }
        return {
            split: StackPages(
                path, some.start, images[some], masks[some], augment if split == "train" else None
            )
            for split, some in pages.items()
        }

    def facts(self) -> dict[str, Any]:
        """Classes, pixels of each in the training pages, size, and statistics of these."""
        train = self.dataset("train")
        assert isinstance(train, StackPages)
        mean, std = pixel_statistics(page[:, :, np.newaxis] for page in train.images)
        return {
            "num_classes": len(CLASSES),
            "class_names": list(CLASSES),
            "class_counts": np.bincount(train.masks.ravel(), minlength=len(CLASSES)).tolist(),
            "in_channels": 1,
            "mean": mean,
            "std": std,
            "value_range": [0.0, 255.0],
            "image_size": list(train.size(0)),
        }

    def input_spec(self) -> InputSpec:
        """Grey pages as they are."""
        height, width = self.dataset("train").size(0)
        return InputSpec(1, (height, width), "none")

    def open(self, path: Path) -> Pages:
        """Read a file of one page: uint8 ``[H,W,1]``.

        Raises:
            DataError: It cannot be read, or has several.
        """
        pages = read_pages(path)
        if len(pages) > 1:
            raise DataError(
                f"{path}: has {len(pages)} pages where an image is needed; in Python, "
                "run.predict(read_pages(path)[..., None]) predicts all of them."
            )
        page: Pages = pages[0, :, :, np.newaxis]
        return page

    @classmethod
    def write_toy(cls, root: Path) -> None:
        """Twelve pages of 64x64: cells between membranes, which move from page to page."""
        root.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(0)
        rows, columns = np.mgrid[:64, :64]
        centres = random.uniform(0, 64, (14, 2))
        images, labels = [], []
        for _ in range(12):
            far = np.hypot(rows - centres[:, 0, None, None], columns - centres[:, 1, None, None])
            first, second = np.sort(far, 0)[:2]
            cell = second - first > 3
            grey = np.where(cell, 170, 60) + random.normal(0, 15, cell.shape)
            images.append(grey.clip(0, 255).astype(np.uint8))
            labels.append(cell.astype(np.uint8) * 255)
            centres += random.normal(0, 0.7, centres.shape)
        for name, pages in ((VOLUME, images), (LABELS, labels)):
            cv2.imwritemulti(str(root / name), pages)


def read_pages(path: str | Path) -> Pages:
    """All pages of an image file, uint8 ``[N,H,W]``.

    Raises:
        DataError: It cannot be read, or its pages are not grey, of 8 bits and of one size.
    """
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    try:
        sound, pages = cv2.imdecodemulti(data, cv2.IMREAD_UNCHANGED)
    except cv2.error:
        sound, pages = False, ()
    if not sound:
        raise DataError(f"{path}: no images that can be decoded; it is damaged.")
    if any(page.shape != pages[0].shape or page.dtype != np.uint8 for page in pages) or (
        pages[0].ndim != 2
    ):
        raise DataError(f"{path}: its pages must be grey, of 8 bits, and of one size.")
    return np.stack(pages)


def _shape(pages: Pages) -> str:
    return f"{len(pages)} pages of {pages.shape[1]}x{pages.shape[2]}"
