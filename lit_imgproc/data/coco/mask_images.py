"""Images beside images of masks whose values are classes, in the folders of any data set."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Len, Lt

from lit_imgproc.data.base import BatchSize, DataError, ImageDataset, NumWorkers, Split
from lit_imgproc.data.coco import toy
from lit_imgproc.data.coco.base import AnnotatedData, Fit, Found, Fraction, Loading, Side, Sides
from lit_imgproc.data.coco.labels import LABEL_SUFFIXES, LabelListing, MaskValues
from lit_imgproc.data.coco.patterns import SPLIT, Matches, find_matches, wildcards
from lit_imgproc.data.coco.split_index import read_index
from lit_imgproc.data.decode import IMAGE_SUFFIXES
from lit_imgproc.data.readable import OnError
from lit_imgproc.data.transforms import AugmentChoice
from lit_imgproc.errors import UserError

Value = Annotated[int, Ge(0), Lt(2**16)]


class MaskImages(AnnotatedData):
    """Semantic segmentation: images, and for each a mask whose pixels are numbers of classes.

    Two patterns say where they lie. ``{split}`` stands for ``train``, ``val`` or ``test`` (also
    ``training``, ``valid``, ``validation``), ``*`` for any name or part of one, and ``**`` for any
    folders. What the wildcards stand for is the same for an image and its mask. Masks are PNG, TIFF
    or BMP of one integer a pixel; those of a palette, as Pascal VOC has them, are its indices.
    Classes are as they are named: no background is added. Test images none of which has a mask, as
    benchmarks keep theirs back, are not used.

    Example:
        Cityscapes, whose 34 values become the 19 classes of its benchmark:

        >>> data = MaskImages(
        ...     root="data/cityscapes",
        ...     images="leftImg8bit/{split}/*/*_leftImg8bit.png",
        ...     masks="gtFine/{split}/*/*_gtFine_labelIds.png",
        ...     class_names=["road", "sidewalk", ...],
        ...     values=[7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33],
        ...     ignore="others",
        ... )

        Others: ADE20K has ``images/{split}/*.jpg`` and ``annotations/{split}/*.png``, LoveDA
        ``{split}/*/images_png/*.png`` and ``{split}/*/masks_png/*.png``, both ``values=1`` and
        ``ignore=[0]``; files in two folders, ``images/*`` and ``masks/*``.

    Args:
        root: The folder of the data set.
        class_names: The names of the classes.
        images: The pattern of the images in it.
        masks: The pattern of the masks in it.
        values: The value of the first class in masks, and the others follow it; or the value of
            each class, or a list of values for one that has several.
        ignore: Values of the masks that are of no class, beside 255; or ``others``: all of those.
            Other values are refused.
        index: A CSV file in ``root`` with the columns ``id``, what the wildcards stand for joined
            by ``/``, and ``split``, where the patterns have no ``{split}``.
        image_size: See :class:`~lit_imgproc.data.coco.coco_json.CocoData`, as for the other
            arguments. Shorter side of the images that networks see, in pixels, or several.
        max_size: What the longer side must not exceed.
        resize: ``fit``, ``squash`` or ``none``. Masks take the nearest pixel.
        in_channels: 3 for RGB, 1 for grey.
        aspect_grouping: Whether a training batch is of images of like aspect ratio.
        val_fraction: Share of the images to hold out for validation where that is not given.
        test_fraction: Share of the images to hold out for testing where that is not given.
        augment: What training does, for example ``{"train": "random_resized_crop"}``.
        batch_size: Images in a batch of one process.
        num_workers: Processes that load images; ``None`` goes by the CPUs of this rank.
        on_error: What happens to images that cannot be used: ``stop``, or ``skip`` them.
        seed: Seed of the order of the images and of their augmentations.

    Raises:
        UserError: Patterns, classes and values do not fit together.
        DataError: When it is prepared, with one line for everything that is wrong.
    """

    def __init__(
        self,
        *,
        root: str,
        class_names: Annotated[list[str], Len(1)],
        images: str = "images/{split}/*",
        masks: str = "masks/{split}/*",
        values: Value | list[Value | list[Value]] = 0,
        ignore: list[Value] | Literal["others"] | None = None,
        index: str | None = None,
        image_size: Sides = 512,
        max_size: Side = 2048,
        resize: Fit = "fit",
        in_channels: Literal[1, 3] = 3,
        aspect_grouping: bool = True,
        val_fraction: Fraction = 0.15,
        test_fraction: Fraction = 0.15,
        augment: AugmentChoice = None,
        batch_size: BatchSize = 8,
        num_workers: NumWorkers = None,
        on_error: OnError = "stop",
        seed: int = 0,
    ) -> None:
        super().__init__(
            root=root,
            target="semantic",
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
            proposals=None,
            augment=augment,
            batch_size=batch_size,
            num_workers=num_workers,
            on_error=on_error,
            seed=seed,
        )
        _check_patterns(images, masks, index)
        self.images, self.masks, self.index = images, masks, index
        self.class_names = class_names
        self.values = _mask_values(class_names, values, ignore)

    def find(self) -> Found:
        """Pair images and masks by what the wildcards stand for."""
        images = find_matches(self.root, self.images, IMAGE_SUFFIXES)
        masks = find_matches(self.root, self.masks, LABEL_SUFFIXES)
        if not images.get("train"):
            what = "training images" if SPLIT in self.images else "images"
            raise DataError(f"{self.root}: holds no {what} {self.images} (data.images).")
        if not masks.get("train"):
            raise DataError(f"{self.root}: holds no masks {self.masks} of them (data.masks).")
        if "test" not in masks:
            images.pop("test", None)
        listings: dict[Split, LabelListing] = {}
        for split, keys in self._splits(images, masks).items():
            listing = listings[split] = LabelListing(self.root, False, self.values)
            where = "train" if self.index is not None else split
            for key in keys:
                some, others = images.get(where, {}), masks.get(where, {})
                self._pair(listing, key, some.get(key, []), others.get(key, []))
        return Found(self.class_names, listings, background=False)

    def read(self) -> dict[Split, ImageDataset]:
        """As of the base, and see that there is something to learn and to score."""
        datasets = super().read()
        for split, survey in self._surveys.items():
            if not any(survey.class_counts):
                raise DataError(
                    f"{self.root}: no pixel of the {split} masks is of a class; give data.values "
                    "that they have, or take the files of this split away."
                )
        return datasets

    def _splits(self, images: Matches, masks: Matches) -> dict[Split, list[str]]:
        if self.index is None:
            splits = {**images, **masks}
            return {
                split: sorted({*images.get(split, ()), *masks.get(split, ())}) for split in splits
            }
        known = sorted({*images["train"], *masks["train"]})
        return read_index(self.root / self.index, self.root, known)

    def _pair(self, listing: LabelListing, key: str, images: list[str], masks: list[str]) -> None:
        if len(images) == len(masks) == 1 and listing.classes is not None:
            listing.add_image(images[0])
            listing.classes.append(masks[0])
            return
        listing.remarks.append(
            f"{self.root / (images or masks or [key])[0]}: there are {len(images)} images "
            f"{self.images} and {len(masks)} masks {self.masks} of {key}; one of each is needed."
        )

    @classmethod
    def write_toy(cls, root: Path) -> None:
        """Discs (1) and squares (2) on ground (0), their edges 255."""
        toy.write_masks(root)


def _check_patterns(images: str, masks: str, index: str | None) -> None:
    for what, pattern in (("images", images), ("masks", masks)):
        if not wildcards(pattern):
            raise UserError(
                f"data.{what}={pattern} has no wildcard: write * where the names of files differ"
            )
    if wildcards(images) != wildcards(masks) or (SPLIT in images) != (SPLIT in masks):
        raise UserError(
            f"data.images={images} and data.masks={masks} need as many wildcards each, and "
            "{split} both or none: an image and its mask are told by what these stand for"
        )
    if index is not None and SPLIT in images:
        raise UserError(
            "data.index says of which split an image is, and so does {split} in data.images: give "
            "one of them"
        )


def _mask_values(
    names: list[str],
    values: Value | list[Value | list[Value]],
    ignore: list[Value] | Literal["others"] | None,
) -> MaskValues:
    given = list(range(values, values + len(names))) if isinstance(values, int) else values
    if len(given) != len(names):
        raise UserError(f"data.values has {len(given)} entries for {len(names)} data.class_names")
    of_classes = [[one] if isinstance(one, int) else one for one in given]
    ignored = [] if ignore is None or ignore == "others" else ignore
    counts = Counter([*ignored, *(value for some in of_classes for value in some)])
    if twice := [value for value, count in counts.items() if count > 1]:
        raise UserError(f"data.values and data.ignore have {twice[:9]} more than once")
    others: Literal[255, -1] = 255 if ignore == "others" else -1
    return MaskValues.of(of_classes, ignored, others, "data.values, data.ignore")
