"""Whether a data set can be trusted: its files, its annotations, and what its splits share."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, cast

import numpy as np

from lit_imgproc.data.base import ImageDataModule, Progress, Split
from lit_imgproc.data.errors import DataError
from lit_imgproc.data.inspect import Look, inspect

CHECKSUMS = "SHA256SUMS"
"""A file of this name in the root of a data set, as ``sha256sum`` writes it, is checked."""
ALIKE = 0.999
"""Correlation of two thumbnails of 16x16 grey pixels from which two images are called alike."""
BLOCK = 4096

Looks = Mapping[Split, Sequence[Look]]


@dataclass
class Report:
    """What was found.

    Attributes:
        problems: A sentence for everything that is wrong.
        remarks: A sentence for what may be meant: images that are much alike, say.
        images: How many were looked at, by split.
        fingerprint: Of everything that is used, or ``""`` where a file of it cannot be read.
    """

    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    images: dict[str, int] = field(default_factory=dict)
    fingerprint: str = ""


def verify(data: ImageDataModule, progress: Progress) -> Report:
    """Decode every image, compare it with its annotations, and the splits with each other.

    Problems are files that cannot be read, checksums that are not met (those beside the data, and
    those of its prepared copies), pixels that are not finite,
    annotations that do not belong to their image, and leakage: the same pixels, or images of one
    patient or tile, in two splits. Images that are much alike in two splits, and the same image
    twice in one, are remarks, since they may be meant.

    Args:
        data: Not prepared yet, or prepared.
        progress: Shows how far it is.
    """
    report = Report()
    report.problems += _checksums(Path(getattr(data, "root", "") or "."), progress)
    report.problems += data.verify_cache(progress)
    try:
        data.prepare()
    except DataError as error:
        report.problems += str(error).splitlines()
        return report
    report.problems += data.left_out
    report.remarks += [f"{repair}: {count}." for repair, count in data.repaired.items()]
    looks: dict[Split, list[Look]] = {}
    for split, count in data.splits().items():
        looks[split] = list(inspect(data, split, progress))
        report.images[split] = count
    for found in looks.values():
        report.problems += [problem for look in found for problem in look.problems]
    report.problems += _leaks(looks)
    report.remarks += [*_twins(looks), *_alike(looks, progress)]
    with suppress(DataError, OSError):  # a file that cannot be read has been named
        report.fingerprint = data.fingerprint()
    return report


def _checksums(root: Path, progress: Progress) -> Iterator[str]:
    path = root / CHECKSUMS
    if not path.is_file():
        return
    lines = path.read_text("utf-8").splitlines()
    for line in progress(lines, "checksums", len(lines)):
        digest, _, name = line.partition(" ")
        name = name.lstrip(" *")
        try:
            with (root / name).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            yield f"{root / name}: is listed in {CHECKSUMS} and cannot be read ({error.strerror})."
            continue
        if found != digest.lower():
            yield f"{root / name}: is not what {CHECKSUMS} says; copy or download it again."


def _leaks(looks: Looks) -> Iterator[str]:
    for one, other in _pairs(looks):
        for what, noun in (("digest", "the same pixels as"), ("group", "of the same group as")):
            known = {_key(look, what): look.name for look in looks[one]}
            known.pop(None, None)
            told = set()
            for look in looks[other]:
                key = _key(look, what)
                if key in known and key not in told:
                    told.add(key)
                    of = f" ({key})" if what == "group" else ""
                    yield f"{look.name} of {other} is {noun} {known[key]} of {one}{of}."


def _twins(looks: Looks) -> Iterator[str]:
    for split, found in looks.items():
        known: dict[Any, str] = {}
        for look in found:
            key = _key(look, "digest")
            if key in known:
                yield f"{look.name} of {split} has the same pixels as {known[key]}."
            elif key is not None:
                known[key] = look.name


def _alike(looks: Looks, progress: Progress) -> Iterator[str]:
    """Pairs across two splits that differ in little, the nearest of each image."""
    for one, other in _pairs(looks):
        first = [look for look in looks[one] if look.thumbnail is not None]
        second = [look for look in looks[other] if look.thumbnail is not None]
        if not first or not second:
            continue
        table = np.stack([cast(Any, look.thumbnail) for look in first])
        starts = range(0, len(second), BLOCK)
        for start in progress(starts, f"{one} and {other}", len(starts)):
            rows = second[start : start + BLOCK]
            likeness, nearest = _nearest(
                np.stack([cast(Any, look.thumbnail) for look in rows]), table
            )
            for look, value, index in zip(rows, likeness, nearest, strict=True):
                twin = first[index]
                if value >= ALIKE and twin.digest != look.digest:
                    yield (
                        f"{look.name} of {other} is much like {twin.name} of {one} "
                        f"(correlation {value:.4f})."
                    )


def _nearest(rows: Any, table: Any) -> tuple[Any, Any]:
    """The greatest correlation of each row with a row of the table, and which row that is."""
    best = np.full(len(rows), -1, np.float32)
    index = np.zeros(len(rows), int)
    for start in range(0, len(table), BLOCK):
        products = rows @ table[start : start + BLOCK].T
        here = products.argmax(1)
        value = products[np.arange(len(rows)), here]
        better = value > best
        best[better], index[better] = value[better], here[better] + start
    return best, index


def _key(look: Look, what: str) -> Any:
    """What is compared; pixels without any contrast, as of blank slices, say nothing."""
    return None if what == "digest" and look.thumbnail is None else getattr(look, what)


def _pairs(looks: Looks) -> Iterator[tuple[Split, Split]]:
    """The splits in twos, without those that are one and the same, as `val` may be `test`."""
    for one, other in combinations(looks, 2):
        if [look.name for look in looks[one]] != [look.name for look in looks[other]]:
            yield one, other
