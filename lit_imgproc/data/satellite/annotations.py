"""Boxes beside rasters: GeoJSON in coordinates of the ground, CSV and Pascal VOC in pixels."""

import csv
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lit_imgproc.data.errors import DataError
from lit_imgproc.data.satellite.coordinates import read_geojson
from lit_imgproc.data.satellite.raster import Raster

SUFFIXES = frozenset({".geojson", ".csv", ".xml"})
SIDES = ("xmin", "ymin", "xmax", "ymax")
SMALLEST = 1.0
"""A box of less, in pixels, is none."""


class Objects(NamedTuple):
    """Boxes float64 ``[N,4]``, xyxy in pixels of the raster, and the names of their classes."""

    boxes: NDArray[np.float64]
    labels: list[str]


def read_objects(paths: Sequence[Path], raster: Raster) -> Objects:
    """The objects of one raster, from its annotation files.

    Raises:
        DataError: A file cannot be read, or two say different things.
    """
    found = [_read(path, raster) for path in paths]
    first = found[0]
    for path, other in zip(paths[1:], found[1:], strict=True):
        if not _same(first, other):
            raise DataError(
                f"{path}: does not say the same as {paths[0].name}; keep the one that is right."
            )
    return first


def mend(objects: Objects, raster: Raster) -> tuple[Objects, Counter[str]]:
    """Cut boxes at the edges of the raster; leave out those without area and those told twice.

    Returns:
        What is left, and how often each was done.
    """
    limits = [raster.width, raster.height, raster.width, raster.height]
    inside = np.clip(objects.boxes, 0, limits)
    real = ((inside[:, 2:] - inside[:, :2]) >= SMALLEST).all(axis=1)
    first = np.zeros(len(inside), np.bool_)
    told = [(*box, label) for box, label in zip(inside.tolist(), objects.labels, strict=True)]
    first[list({one: number for number, one in reversed(list(enumerate(told)))}.values())] = True
    kept = real & first
    done = Counter(
        {
            "boxes cut at the raster's edge": int((kept & (inside != objects.boxes).any(1)).sum()),
            "boxes without area left out": int((~real).sum()),
            "boxes told twice left out": int((real & ~first).sum()),
        }
    )
    labels = [label for label, keep in zip(objects.labels, kept, strict=True) if keep]
    return Objects(inside[kept], labels), +done


def _read(path: Path, raster: Raster) -> Objects:
    if path.suffix.lower() == ".geojson":
        objects = Objects(*read_geojson(path, raster))
    else:
        rows = _csv_rows(path, raster) if path.suffix.lower() == ".csv" else _voc_rows(path, raster)
        sides, labels, problems = [], [], []
        for where, row in rows:
            try:
                sides.append([float(row[side]) for side in SIDES])
                labels.append(row["label"].strip())
            except (KeyError, ValueError, TypeError, AttributeError):
                problems.append(
                    f"{path}: {where} is no box: {', '.join(SIDES)} in pixels and a label are "
                    "needed."
                )
        if problems:
            raise DataError("\n".join(problems))
        objects = Objects(np.asarray(sides, np.float64).reshape(-1, 4), labels)
    bad = ~np.isfinite(objects.boxes).all(axis=1)
    if bad.any():
        raise DataError(f"{path}: {int(bad.sum())} boxes have coordinates that are not finite.")
    if not all(objects.labels):
        raise DataError(f"{path}: {objects.labels.count('')} boxes have no label.")
    return objects


def _csv_rows(path: Path, raster: Raster) -> list[tuple[str, dict[str, str]]]:
    """Rows with the columns xmin, ymin, xmax, ymax, label and, if it likes, image_path."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(enumerate(csv.DictReader(file), start=2))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error}).") from error
    name = Path(raster.path).name
    others = {row["image_path"] for _, row in rows if row.get("image_path", name) != name}
    if others:
        raise DataError(f"{path}: is of {', '.join(sorted(others)[:3])}, and not of {name}.")
    return [(f"line {line}", row) for line, row in rows]


def _voc_rows(path: Path, raster: Raster) -> list[tuple[str, dict[str, str]]]:
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise DataError(f"{path}: cannot be read as XML ({error}).") from error
    size = tuple(root.findtext(f"size/{side}") for side in ("height", "width"))
    if None not in size and size != (str(raster.height), str(raster.width)):
        raise DataError(
            f"{path}: is of an image of {size[0]}x{size[1]}, and {Path(raster.path).name} is "
            f"{raster.height}x{raster.width}."
        )
    rows = []
    for number, element in enumerate(root.iter("object")):
        row = {side: element.findtext(f"bndbox/{side}") or "" for side in SIDES}
        rows.append((f"object {number}", row | {"label": element.findtext("name") or ""}))
    return rows


def _same(one: Objects, other: Objects) -> bool:
    """Whether two say the same, in any order, to a pixel."""
    if sorted(one.labels) != sorted(other.labels):
        return False
    first, second = (
        sorted(zip(o.labels, o.boxes.round().tolist(), strict=True)) for o in (one, other)
    )
    return all(
        a[0] == b[0] and np.allclose(a[1], b[1], atol=1) for a, b in zip(first, second, strict=True)
    )
