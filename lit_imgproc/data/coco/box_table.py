"""Boxes in CSV files: a line a box."""

import csv
import math
from pathlib import Path
from typing import Literal

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
from lit_imgproc.data.coco.listing import Draft
from lit_imgproc.data.readable import OnError
from lit_imgproc.data.transforms import AugmentChoice

SIDES = ("xmin", "ymin", "xmax", "ymax")
Rows = list[tuple[str, dict[str, str]]]
"""Where each row is, and its columns."""


class BoxTable(AnnotatedData):
    """Boxes in CSV files with the columns ``image_path``, ``xmin``, ``ymin``, ``xmax``, ``ymax``.

    And ``label``. Boxes are edges in pixels, counted from 0. A line without numbers lists an image
    without objects. It is what DeepForest writes, for one.

    Example:
        >>> data = BoxTable(root="data/neon_trees", tables="*.csv", class_names=["Tree"])

    Args:
        root: The folder of the data set.
        tables: The file in it; or a pattern for several, such as ``*.csv``; or one with ``{split}``
            for ``train``, ``val`` and ``test``.
        images: The folder in it that ``image_path`` is relative to.
        class_names: The names of the classes; ``None`` takes the labels of the training images,
            sorted. Where it is a single one, all boxes are of it, whatever their labels say.
        image_size: See :class:`~lit_imgproc.data.coco.coco_json.CocoData`, as for the others.
        max_size: What the longer side must not exceed.
        resize: ``fit``, ``squash`` or ``none``.
        in_channels: 3 for RGB, 1 for grey.
        aspect_grouping: Whether a training batch is of images of like aspect ratio.
        defects: ``repair`` boxes that cannot be used as they are, or ``refuse`` them.
        empty: Whether training images without boxes are kept, or dropped.
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
        tables: str = "{split}.csv",
        images: str = ".",
        class_names: list[str] | None = None,
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
            target="boxes",
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
        self.tables, self.images, self.class_names = tables, images, class_names

    def find(self) -> Found:
        """Read the tables."""
        if "{split}" in self.tables:
            words = find_splits(self.root, self.tables)
            files = {
                split: [self.root / self.tables.replace("{split}", word)]
                for split, word in words.items()
            }
        else:
            files = {"train": sorted(self.root.glob(self.tables))}
        if not files.get("train"):
            raise DataError(f"{self.root}: there is no {self.tables} (data.tables).")
        rows: dict[Split, Rows] = {
            split: [row for path in paths for row in _read(path)] for split, paths in files.items()
        }
        names = self.class_names
        if names is None:
            labels = {row["label"].strip() for _, row in rows["train"] if _is_box(row)}
            names = sorted(labels - {""})
        return Found(names, {split: self._draft(some, names) for split, some in rows.items()})

    def _draft(self, rows: Rows, names: list[str]) -> Draft:
        draft = Draft(self.root)
        images: dict[str, int] = {}
        labels = {name: number for number, name in enumerate(names)}
        for where, row in rows:
            name = Path(self.images, row["image_path"].strip()).as_posix()
            image = images[name] if name in images else draft.add_image(name)
            images[name] = image
            if not _is_box(row):
                continue
            label = 0 if len(names) == 1 else labels.get(row["label"].strip())
            try:
                left, top, right, bottom = (float(row[side]) for side in SIDES)
            except ValueError:
                left, top, right, bottom = (math.nan,) * 4
            if not math.isfinite(left + top + right + bottom):
                draft.problems[image].append(f"{where}: {', '.join(SIDES)} are not four numbers.")
            elif label is None:
                draft.problems[image].append(
                    f"{where}: is a {row['label']!r}, which is none of the classes "
                    f"{', '.join(names[:20])} (data.class_names)."
                )
            else:
                draft.add_object(image, (left, top, right, bottom), label, where)
        return draft

    @classmethod
    def write_toy(cls, root: Path) -> None:
        """Discs and squares with their boxes in ``train.csv``, ``val.csv`` and ``test.csv``."""
        toy.write_table(root)


def _is_box(row: dict[str, str]) -> bool:
    return any(row[side].strip() for side in SIDES)


def _read(path: Path) -> Rows:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            columns, rows = reader.fieldnames or [], list(enumerate(reader, start=2))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error}).") from error
    needed = ("image_path", *SIDES, "label")
    if missing := [name for name in needed if name not in columns]:
        raise DataError(
            f"{path}: has no column {' and no column '.join(missing)}; its columns are "
            f"{', '.join(columns) or 'none'}."
        )
    raise_all([f"{path}:{n}: has no image_path." for n, row in rows if not row["image_path"]])
    return [(f"{path}:{number}", row) for number, row in rows]
