"""A DICOM series: a folder of slices, brought into the order in which they lie."""

from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lit_imgproc.data.errors import DataError
from lit_imgproc.data.medical.dicom import (
    is_dicom,
    load,
    plane_of,
    read_dicom,
    read_dicom_header,
    scan_of,
    thickness,
)
from lit_imgproc.data.medical.planes import Plane, distances, gaps, stack_affine
from lit_imgproc.data.medical.scan import Affine, Header, Scan

SHOWN = 3
"""So many gaps of a series are told, and the number of the others."""


class Slice(NamedTuple):
    """One file of a series.

    Attributes:
        path: The file.
        plane: Where it lies.
        shape: Height and width.
        thickness: In millimetres.
    """

    path: Path
    plane: Plane
    shape: tuple[int, int]
    thickness: float


def read_series(folder: str | Path) -> Scan:
    """Read the one series of a folder as a volume.

    Slices are in the order of their positions along the normal of their planes, whatever their
    names and numbers say.

    Raises:
        DataError: There is no series or several, slices are missing, doubled or unevenly spaced,
            differ in size or direction, or a file is damaged.
    """
    files = _files(Path(folder))
    if len(files) == 1:
        return read_dicom(files[0])
    slices = _ordered(Path(folder), files)
    scans = [scan_of(load(one.path), one.path) for one in slices]
    first = scans[0]
    scales = {(scan.slope, scan.intercept) for scan in scans}
    if len({scan.stored.shape for scan in scans}) > 1:
        raise DataError(f"{folder}: its slices are grey and in colour.")
    if len(scales) == 1:
        stored = np.concatenate([scan.stored for scan in scans], axis=1)
        slope, intercept = first.slope, first.intercept
    else:  # as in PET, where each slice is scaled by itself
        stored, slope, intercept = np.concatenate([s.values for s in scans], axis=1), 1.0, 0.0
    return Scan(
        str(folder), stored, _affine(slices), slope, intercept, first.mirror, dict(first.meta)
    )


def read_series_header(folder: str | Path) -> Header:
    """Shape and affine of the one series of a folder, from the headers of its files.

    Raises:
        DataError: As for :func:`read_series`, as far as headers tell.
    """
    files = _files(Path(folder))
    if len(files) == 1:
        return read_dicom_header(files[0])
    slices = _ordered(Path(folder), files)
    dataset = load(slices[0].path, pixels=False)
    channels = 3 if int(dataset.get("SamplesPerPixel", 1) or 1) > 1 else 1
    return Header((channels, len(slices), *slices[0].shape), _affine(slices))


def _files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if path.is_file() and is_dicom(path))
    if not files:
        raise DataError(f"{folder}: holds no DICOM files.")
    return files


def _ordered(folder: Path, files: list[Path]) -> list[Slice]:
    series: defaultdict[str, list[tuple[Path, Any]]] = defaultdict(list)
    for path in files:
        dataset = load(path, pixels=False)
        series[str(dataset.get("SeriesInstanceUID", ""))].append((path, dataset))
    if len(series) > 1:
        found = ", ".join(
            f"{members[0][0].name} and {len(members) - 1} more" for members in series.values()
        )
        raise DataError(
            f"{folder}: holds {len(series)} series ({found}); give each a folder of its own."
        )
    slices = [_slice(path, dataset) for path, dataset in next(iter(series.values()))]
    first = slices[0]
    for one in slices:
        if one.shape != first.shape:
            raise DataError(
                f"{folder}: {one.path.name} is {one.shape[0]}x{one.shape[1]} pixels, "
                f"{first.path.name} {first.shape[0]}x{first.shape[1]}."
            )
        if not np.allclose(one.plane.orientation, first.plane.orientation, atol=1e-3):
            raise DataError(
                f"{folder}: {one.path.name} lies in another direction than {first.path.name}."
            )
    along = distances([one.plane for one in slices])
    slices = [slices[k] for k in np.argsort(along, kind="stable").tolist()]
    problems = gaps([one.plane for one in slices], [one.path.name for one in slices])
    if problems:
        more = [f"and {len(problems) - SHOWN} more like these"] if len(problems) > SHOWN else []
        raise DataError(f"{folder}: {'; '.join(problems[:SHOWN] + more)}.")
    return slices


def _slice(path: Path, dataset: Any) -> Slice:
    plane = plane_of(dataset)
    if plane is None:
        raise DataError(f"{path}: does not say where in its series it lies.")
    if int(dataset.get("NumberOfFrames", 1) or 1) > 1:
        raise DataError(f"{path}: has several frames, and there are other files in its folder.")
    return Slice(path, plane, (int(dataset.Rows), int(dataset.Columns)), thickness(dataset))


def _affine(slices: list[Slice]) -> Affine:
    return stack_affine([one.plane for one in slices], slices[0].thickness)
