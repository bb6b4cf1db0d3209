"""One image or volume as a medical file holds it."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Affine = NDArray[np.float64]

MAX_VALUES = 2**31
"""Larger files are refused: 4 GB of 16-bit values. A few bytes can claim to be that large."""


class Header(NamedTuple):
    """What a file says of itself, without its values.

    Attributes:
        shape: ``[C,D,H,W]``.
        affine: See :class:`Scan`.
    """

    shape: tuple[int, int, int, int]
    affine: Affine


@dataclass(frozen=True)
class Scan:
    """An image or volume as its file holds it, with its place in the patient.

    An index of depth, height and width is ``(k, j, i)``; the affine, as nibabel's, takes
    ``(i, j, k, 1)`` to millimetres that grow to the patient's right, front (anterior) and top
    (superior): RAS+.

    Args:
        path: The file, or the folder of the series.
        stored: ``[C,D,H,W]``, as the file stores it; of an uncompressed NIfTI a view of the file.
        affine: 4x4.
        slope: Values are ``stored * slope + intercept``.
        intercept: See ``slope``.
        mirror: For MONOCHROME1, whose low values are bright: lowest plus highest possible value,
            from which a value is taken to make it right; otherwise ``None``.
        meta: What else the file says that is worth to know, as plain values.
    """

    path: str
    stored: Array
    affine: Affine
    slope: float = 1.0
    intercept: float = 0.0
    mirror: float | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def values(self) -> Array:
        """``[C,D,H,W]``: integers as they are stored where nothing is scaled, else float32."""
        if (self.slope, self.intercept) != (1, 0):
            scaled = self.stored * np.float64(self.slope) + self.intercept
            return np.asarray(scaled, np.float32)
        return self.stored.astype(np.float32) if self.stored.dtype.kind == "f" else self.stored

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres from voxel to voxel along depth, height and width."""
        return spacing_of(self.affine)


def spacing_of(affine: Affine) -> tuple[float, float, float]:
    """Millimetres from voxel to voxel along depth, height and width."""
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    return z, y, x
