"""Which images a folder or an index file holds, of which class and split."""

import csv
import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lit_imgproc.data.base import Split, raise_all
from lit_imgproc.data.decode import IMAGE_SUFFIXES
from lit_imgproc.data.imagenet.datasets import Labels
from lit_imgproc.data.splits import held_out

FOLDERS: dict[str, Split] = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}

Files = list[tuple[str, str]]
"""Names relative to the root, and labels as they are written: ``a|b`` is two labels."""


@dataclass
class Listing:
    """The files of each split, and everything that is wrong with them."""

    root: Path
    files: dict[Split, Files] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def multilabel(self) -> bool:
        """Whether any image has several labels, or none."""
        labels = {label for files in self.files.values() for _, label in files}
        return any("|" in label or not label for label in labels)

    @property
    def class_names(self) -> list[str]:
        """The labels of the training images, sorted."""
        return sorted(_classes(self.files.get("train", [])))

    def encode(self, split: Split) -> Labels:
        """The labels of a split: int64 ``[N]`` or, for several an image, float32 ``[N,K]``."""
        number = {name: number for number, name in enumerate(self.class_names)}
        labels = [label for _, label in self.files[split]]
        if not self.multilabel:
            return np.array([number[label] for label in labels], np.int64)
        encoded = np.zeros((len(labels), len(number)), np.float32)
        for row, label in zip(encoded, labels, strict=True):
            row[[number[name] for name in _split_label(label)]] = 1
        return encoded

    def names(self) -> list[str]:
        """Every file once, whatever its split."""
        return sorted({name for files in self.files.values() for name, _ in files})

    def leave_out(self, problems: Sequence[str]) -> None:
        """Go on without the files that sentences ``<path>: <why>`` are about."""
        if not problems:
            return
        names, gone = set(self.names()), set()
        for problem in problems:
            told = problem.removeprefix(f"{self.root}{os.sep}")
            found = {told[: colon.start()] for colon in re.finditer(":", told)} & names
            if not found:
                self.problems.append(problem)
            gone |= found
        for split, files in self.files.items():
            self.files[split] = [file for file in files if file[0] not in gone]
        _check_classes(self)

    def draw(self, per_class: int, seed: int) -> None:
        """Keep ``per_class`` training images of each class, drawn by ``seed``."""
        if self.multilabel:
            self.problems.append("data.images_per_class: the images have several labels each.")
            return
        random = np.random.default_rng(seed)
        chosen: Files = []
        by_class: dict[str, Files] = {name: [] for name in self.class_names}
        for file in self.files["train"]:
            by_class[file[1]].append(file)
        for name, members in by_class.items():
            if len(members) < per_class:
                self.problems.append(
                    f"data.images_per_class: {per_class} asked for, "
                    f"but class {name!r} has {len(members)} training images."
                )
            else:
                kept = sorted(random.choice(len(members), per_class, replace=False).tolist())
                chosen += [members[index] for index in kept]
        self.files["train"] = chosen

    def raise_problems(self) -> None:
        """Raise a ``DataError`` with one line for each problem, if there are any."""
        raise_all(self.problems)


def list_images(
    root: Path, index: str | None, val_fraction: float, test_fraction: float
) -> Listing:
    """List a data set in any of the layouts that ``ImageFolder`` documents.

    Raises:
        DataError: With one line for everything that is wrong.
    """
    listing = Listing(root)
    if not root.is_dir():
        listing.problems.append(f"{root}: there is no such folder (data.root).")
    elif val_fraction + test_fraction >= 1:
        listing.problems.append("data: val_fraction and test_fraction leave no training images.")
    elif index is not None:
        _list_index(listing, root / index)
    else:
        _list_folders(listing)
    listing.raise_problems()
    _hold_out(listing.files, val_fraction, test_fraction)
    _check_classes(listing)
    listing.raise_problems()
    return listing


def _list_folders(listing: Listing) -> None:
    """``root/<split>/<class>/…`` or ``root/<class>/…``; the latter is all training so far."""
    root = listing.root
    parts = [FOLDERS.get(folder) for folder in _subfolders(root)]
    if "train" not in parts:
        listing.files["train"] = _list_classes(listing, root)
        return
    for folder in _subfolders(root):
        if folder in FOLDERS:
            files = _list_classes(listing, root / folder)
            listing.files.setdefault(FOLDERS[folder], []).extend(files)


def _list_classes(listing: Listing, folder: Path) -> Files:
    files: Files = []
    classes = _subfolders(folder)
    if not classes:
        listing.problems.append(f"{folder}: has no folders of classes.")
    within = folder.relative_to(listing.root).as_posix()
    within = "" if within == "." else f"{within}/"
    for name in classes:
        names = sorted(_images(folder / name, f"{within}{name}"))
        if not names:
            kinds = " ".join(sorted(IMAGE_SUFFIXES))
            listing.problems.append(f"{folder / name}: holds no images ({kinds}).")
        files += [(file, name) for file in names]
    return files


def _images(folder: Path | str, name: str) -> Iterator[str]:
    """The images in a folder and those in it, by ``name/…``; there may be millions."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                if not entry.is_symlink():  # which could lead back to where it lies
                    yield from _images(entry.path, f"{name}/{entry.name}")
            elif (
                entry.name[0] != "." and posixpath.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES
            ):
                yield f"{name}/{entry.name}"


def _list_index(listing: Listing, path: Path) -> None:
    """A CSV file with the columns ``path``, ``label`` and, if it likes, ``split``."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns, rows = reader.fieldnames or [], list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        listing.problems.append(f"{path}: cannot be read ({error}).")
        return
    if missing := {"path", "label"} - set(columns):
        listing.problems.append(
            f"{path}: has no column {' and no column '.join(sorted(missing))}; "
            f"its columns are {', '.join(columns) or 'none'}."
        )
        return
    if not rows:
        listing.problems.append(f"{path}: lists no images.")
    lines: dict[str, tuple[int, str, Split]] = {}
    for line, row in enumerate(rows, start=2):
        split = FOLDERS.get(row["split"] or "") if "split" in columns else "train"
        name, label = posixpath.normpath(row["path"]), row["label"]
        if split is None:
            listing.problems.append(
                f"{path}:{line}: split is {row['split']!r}; train, val or test is needed."
            )
        elif label is None:
            listing.problems.append(f"{path}:{line}: the line has no label.")
        elif name in lines:
            listing.problems.append(f"{path}:{line}: {_again(name, label, split, lines[name])}")
        elif not os.path.isfile(os.path.join(listing.root, name)):
            listing.problems.append(f"{path}:{line}: there is no file {row['path']}.")
        else:
            lines[name] = line, label, split
            listing.files.setdefault(split, []).append((name, label))


def _again(name: str, label: str, split: Split, before: tuple[int, str, Split]) -> str:
    """What is wrong with a file that another line lists, too."""
    line, other_label, other_split = before
    if split != other_split:
        return f"{name} is in {split}, and in {other_split} by line {line}: one can be true."
    if set(_split_label(label)) != set(_split_label(other_label)):
        return f"{name} has the label {label!r}, and by line {line} {other_label!r}."
    return f"{name} is listed twice, in line {line} before: delete one."


def _hold_out(files: dict[Split, Files], val_fraction: float, test_fraction: float) -> None:
    """Make the splits that are not given."""
    if not files.get("train"):
        return
    if files.keys() == {"train"}:
        files["train"], files["test"] = _part(files["train"], test_fraction)
        val_fraction /= 1 - test_fraction
    if "val" not in files:
        files["train"], files["val"] = _part(files["train"], val_fraction)
    files.setdefault("test", files["val"])


def _part(files: Files, fraction: float) -> tuple[Files, Files]:
    """What remains and what is held out."""
    out = held_out([name for name, _ in files], [label for _, label in files], fraction)
    kept = [file for file, is_out in zip(files, out, strict=True) if not is_out]
    return kept, [file for file, is_out in zip(files, out, strict=True) if is_out]


def _check_classes(listing: Listing) -> None:
    names = set(listing.class_names)
    if len(names) < 2:
        found = f"only the class {next(iter(names))!r}" if names else "none"
        listing.problems.append(f"{listing.root}: two classes are needed; there is {found}.")
    for split in ("val", "test"):
        files = listing.files.get(split, [])
        if not files:
            listing.problems.append(
                f"{listing.root}: no {split} images; give some, or more images to hold out of."
            )
        listing.problems += [
            f"{listing.root}: class {name!r} of the {split} images has no training images."
            for name in sorted(_classes(files) - names)
        ]


def _subfolders(folder: Path) -> list[str]:
    return sorted(
        entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != "."
    )


def _classes(files: Files) -> set[str]:
    return {name for label in {label for _, label in files} for name in _split_label(label)}


def _split_label(label: str) -> list[str]:
    return [name for name in label.split("|") if name]
