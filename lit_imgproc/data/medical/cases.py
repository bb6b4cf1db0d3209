"""Which cases a data set of the Medical Segmentation Decathlon's layout holds."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lit_imgproc.data.base import Split
from lit_imgproc.data.errors import DataError
from lit_imgproc.data.medical.read import read_header
from lit_imgproc.data.splits import held_out_groups

INDEX = "dataset.json"
GIVEN: dict[str, Split] = {"training": "train", "validation": "val", "test": "test"}

SAME_PLACE = 0.05
"""Voxels by which a label may lie beside its image: affines are rounded by who wrote them."""


@dataclass(frozen=True)
class Case:
    """An image and its label.

    Args:
        name: The image, relative to the root.
        image: Its file, or the folder of its series.
        label: The file of its label.
        group: The patient: as ``dataset.json`` says under ``patient``, or the case itself.
    """

    name: str
    image: Path
    label: Path
    group: str


@dataclass
class Cases:
    """What ``dataset.json`` says.

    Args:
        root: Its folder.
        class_names: In the order of the values in the labels, background first.
        channels: Of the images.
        splits: The cases of each split.
        problems: A sentence for each case that cannot be used.
    """

    root: Path
    class_names: list[str]
    channels: int
    splits: dict[Split, list[Case]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def list_cases(root: Path, val_fraction: float, test_fraction: float) -> Cases:
    """Read ``dataset.json`` and the headers of all files.

    ``training`` lists pairs of ``image`` and ``label``. ``validation``, and ``test`` where it has
    labels, are splits where they are there; what is not is held out of the training cases, whole
    patients, always the same ones. Without ``test``, a given ``validation`` is tested on.

    Raises:
        DataError: The file is missing or does not say what it must.
    """
    cases = _read_index(root)
    if val_fraction + test_fraction >= 1:
        raise DataError("data: val_fraction and test_fraction leave no training cases.")
    for split, members in cases.splits.items():
        kept = []
        for case in members:
            problem = _check(case, cases.channels)
            if problem is None:
                kept.append(case)
            else:
                cases.problems.append(problem)
        cases.splits[split] = kept
    return cases


def hold_out(cases: Cases, val_fraction: float, test_fraction: float) -> None:
    """Make the splits that are not given.

    Raises:
        DataError: A split has no cases, or a patient is in two of them.
    """
    splits = cases.splits
    if splits.keys() == {"train"}:
        splits["train"], splits["test"] = _part(splits["train"], test_fraction)
        val_fraction /= 1 - test_fraction
    if "val" not in splits:
        splits["train"], splits["val"] = _part(splits["train"], val_fraction)
    splits.setdefault("test", splits["val"])
    problems = [
        f"{cases.root / INDEX}: no {split} cases are left; at least three cases are needed."
        for split in ("train", "val", "test")
        if not splits.get(split)
    ]
    known: dict[str, Split] = {}
    for split in ("train", "val", "test"):
        if split == "test" and splits["test"] is splits["val"]:
            continue
        for group in sorted({case.group for case in splits.get(split, [])}):
            if group in known:
                problems.append(
                    f"{cases.root / INDEX}: {group} is in {known[group]} and in {split}."
                )
            known[group] = split
    if problems:
        raise DataError("\n".join(problems))


def _read_index(root: Path) -> Cases:
    path = root / INDEX
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}) (data.root).") from error
    except ValueError as error:
        raise DataError(f"{path}: not a JSON file ({error}).") from error
    if not isinstance(content, dict) or not isinstance(content.get("training"), list):
        raise DataError(f"{path}: has no list `training`.")
    channels = content.get("modality") or content.get("channel_names") or {"0": "image"}
    cases = Cases(root, _class_names(content.get("labels"), path), len(channels))
    problems: list[str] = []
    for key, split in GIVEN.items():
        entries = content.get(key) or []
        pairs = [entry for entry in entries if isinstance(entry, dict) and "label" in entry]
        if key == "training" or (pairs and len(pairs) == len(entries)):
            cases.splits[split] = [_case(root, entry, path, problems) for entry in entries]
    if problems:
        raise DataError("\n".join(problems))
    return cases


def _case(root: Path, entry: Any, path: Path, problems: list[str]) -> Case:
    if not isinstance(entry, dict) or not {"image", "label"} <= entry.keys():
        problems.append(f"{path}: {entry!r} is not a pair of `image` and `label`.")
        return Case("", root, root, "")
    image, label = Path(entry["image"]), Path(entry["label"])
    name = image.as_posix()
    return Case(name, root / image, root / label, str(entry.get("patient", name)))


def _class_names(labels: Any, path: Path) -> list[str]:
    """In the order of their values; nnU-Net writes names to values, MSD values to names."""
    found: dict[int, str] = {}
    for key, value in (labels if isinstance(labels, dict) else {}).items():
        try:
            if str(key).isdigit():
                found[int(key)] = str(value)
            else:
                found[int(value)] = str(key)
        except (TypeError, ValueError):
            raise DataError(f"{path}: label {key!r}: {value!r} is no single value.") from None
    if sorted(found) != list(range(len(found))) or len(found) < 2:
        raise DataError(
            f"{path}: `labels` must be the values 0 (background), 1, … with their names; "
            f"it is {labels!r}."
        )
    return [found[number] for number in range(len(found))]


def _check(case: Case, channels: int) -> str | None:
    """What the headers of a case tell against it."""
    for file in (case.image, case.label):
        if not file.exists():
            what = "image" if file == case.image else f"label of {case.image}"
            return f"{file}: there is no such file, the {what}."
    try:
        image, label = read_header(case.image), read_header(case.label)
    except DataError as error:
        return str(error)
    if image.shape[0] != channels:
        return f"{case.image}: has {image.shape[0]} channels where {INDEX} names {channels}."
    if label.shape[0] != 1 or label.shape[1:] != image.shape[1:]:
        return (
            f"{case.label}: has the shape {list(label.shape[1:])}, its image "
            f"{list(image.shape[1:])}."
        )
    apart = np.linalg.inv(image.affine) @ label.affine - np.eye(4)
    corner = np.asarray([*image.shape[:0:-1], 1.0])
    if np.abs(apart @ corner).max() > SAME_PLACE:
        return f"{case.label}: lies elsewhere than its image; their affines differ."
    return None


def _part(cases: list[Case], fraction: float) -> tuple[list[Case], list[Case]]:
    """What remains and what is held out."""
    if not cases:
        return [], []
    out = held_out_groups([case.group for case in cases], fraction)
    kept = [case for case, is_out in zip(cases, out, strict=True) if not is_out]
    return kept, [case for case, is_out in zip(cases, out, strict=True) if is_out]
