"""Where the planes of a DICOM volume lie: their order, their gaps and their affine."""

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np

from lit_imgproc.data.medical.scan import Affine

UNEVEN = 0.02
"""Share of the usual distance of two planes by which one may differ: positions are rounded."""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class Plane(NamedTuple):
    """A plane of pixels in DICOM's coordinates: millimetres to the left, back and top (LPS).

    Attributes:
        position: Of the first pixel.
        orientation: Directions in which columns, and then rows, are counted.
        row_spacing: Millimetres from row to row.
        column_spacing: Millimetres from column to column.
    """

    position: tuple[float, ...]
    orientation: tuple[float, ...]
    row_spacing: float
    column_spacing: float

    @classmethod
    def anywhere(cls, row_spacing: float, column_spacing: float) -> Self:
        """A plane of a file that does not say where it lies."""
        return cls((0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), row_spacing, column_spacing)

    @property
    def normal(self) -> Affine:
        """The direction in which planes are counted."""
        return np.cross(self.orientation[:3], self.orientation[3:])

    def moved(self, distance: float) -> Self:
        """The plane so many millimetres further along the normal."""
        moved = np.asarray(self.position) + distance * self.normal
        return self._replace(position=tuple(moved.tolist()))


def distances(planes: Sequence[Plane]) -> list[float]:
    """How far along the normal of the first plane each plane lies."""
    normal = planes[0].normal
    return [float(np.dot(plane.position, normal)) for plane in planes]


def stack_affine(planes: Sequence[Plane], thickness: float = 1.0) -> Affine:
    """The affine of planes in order, as of :class:`~.scan.Scan`.

    A tilted gantry moves planes sidewards as well: the affine is then sheared, as they are.

    Args:
        planes: One or more.
        thickness: Of a single plane, in millimetres.
    """
    first, last = planes[0], planes[-1]
    step = first.normal * thickness
    if len(planes) > 1:
        step = (np.asarray(last.position) - np.asarray(first.position)) / (len(planes) - 1)
    affine = np.eye(4)
    affine[:3, 0] = np.asarray(first.orientation[:3]) * first.column_spacing
    affine[:3, 1] = np.asarray(first.orientation[3:]) * first.row_spacing
    affine[:3, 2] = step
    affine[:3, 3] = first.position
    return LPS_TO_RAS @ affine


def gaps(planes: Sequence[Plane], names: Sequence[str]) -> list[str]:
    """What is wrong with the distances of planes in order, a phrase each."""
    steps = np.diff(distances(planes))
    if not len(steps):
        return []
    usual = float(np.median(steps))
    problems = []
    for one, other, step in zip(names, names[1:], steps.tolist(), strict=False):
        if step < max(UNEVEN * usual, 1e-3):
            problems.append(f"{one} and {other} lie in the same place")
        elif abs(step - usual) > UNEVEN * usual:
            missing = round(step / usual) - 1
            whole = missing > 0 and abs(step - (missing + 1) * usual) <= UNEVEN * usual
            problems.append(
                f"{missing} slice{'s are' if missing > 1 else ' is'} missing between {one} and "
                f"{other}"
                if whole
                else f"{one} and {other} are {step:.4g} mm apart where others are {usual:.4g} mm"
            )
    return problems
