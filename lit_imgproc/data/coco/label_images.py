"""Images beside label images of their objects, as microscopy has them."""

from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Gt

from lit_imgproc.data.base import BatchSize, DataError, NumWorkers, Split
from lit_imgproc.data.coco import toy
from lit_imgproc.data.coco.base import (
    AnnotatedData,
    Fit,
    Found,
    Fraction,
    Loading,
    ProposalCount,
    Side,
    Sides,
)
from lit_imgproc.data.coco.borders import Borders
from lit_imgproc.data.coco.labels import LABEL_SUFFIXES, LabelListing
from lit_imgproc.data.coco.listing import by_stem, list_folder
from lit_imgproc.data.coco.split_index import read_index
from lit_imgproc.data.decode import IMAGE_SUFFIXES
from lit_imgproc.data.readable import OnError
from lit_imgproc.data.transforms import AugmentChoice
from lit_imgproc.errors import UserError

Positive = Annotated[float, Gt(0)]


class LabelImages(AnnotatedData):
    """Images of objects of one class, and for each an image whose pixels number the objects.

    0 is background; numbers need not be without gaps. A label image has the name of its image, up
    to the suffix, and its size. They are read with each sample, so that nothing of them is kept.

    With ``target: semantic`` all objects are 1 in masks. So that what was learned can be scored by
    the object, evaluation has their numbers beside; and so that it learns to keep them apart,
    training can have ``border_weight``, the weighted borders of arXiv:1505.04597.

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
        border_weight: What a gap of no width between two objects adds to the weight of a pixel, 10
            in the paper; where objects touch, background is put between them. For
            ``target: semantic``; ``None`` takes masks as they are.
        border_sigma: How fast that falls with the width of the gap, in pixels as networks see them;
            see :class:`~lit_imgproc.data.coco.borders.Borders`.
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
        UserError: ``border_weight`` is given, and not for semantic masks.
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
        border_weight: Positive | None = None,
        border_sigma: Positive = 5.0,
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
        if border_weight is not None:
            if target != "semantic":
                raise UserError(f"data.border_weight is for semantic, not for target={target}")
            self.borders = Borders(border_weight, border_sigma)

    def find(self) -> Found:
        """Pair the files of both folders."""
        images = by_stem(list_folder(self.root, self.images, IMAGE_SUFFIXES), self.images)
        labels = by_stem(list_folder(self.root, self.labels, LABEL_SUFFIXES), self.labels)
        if not images:
            raise DataError(f"{self.root / self.images}: holds no images (data.images).")
        splits = self._splits(sorted({*images, *labels}))
        listings: dict[Split, LabelListing] = {}
        for split, stems in splits.items():
            listing = listings[split] = LabelListing(self.root, True)
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
        return read_index(self.root / self.index, self.root / self.images, stems)

    @classmethod
    def write_toy(cls, root: Path) -> None:
        """Discs in noise with uint16 label images."""
        toy.write_labels(root)
