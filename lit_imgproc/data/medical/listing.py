"""A CSV file of images, their labels and their patients."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lit_imgproc.data.base import Split, raise_all
from lit_imgproc.data.errors import DataError
from lit_imgproc.data.imagenet.datasets import Labels
from lit_imgproc.data.splits import held_out_groups

NEEDED = ("path", "label", "patient")
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class Row(NamedTuple):
    """One image.

    Attributes:
        path: Relative to the root.
        label: As it is written: ``a|b`` is two labels.
        patient: Whose it is.
        frame: Of a file of several, counted from 0; ``None`` where the file must have one.
    """

    path: str
    label: str
    patient: str
    frame: int | None

    @property
    def labels(self) -> list[str]:
        """The labels one by one."""
        return [name for name in self.label.split("|") if name]

    @property
    def name(self) -> str:
        """What identifies it."""
        return self.path if self.frame is None else f"{self.path}#{self.frame}"


@dataclass
class Rows:
    """The images of each split.

    Args:
        splits: The rows of each.
        where: The CSV file, for what is said about it.
        problems: A sentence for each file that is not there.
    """

    splits: dict[Split, list[Row]]
    where: Path
    problems: list[str]

    @property
    def class_names(self) -> list[str]:
        """The labels of the training images, sorted."""
        return sorted({name for row in self.splits["train"] for name in row.labels})

    def encode(self, split: Split) -> Labels:
        """The labels of a split: int64 ``[N]`` or, where images have several, float32 ``[N,K]``."""
        number = {name: number for number, name in enumerate(self.class_names)}
        rows = self.splits[split]
        if all(len(row.labels) == 1 for some in self.splits.values() for row in some):
            return np.array([number[row.label] for row in rows], np.int64)
        encoded = np.zeros((len(rows), len(number)), np.float32)
        for line, row in zip(encoded, rows, strict=True):
            line[[number[name] for name in row.labels]] = 1
        return encoded

    def check(self) -> None:
        """See that training can be done with what is left.

        Raises:
            DataError: With one line for everything that is wrong.
        """
        known, problems = set(self.class_names), []
        if len(known) < 2:
            problems.append(f"{self.where}: two classes are needed in the training images.")
        for split in SPLITS:
            if not self.splits[split]:
                problems.append(f"{self.where}: no {split} images are left.")
            unknown = {name for row in self.splits[split] for name in row.labels} - known
            problems += [
                f"{self.where}: class {name!r} of the {split} images has no training images."
                for name in sorted(unknown)
            ]
        raise_all(problems)


def list_rows(root: Path, index: str, val_fraction: float, test_fraction: float) -> Rows:
    """Read the columns ``path``, ``label``, ``patient`` and, if they are there, more.

    ``split`` says which of train, val and test an image is in. What is not given is held out: whole
    patients, always the same ones. ``frame`` counts the frames of a file from 0.

    Raises:
        DataError: With one line for everything that is wrong with the CSV file.
    """
    if val_fraction + test_fraction >= 1:
        raise DataError("data: val_fraction and test_fraction leave no training images.")
    where = root / index
    columns, lines = _read(where)
    missing = [name for name in NEEDED if name not in columns]
    if missing:
        why = ": images of one patient must not be in two splits" if "patient" in missing else ""
        raise DataError(
            f"{where}: has no column {' and no column '.join(missing)}{why}; its columns are "
            f"{', '.join(columns) or 'none'}."
        )
    rows: dict[Split, list[Row]] = {}
    problems: list[str] = []
    absent: list[str] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=2):
        split = line.get("split") or "train" if "split" in columns else "train"
        frame = line.get("frame") or None
        if split not in SPLITS:
            problems.append(f"{where}:{number}: split is {split!r}; train, val or test is needed.")
            continue
        if frame is not None and not frame.isdigit():
            problems.append(f"{where}:{number}: frame is {frame!r}; a number from 0 is needed.")
            continue
        if not line["path"] or line["label"] is None or not line["patient"]:
            problems.append(f"{where}:{number}: a path, a label and a patient are needed.")
            continue
        row = Row(line["path"], line["label"], line["patient"], int(frame) if frame else None)
        if row.name in seen:
            problems.append(f"{where}:{number}: {row.name} is in line {seen[row.name]} already.")
        seen[row.name] = number
        if not (root / row.path).is_file():
            absent.append(f"{root / row.path}: there is no such file ({index}:{number}).")
        else:
            rows.setdefault(split, []).append(row)
    raise_all(problems or ([] if lines else [f"{where}: lists no images."]))
    raise_all(_shared(rows, where))
    return Rows(_complete(rows, val_fraction, test_fraction), where, absent)


def _read(where: Path) -> tuple[Sequence[str], list[dict[str, str]]]:
    try:
        with where.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            return reader.fieldnames or [], list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{where}: cannot be read ({error}) (data.root, data.index).") from error


def _shared(rows: dict[Split, list[Row]], where: Path) -> list[str]:
    """A sentence for each patient in two splits."""
    problems: list[str] = []
    known: dict[str, Split] = {}
    for split, some in rows.items():
        for patient in sorted({row.patient for row in some}):
            if patient in known:
                problems.append(
                    f"{where}: patient {patient} is in {known[patient]} and in {split}; all images "
                    "of a patient must be in one split."
                )
            known[patient] = split
    return problems


def _complete(
    rows: dict[Split, list[Row]], val_fraction: float, test_fraction: float
) -> dict[Split, list[Row]]:
    """Make the splits that are not given; without ``test``, the images of ``val`` are tested on."""
    train = rows.get("train", [])
    if rows.keys() <= {"train"}:
        train, rows["test"] = _part(train, test_fraction)
        val_fraction /= 1 - test_fraction
    if "val" not in rows:
        train, rows["val"] = _part(train, val_fraction)
    return {"train": train, "val": rows["val"], "test": rows.get("test", rows["val"])}


def _part(rows: list[Row], fraction: float) -> tuple[list[Row], list[Row]]:
    """What remains and what is held out."""
    if not rows:
        return [], []
    out = held_out_groups([row.patient for row in rows], fraction)
    kept = [row for row, is_out in zip(rows, out, strict=True) if not is_out]
    return kept, [row for row, is_out in zip(rows, out, strict=True) if is_out]
