"""Which files belong together, and to which split they go."""

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from lit_imgproc.data.base import Split
from lit_imgproc.data.coco.patterns import SPLIT, Matches, find_matches, wildcards
from lit_imgproc.data.coco.split_index import read_index
from lit_imgproc.data.decode import IMAGE_SUFFIXES
from lit_imgproc.data.errors import DataError
from lit_imgproc.data.probe import THREADS, Probe, probe
from lit_imgproc.data.splits import held_out
from lit_imgproc.errors import UserError

T = TypeVar("T")

SPLITS: tuple[Split, ...] = ("train", "val", "test")
AT_ONCE = 64

Patterns = dict[Literal["train", "val", "test"], list[str]]

log = logging.getLogger(__name__)


class Pair(NamedTuple):
    """A source and a target, relative to the root; one file may be both."""

    source: str
    target: str


@dataclass(frozen=True)
class Dealing:
    """How files go to splits; see :class:`~lit_imgproc.data.pairs.paired.PairedImages`."""

    splits: Patterns | None
    index: str | None
    val_fraction: float
    test_fraction: float

    def check(self, patterns: Mapping[str, str]) -> None:
        """Refuse patterns and settings that do not fit together.

        Args:
            patterns: By the names of their arguments.

        Raises:
            UserError: They do not.
        """
        for what, pattern in patterns.items():
            if not wildcards(pattern):
                raise UserError(
                    f"data.{what}={pattern} has no wildcard: write * where the names of files "
                    "differ"
                )
        given = [what for what in ("splits", "index") if getattr(self, what) is not None]
        if any(SPLIT in pattern for pattern in patterns.values()):
            given.append("{split} in a pattern")
        if len(given) > 1:
            raise UserError(
                f"data.{' and '.join(given)} both say of which split a file is: give one of them"
            )
        if self.splits is not None and not {"train", "val"} <= self.splits.keys():
            raise UserError("data.splits: patterns for train and val are needed")
        if self.val_fraction + self.test_fraction >= 1:
            raise UserError("data.val_fraction and data.test_fraction leave no training images")

    def deal(self, root: Path, found: Mapping[Split, Mapping[str, T]]) -> dict[Split, list[T]]:
        """What goes to each split.

        Without test files, those of validation are the test files.

        Args:
            root: The folder of the data set.
            found: Files by split, as far as patterns tell it, and by what the wildcards stand for.

        Raises:
            DataError: They are not what ``splits`` or ``index`` is about.
        """
        by_key = {split: dict(files) for split, files in found.items()}
        every = by_key.get("train", {})
        keys: dict[Split, list[str]] | None = None
        if self.index is not None:
            keys = read_index(root / self.index, root, sorted(every))
        elif self.splits is not None:
            keys = _by_pattern(sorted(every), self.splits)
        if keys is not None:
            by_key = {
                split: {key: every[key] for key in some if key in every}
                for split, some in keys.items()
            }
        val = self.val_fraction
        if by_key.keys() == {"train"}:
            by_key["train"], by_key["test"] = _part(by_key["train"], self.test_fraction)
            val /= 1 - self.test_fraction
        if "val" not in by_key:
            by_key["train"], by_key["val"] = _part(by_key["train"], val)
        result = {split: list(files.values()) for split, files in by_key.items()}
        result.setdefault("test", result["val"])
        return result


def find_files(root: Path, pattern: str, setting: str) -> Matches:
    """The image files of a pattern, by split and by what its wildcards stand for.

    Args:
        root: The folder of the data set.
        pattern: Relative to it; see :func:`~lit_imgproc.data.coco.patterns.find_matches`.
        setting: The argument that it is of.

    Raises:
        DataError: There are none to train on.
    """
    if not root.is_dir():
        raise DataError(f"{root}: there is no such folder (data.root).")
    found = find_matches(root, pattern, IMAGE_SUFFIXES)
    if not found.get("train"):
        what = "training images" if SPLIT in pattern else "images"
        raise DataError(f"{root}: holds no {what} {pattern} (data.{setting}).")
    return found


def singles(found: Matches) -> dict[Split, dict[str, str]]:
    """Every file by itself, by a key of its own."""
    return {
        split: {
            key if len(names) == 1 else name: name for key, names in keys.items() for name in names
        }
        for split, keys in found.items()
    }


def pairs(
    root: Path, sources: Matches, targets: Matches
) -> tuple[dict[Split, dict[str, Pair]], list[str]]:
    """Pair the files of two patterns by what the wildcards stand for.

    Returns:
        Pairs by split and key, and a sentence for what has no partner, or several.
    """
    found: dict[Split, dict[str, Pair]] = {}
    problems: list[str] = []
    for split in (split for split in SPLITS if split in sources or split in targets):
        some, others = sources.get(split, {}), targets.get(split, {})
        for key in sorted({*some, *others}):
            here, there = some.get(key, []), others.get(key, [])
            if len(here) == len(there) == 1:
                found.setdefault(split, {})[key] = Pair(here[0], there[0])
            else:
                problems.append(
                    f"{root / (here or there)[0]}: there are {len(here)} sources and {len(there)} "
                    f"targets of {key}; one of each is needed (data.source, data.target)."
                )
    return found, problems


def look(root: Path, names: Sequence[str]) -> list[Probe | str]:
    """What the header of each file says, or a sentence why it cannot be used."""

    def some(first: int) -> list[Probe | str]:
        return [probe(os.path.join(root, name)) for name in names[first : first + AT_ONCE]]

    with ThreadPoolExecutor(THREADS) as pool:
        return [one for found in pool.map(some, range(0, len(names), AT_ONCE)) for one in found]


def digest_file(digest: "hashlib._Hash", root: Path, name: str) -> None:
    """Feed the name and the bytes of a file to a digest."""
    digest.update(f"\0{name}\0".encode("utf-8", "surrogateescape"))
    with open(root / name, "rb") as file:
        digest.update(hashlib.file_digest(file, "sha256").digest())


def _by_pattern(keys: Sequence[str], patterns: Patterns) -> dict[Split, list[str]]:
    found: dict[Split, list[str]] = {split: [] for split in patterns}
    unused = 0
    for key in keys:
        splits = [s for s, some in patterns.items() if any(fnmatch(key, one) for one in some)]
        if len(splits) > 1:
            raise DataError(f"{key}: is of {' and of '.join(splits)} (data.splits).")
        unused += not splits
        for split in splits:
            found[split].append(key)
    if unused:
        log.warning("%d of %d files are of no split (data.splits): not used", unused, len(keys))
    return found


def _part(files: dict[str, T], fraction: float) -> tuple[dict[str, T], dict[str, T]]:
    """What remains and what is held out: always the same files, whatever the seed."""
    keys = list(files)
    out = dict(zip(keys, held_out(keys, [0] * len(keys), fraction).tolist(), strict=True))
    kept = {key: file for key, file in files.items() if not out[key]}
    return kept, {key: file for key, file in files.items() if out[key]}
