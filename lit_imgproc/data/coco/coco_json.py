"""COCO's JSON: instances, crowds and captions."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lit_imgproc.data.base import BatchSize, DataError, NumWorkers, Split, raise_all
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
from lit_imgproc.data.coco.dataset import Target
from lit_imgproc.data.coco.listing import Draft
from lit_imgproc.data.coco.shapes import Shape, Size, read_shape
from lit_imgproc.data.readable import OnError
from lit_imgproc.data.transforms import AugmentChoice

SHORT = "polygons of less than three points left out"
NO_SHAPE = "objects without segmentation left out"


class CocoData(AnnotatedData):
    """COCO's JSON: boxes, polygons, run lengths, crowds and captions. arXiv:1405.0312.

    A file of annotations a split, or one for all, of which validation and test images are held
    out. Crowds are among the boxes, with ``iscrowd`` 1, and ignored in semantic masks where no
    object lies over them; of objects one over another, the smaller is seen there. Labels are
    numbers of categories in the order of their ids, from 0, which leaves no gaps.

    Images are scaled so that they keep their aspect ratio, and a batch has a list of them where
    their sizes differ. Each training batch is then of images of like aspect ratio.

    Example:
        >>> data = CocoData(
        ...     root="data/bccd", annotations="coco/instances_{split}.json", images="JPEGImages"
        ... )
        >>> data.facts()["class_names"]
        ['RBC', 'WBC', 'Platelets']

    Args:
        root: The folder of the data set.
        annotations: The file in it; ``{split}`` stands for ``train``, ``val`` (or ``valid``,
            ``validation``) and ``test``.
        images: The folder in it that the names of the images are relative to; ``{split}`` as in
            ``annotations``.
        target: What a sample has beside its image: ``boxes``; boxes and masks of ``instances``; a
            ``semantic`` mask, where 0 is background; or ``captions``.
        image_size: Shorter side of the images that networks see, in pixels. Of several, training
            draws one for each image, and evaluation takes the last.
        max_size: What the longer side must not exceed; the shorter one is smaller then.
        resize: ``fit`` as described; ``squash`` makes squares of ``image_size``; ``none`` leaves
            images as they are.
        in_channels: 3 for RGB, 1 for grey.
        aspect_grouping: Whether a training batch is of images of like aspect ratio.
        defects: ``repair`` cuts boxes at the edges of their images and leaves out those without
            area, outside of their image or told twice, and polygons of less than three points; how
            many is told and recorded. ``refuse`` stops and names each.
        empty: Whether training images without objects are kept, or dropped.
        val_fraction: Share of the images to hold out for validation where that is not given.
        test_fraction: Share of the images to hold out for testing where that is not given.
        proposals: How many boxes that may hold an object an image gets, for R-CNN and Fast R-CNN:
            those of selective search (:mod:`lit_imgproc.selective_search`), up to 2,000. An image
            is searched once, which takes about a second, before the first training or by
            ``lit-imgproc data prepare``, and what is found is kept in ``.lit_imgproc`` in ``root``,
            or where that cannot be written to in ``~/.cache/lit_imgproc``. Of ``boxes`` and
            ``instances`` alone.
        augment: What training does, for example ``{"train": "flip"}``.
        batch_size: Images in a batch of one process.
        num_workers: Processes that load images; ``None`` goes by the CPUs of this rank.
        on_error: What happens to images that cannot be used, or whose annotations contradict
            themselves: ``stop`` before training, or ``skip`` them, with a warning. The same in
            mid-run, as with ``ImageFolder``.
        seed: Seed of the order of the images and of their augmentations.

    Raises:
        DataError: When it is prepared, with one line for everything that is wrong.
    """

    def __init__(
        self,
        *,
        root: str,
        annotations: str = "annotations/instances_{split}2017.json",
        images: str = "{split}2017",
        target: Target = "boxes",
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
        self.annotations, self.images = annotations, images

    def find(self) -> Found:
        """Read the file of each split."""
        words = find_splits(self.root, self.annotations)
        if "train" not in words:
            raise DataError(f"{self.root}: there is no {self.annotations} (data.annotations).")
        drafts: dict[Split, Draft] = {}
        categories: dict[int, str] | None = None
        for split, word in words.items():
            path = self.root / self.annotations.replace("{split}", word)
            given = _load(path)
            here = _categories(path, given) if self.target != "captions" else {}
            if categories is None:
                categories = here
            elif here != categories:
                raise DataError(f"{path}: its categories are not those of the training file.")
            folder = self.images.replace("{split}", word)
            drafts[split] = self._draft(path, folder, given, list(categories))
        return Found(list((categories or {}).values()), drafts)

    def _draft(self, path: Path, folder: str, given: dict[str, Any], ids: list[int]) -> Draft:
        captioned = self.target == "captions"
        shaped = self.target in ("instances", "semantic")
        draft = Draft(self.root, shaped=shaped, captioned=captioned)
        numbers = _add_images(draft, path, folder, given)
        labels = {category: label for label, category in enumerate(ids)}
        seen: set[Any] = set()
        for entry in _entries(path, given, "annotations"):
            where = f"{path}: annotation {entry.get('id')}"
            image = numbers.get(entry.get("image_id"))
            if image is None:
                draft.remarks.append(f"{where} is of image {entry.get('image_id')}: there is none.")
                continue
            if "id" in entry and entry["id"] in seen:
                draft.problems[image].append(f"{where}: another annotation has this id.")
            seen.add(entry.get("id"))
            try:
                if captioned:
                    draft.sentences[image].append(_caption(entry))
                else:
                    _add_object(draft, image, entry, labels, where)
            except DataError as error:
                draft.problems[image].append(f"{where} of {draft.names[image]}: {error}")
        return draft

    @classmethod
    def write_toy(cls, root: Path) -> None:
        """Discs and squares with boxes, polygons, a crowd and captions, laid out as COCO is."""
        toy.write_coco(root)


def _load(path: Path) -> dict[str, Any]:
    try:
        given = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise DataError(f"{path}: is no JSON ({error}).") from error
    if not isinstance(given, dict):
        raise DataError(f"{path}: is no JSON of COCO: it must hold `images` and `annotations`.")
    return given


def _entries(path: Path, given: dict[str, Any], key: str) -> list[dict[str, Any]]:
    entries = given.get(key, [] if key == "annotations" else None)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f"{path}: has no list of `{key}`.")
    return entries


def _categories(path: Path, given: dict[str, Any]) -> dict[int, str]:
    """The names of the categories by their ids, in the order of these."""
    entries = _entries(path, given, "categories")
    try:
        pairs = sorted((int(entry["id"]), str(entry["name"])) for entry in entries)
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{path}: not every category has an `id` and a `name`.") from None
    for what, counts in zip(("id", "name"), map(Counter, zip(*pairs, strict=True)), strict=False):
        if twice := [one for one, count in counts.items() if count > 1]:
            raise DataError(f"{path}: several categories have the {what} {twice[0]}.")
    return dict(pairs)


def _add_images(draft: Draft, path: Path, folder: str, given: dict[str, Any]) -> dict[Any, int]:
    """Add the images; their numbers by their ids."""
    numbers: dict[Any, int] = {}
    problems: list[str] = []
    files: set[str] = set()
    for entry in _entries(path, given, "images"):
        number, file = entry.get("id"), entry.get("file_name")
        if not isinstance(number, int | str) or not isinstance(file, str):
            problems.append(f"{path}: an image has no `id` or no `file_name`: {entry}"[:200])
        elif number in numbers or file in files:
            what = f"id {number}" if number in numbers else f"file {file}"
            problems.append(f"{path}: several images have the {what}.")
        else:
            files.add(file)
            sides = entry.get("height"), entry.get("width")
            said = sides if all(isinstance(side, int) for side in sides) else None
            name = file if folder in ("", ".") else f"{folder}/{file}"
            numbers[number] = draft.add_image(name, said)  # type: ignore[arg-type]
    raise_all(problems)
    return numbers


def _caption(entry: dict[str, Any]) -> str:
    caption = entry.get("caption")
    if not isinstance(caption, str) or not caption.strip():
        raise DataError("has no caption.")
    return caption.strip()


def _add_object(
    draft: Draft, image: int, entry: dict[str, Any], labels: Mapping[Any, int], where: str
) -> None:
    """Add what an annotation tells, or raise a ``DataError`` that says why not."""
    label = labels.get(entry.get("category_id"))
    if label is None:
        raise DataError(f"category_id {entry.get('category_id')} is of no category.")
    try:
        x, y, width, height = (float(side) for side in entry["bbox"])
    except (KeyError, TypeError, ValueError):
        raise DataError("has no bbox of x, y, width and height.") from None
    if not math.isfinite(x + y + width + height):
        raise DataError("its bbox is not finite.")
    area, shape = entry.get("area"), _shape(draft, image, entry, where)
    if shape == []:
        draft.repair(NO_SHAPE, f"{where}: has no segmentation.")
        return
    draft.add_object(
        image,
        (x, y, x + width, y + height),
        label,
        where,
        iscrowd=bool(entry.get("iscrowd", 0)),
        area=float(area) if isinstance(area, int | float) else None,
        shape=shape,
    )


def _shape(draft: Draft, image: int, entry: dict[str, Any], where: str) -> Shape:
    if not draft.shaped:
        return b""
    size: Size | None = draft.said[image]
    if size is None:
        raise DataError("its image has no `height` and `width`.")
    shape, short = read_shape(entry.get("segmentation"), size)
    if short:
        draft.repair(SHORT, f"{where}: {short} of its polygons have less than three points.", short)
    return shape
