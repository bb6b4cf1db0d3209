"""A CSV file that says which split each image is of."""

import csv
from collections.abc import Collection
from pathlib import Path

from lit_imgproc.data.base import DataError, Split, raise_all
from lit_imgproc.data.coco.base import SPELLINGS


def read_index(path: Path, images: Path, ids: Collection[str]) -> dict[Split, list[str]]:
    """Read the columns ``id`` and ``split``.

    Args:
        path: The file.
        images: Where the images lie, to name those that are not listed.
        ids: Of all images, sorted.

    Returns:
        The ids of each split, in the order of the file.

    Raises:
        DataError: With one line for everything that is wrong; an image is in no line or in two.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            columns, rows = reader.fieldnames or [], list(enumerate(reader, start=2))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error}).") from error
    if missing := {"id", "split"} - set(columns):
        raise DataError(f"{path}: has no column {' and no column '.join(sorted(missing))}.")
    found: dict[Split, list[str]] = {}
    lines: dict[str, int] = {}
    problems: list[str] = []
    for number, row in rows:
        split = next((s for s, words in SPELLINGS.items() if row["split"] in words), None)
        before = lines.setdefault(row["id"], number)
        if split is None:
            problems.append(f"{path}:{number}: split is {row['split']!r}; train, val or test.")
        elif before != number:
            problems.append(f"{path}:{number}: {row['id']} is in line {before}, too.")
        else:
            found.setdefault(split, []).append(row["id"])
    if "train" not in found:
        problems.append(f"{path}: lists no training images.")
    problems += [f"{images / one}: is not listed in {path}." for one in ids if one not in lines]
    raise_all(problems)
    return found
