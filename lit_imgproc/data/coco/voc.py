"""Pascal VOC: boxes in XML, and label images of classes and objects."""

import math
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lit_imgproc.data.base import BatchSize, DataError, NumWorkers, Split
from lit_imgproc.data.coco import toy
from lit_imgproc.data.coco.base import (
    AnnotatedData,
    Defects,
    Empty,
    Fit,
    Found,
    Fraction,
    Loading,
    ProposalCount,
    Side,
    Sides,
    find_splits,
)
from lit_imgproc.data.coco.labels import LabelListing, MaskValues
from lit_imgproc.data.coco.listing import Draft, Listing, by_stem, list_folder
from lit_imgproc.data.coco.shapes import Size
from lit_imgproc.data.decode import IMAGE_SUFFIXES
from lit_imgproc.data.readable import OnError
from lit_imgproc.data.transforms import AugmentChoice

XML = frozenset({".xml"})
SIDES = ("xmin", "ymin", "xmax", "ymax")
Box = tuple[float, float, float, float]


@dataclass
class Record:
    """What an XML file says of an image.

    Attributes:
        name: Of the image, relative to the root.
        said: Height and width.
        objects: Box, label and whether it is difficult.
        problems: What is wrong with it.
    """

    name: str
    said: Size | None = None
    objects: list[tuple[Box, str, bool]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class VocData(AnnotatedData):
    """Pascal VOC: an XML file of boxes an image; label images for segmentation. IJCV 88, 303.

    ``sets`` holds lists of images, ``train.txt``, ``val.txt`` and ``test.txt``. Without them all
    images with annotations are listed, and validation and test images are held out. ``instances``
    takes objects from ``SegmentationObject`` and their classes from ``SegmentationClass``, where
    255 is to be ignored; for these lists, give ``sets: ImageSets/Segmentation``.

    Objects that are ``difficult`` have ``iscrowd`` 1: they are neither trained on nor counted.
    ``truncated`` and ``occluded`` change nothing.

    Example:
        >>> data = VocData(root="data/bccd", class_names=["RBC", "WBC", "Platelets"])
        >>> data.splits()
        {'train': 205, 'val': 87, 'test': 72}

    Args:
        root: The folder of the data set.
        sets: The folder in it of the lists of images.
        annotations: The folder in it of the XML files.
        images: The folder in it of the images.
        class_names: The names of the classes in the order of their numbers; ``None`` takes those of
            the training images, sorted. Where it is a single one, all boxes are of it, whatever
            their labels say.
        one_based: Whether corners are counted from 1 and are the outer pixels of a box, as in the
            challenge's own files: ``xmin`` and ``ymin`` are 1 less then. Otherwise they are edges,
            counted from 0, as most programs write them.
        target: See :class:`~lit_imgproc.data.coco.coco_json.CocoData`, as for the other arguments;
            there are no ``captions``.
        image_size: Shorter side of the images that networks see, in pixels, or several.
        max_size: What the longer side must not exceed.
        resize: ``fit``, ``squash`` or ``none``.
        in_channels: 3 for RGB, 1 for grey.
        aspect_grouping: Whether a training batch is of images of like aspect ratio.
        defects: ``repair`` boxes that cannot be used as they are, or ``refuse`` them.
        empty: Whether training images without boxes are kept, or dropped; of ``boxes`` alone.
        val_fraction: Share of the images to hold out for validation where that is not given.
        test_fraction: Share of the images to hold out for testing where that is not given.
        proposals: How many boxes of selective search an image gets, for R-CNN and Fast R-CNN.
        augment: What training does, for example ``{"train": "flip"}``.
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
        sets: str = "ImageSets/Main",
        annotations: str = "Annotations",
        images: str = "JPEGImages",
        class_names: list[str] | None = None,
        one_based: bool = False,
        target: Literal["boxes", "instances", "semantic"] = "boxes",
        image_size: Sides = 800,
        max_size: Side = 1333,
        resize: Fit = "fit",
        in_channels: Literal[1, 3] = 3,
        aspect_grouping: bool = True,
        defects: Defects = "repair",
        empty: Empty = "keep",
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
                defects,
                empty,
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
        self.sets, self.annotations, self.images = sets, annotations, images
        self.class_names, self.one_based = class_names, one_based

    def find(self) -> Found:
        """Read the lists and the XML files of their images."""
        files = list_folder(self.root, self.images, IMAGE_SUFFIXES)
        if not files:
            raise DataError(f"{self.root / self.images}: holds no images (data.images).")
        stems = by_stem(files, self.images)
        records = {
            split: [self._record(stem, stems.get(stem, [])) for stem in listed]
            for split, listed in self._lists(stems).items()
        }
        names = self.class_names
        if names is None:
            labels = {label for record in records["train"] for _, label, _ in record.objects}
            names = sorted(labels)
        listings: dict[Split, Listing] = {}
        for split, found in records.items():
            if self.target == "boxes":
                listings[split] = self._draft(found, names)
            else:
                listings[split] = self._segmentation(found, names)
        return Found(names, listings)

    def _lists(self, stems: dict[str, list[str]]) -> dict[Split, list[str]]:
        """The names of the images of each split, without suffix."""
        words = find_splits(self.root / self.sets, "{split}.txt")
        if "train" in words:
            folder = self.root / self.sets
            return {split: _read_list(folder / f"{word}.txt") for split, word in words.items()}
        if self.target != "boxes":
            raise DataError(f"{self.root / self.sets}: has no train.txt (data.sets).")
        told = by_stem(list_folder(self.root, self.annotations, XML), self.annotations)
        return {"train": sorted({*stems, *told})}

    def _record(self, stem: str, files: list[str]) -> Record:
        """What is known of an image, and what is wrong with it."""
        path = self.root / self.annotations / f"{stem}.xml"
        if not files:
            problem = f"{path}: there is no image of its name in {self.root / self.images}."
            return Record(f"{self.images}/{stem}", problems=[problem])
        record = Record(files[0])
        try:
            tree = ElementTree.parse(path).getroot()
        except FileNotFoundError:
            record.problems.append(f"{self.root / files[0]}: has no annotations, {path}.")
            return record
        except (OSError, ElementTree.ParseError) as error:
            record.problems.append(f"{path}: cannot be read as XML ({error}).")
            return record
        own = Path(tree.findtext("filename") or "").name
        if len(files) > 1 or own not in ("", Path(files[0]).name, Path(stem).name):
            several = [file for file in files if Path(file).name == own]
            if not several:
                is_of = f"{own!r}, and not of {' or '.join(Path(file).name for file in files)}"
                record.problems.append(f"{path}: is of {is_of}, by its `filename`.")
            record.name = (several or files)[0]
        record.said = _size(tree)
        for number, element in enumerate(tree.iter("object")):
            try:
                record.objects.append(_read_object(element, self.one_based))
            except ValueError as error:
                record.problems.append(f"{path}: object {number} {error}")
        return record

    def _draft(self, records: list[Record], names: list[str]) -> Draft:
        draft = Draft(self.root)
        numbers = {name: number for number, name in enumerate(names)}
        for record in records:
            image = draft.add_image(record.name, record.said)
            stem = Path(record.name).relative_to(self.images).with_suffix(".xml")
            path = self.root / self.annotations / stem
            draft.problems[image] += record.problems
            for number, (box, label, difficult) in enumerate(record.objects):
                if label in numbers or len(names) == 1:
                    origin, which = f"{path}: object {number}", numbers.get(label, 0)
                    draft.add_object(image, box, which, origin, iscrowd=difficult)
                else:
                    draft.problems[image].append(
                        f"{path}: object {number} is a {label!r}, which is none of the classes "
                        f"{', '.join(names[:20])} (data.class_names)."
                    )
        return draft

    def _segmentation(self, records: list[Record], names: list[str]) -> LabelListing:
        values = MaskValues.of([[value] for value in range(len(names) + 1)])
        listing = LabelListing(self.root, self.target == "instances", values)
        for record in records:
            image = listing.add_image(record.name, record.said)
            listing.problems[image] += record.problems
            stem = Path(record.name).stem
            if listing.instances is not None:
                listing.instances.append(f"SegmentationObject/{stem}.png")
            if listing.classes is not None:
                listing.classes.append(f"SegmentationClass/{stem}.png")
        return listing

    @classmethod
    def write_toy(cls, root: Path) -> None:
        """Discs and squares in the folders of VOC2012, with label images."""
        toy.write_voc(root)


def _read_list(path: Path) -> list[str]:
    """The first word of each line."""
    try:
        names = [line.split()[0] for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}).") from error
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"{path}: lists {', '.join(twice[:9])} more than once.")
    return names


def _size(tree: ElementTree.Element) -> Size | None:
    """Height and width; some programs write zeros."""
    try:
        height, width = (int(tree.findtext(f"size/{side}") or 0) for side in ("height", "width"))
    except ValueError:
        return None
    return (height, width) if height and width else None


def _read_object(element: ElementTree.Element, one_based: bool) -> tuple[Box, str, bool]:
    """Box, label and whether it is difficult, or a ``ValueError`` with the rest of a sentence."""
    label = (element.findtext("name") or "").strip()
    if not label:
        raise ValueError("has no name.")
    texts = [element.findtext(f"bndbox/{side}") for side in SIDES]
    try:
        left, top, right, bottom = (float(text or "") for text in texts)
    except ValueError:
        raise ValueError(f"has no box of numbers: {', '.join(map(str, texts))}.") from None
    if not math.isfinite(left + top + right + bottom):
        raise ValueError("has a box that is not finite.")
    difficult = (element.findtext("difficult") or "0").strip() == "1"
    return (left - one_based, top - one_based, right, bottom), label, difficult
