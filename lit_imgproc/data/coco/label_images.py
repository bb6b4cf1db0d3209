"""Images beside label images of their objects, as microscopy has them."""

import csv
from pathlib import Path
from typing import Literal

from lit_imgproc.data.base import BatchSize, DataError, NumWorkers, Split, raise_all
from lit_imgproc.data.coco import toy
from lit_imgproc.data.coco.base import (
    SPELLINGS,
    AnnotatedData,
    Fit,
    Found,
    Fraction,
    Loading,
    ProposalCount,
    Side,
    Sides,
)
from lit_imgproc.data.coco.labels import LABEL_SUFFIXES, LabelListing
from lit_imgproc.data.coco.listing import by_stem, list_folder
from lit_imgproc.data.decode import IMAGE_SUFFIXES
from lit_imgproc.data.readable import OnError
from lit_imgproc.data.transforms import AugmentChoice


class LabelImages(AnnotatedData):
    """Images of objects of one class, and for each an image whose pixels number the objects.

    0 is background; numbers need not be without gaps. A label image has the name of its image, up
    to the suffix, and its size. They are read with each sample, so that nothing of them is kept.

    Example:
        >>> data = LabelImages(root="data/nuclei", index="index.csv", class_name="nucleus")
        >>> data.splits()
        {'train': 227, 'val': 32, 'test': 64}

    Args:
        root: The folder of the data set.
        images: The folder in it of the images.
        labels: The folder in it of the label images.
        index: A CSV file in it with the columns ``id``, an image's name without suffix, and
            ``split``; ``None`` takes all images and holds out those of validation and testing.
        class_name: What the objects are.
        target: See :class:`~lit_imgproc.data.coco.coco_json.CocoData`, as for the other arguments;
            there are no ``captions``.
        image_size: Shorter side of the images that networks see, in pixels, or several.
        max_size: What the longer side must not exceed.
        resize: ``fit``, ``squash`` or ``none``.
        in_channels: 3 for RGB, 1 for grey.
        aspect_grouping: Whether a training batch is of images of like aspect ratio.
        val_fraction: Share of the images to hold out for validation where that is not given.
        test_fraction: Share of the images to hold out for testing where that is not given.
        proposals: How many boxes of selective search an image gets, for R-CNN and Fast R-CNN.
        augment: What training does, for example ``{"train": "dihedral"}``.
        batch_size: Images in a batch of one process.
        num_workers: Processes that load images; ``None`` goes by the CPUs of this rank.
        on_error: What happens to images that cannot be used: ``stop``, or ``skip`` them.
        seed: Seed of the order of the images and of their augmentations.

    Raises:
        DataError: When it is prepared, with one line for everything that is wrong.
    """

    def __init__(
        self,
        *,
        root: str,
        images: str = "images",
        labels: str = "labels",
        index: str | None = None,
        class_name: str = "object",
        target: Literal["boxes", "instances", "semantic"] = "instances",
        image_size: Sides = 256,
        max_size: Side = 1333,
        resize: Fit = "fit",
        in_channels: Literal[1, 3] = 3,
        aspect_grouping: bool = True,
        val_fraction: Fraction = 0.15,
        test_fraction: Fraction = 0.15,
        proposals: ProposalCount = None,
        augment: AugmentChoice = None,
        batch_size: BatchSize = 8,
        num_workers: NumWorkers = None,
        on_error: OnError = "stop",
        seed: int = 0,
    ) -> None:
        super().__init__(
            root=root,
            target=target,
            loading=Loading(
                image_size,
                max_size,
                resize,
                in_channels,
                aspect_grouping,
                "repair",
                "keep",
                val_fraction,
                test_fraction,
            ),
            proposals=proposals,
            augment=augment,
            batch_size=batch_size,
            num_workers=num_workers,
            on_error=on_error,
            seed=seed,
        )
        self.images, self.labels, self.index = images, labels, index
        self.class_name = class_name

    def find(self) -> Found:
        """Pair the files of both folders."""
        images = by_stem(list_folder(self.root, self.images, IMAGE_SUFFIXES), self.images)
        labels = by_stem(list_folder(self.root, self.labels, LABEL_SUFFIXES), self.labels)
        if not images:
            raise DataError(f"{self.root / self.images}: holds no images (data.images).")
        splits = self._splits(sorted({*images, *labels}))
        listings: dict[Split, LabelListing] = {}
        for split, stems in splits.items():
            listing = listings[split] = LabelListing(self.root, True, False, 1)
            for stem in stems:
                self._pair(listing, stem, images.get(stem, []), labels.get(stem, []))
        return Found([self.class_name], listings)

    def _pair(self, listing: LabelListing, stem: str, images: list[str], labels: list[str]) -> None:
        if len(images) == len(labels) == 1 and listing.instances is not None:
            listing.add_image(images[0])
            listing.instances.append(labels[0])
            return
        listing.remarks.append(
            f"{self.root / self.images / stem}: has {len(images)} images and {len(labels)} label "
            f"images in {self.root / self.labels}; one of each is needed."
        )

    def _splits(self, stems: list[str]) -> dict[Split, list[str]]:
        if self.index is None:
            return {"train": stems}
        path = self.root / self.index
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file, restval="")
                columns, rows = reader.fieldnames or [], list(enumerate(reader, start=2))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{path}: cannot be read ({error}).") from error
        if missing := {"id", "split"} - set(columns):
            raise DataError(f"{path}: has no column {' and no column '.join(sorted(missing))}.")
        found: dict[Split, list[str]] = {}
        lines: dict[str, int] = {}
        problems: list[str] = []
        for number, row in rows:
            split = next((s for s, words in SPELLINGS.items() if row["split"] in words), None)
            before = lines.setdefault(row["id"], number)
            if split is None:
                problems.append(f"{path}:{number}: split is {row['split']!r}; train, val or test.")
            elif before != number:
                problems.append(f"{path}:{number}: {row['id']} is in line {before}, too.")
            else:
                found.setdefault(split, []).append(row["id"])
        if "train" not in found:
            problems.append(f"{path}: lists no training images.")
        problems += [
            f"{self.root / self.images / stem}: is not listed in {path}."
            for stem in stems
            if stem not in lines
        ]
        raise_all(problems)
        return found

    @classmethod
    def write_toy(cls, root: Path) -> None:
        """Discs in noise with uint16 label images."""
        toy.write_labels(root)
