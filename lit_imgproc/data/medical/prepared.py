"""Cases as a network sees them: turned, resampled, cropped, and their boxes cut out on demand."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lit_imgproc.data.errors import DataError
from lit_imgproc.data.medical.cases import Case
from lit_imgproc.data.medical.geometry import (
    Grid,
    Orientation,
    Spacing,
    Triple,
    grid_of,
    overlap,
)
from lit_imgproc.data.medical.intensity import Choice, Intensity, intensity_of, rising
from lit_imgproc.data.medical.read import read_scan
from lit_imgproc.data.medical.scan import Array, Scan
from lit_imgproc.data.transforms import IGNORE

NonFinite = Literal["refuse", "lowest"]

REMEMBERED = 4096
"""So many voxels of a class are remembered of a case: where patches may be centred."""


@dataclass(frozen=True)
class Preparation:
    """What is done to every case.

    Args:
        orientation: See :class:`~lit_imgproc.data.medical.geometry.Grid`, as for ``spacing``.
        spacing: In millimetres.
        interpolation: How images are resampled; labels take the nearest voxel.
        intensity: See :data:`~lit_imgproc.data.medical.intensity.Choice`.
        crop: Whether to keep only the smallest box with all voxels above the lowest value, or
            above the lower end of a window.
        nonfinite: Whether NaN and infinity are refused, or become the lowest value of the channel.
    """

    orientation: Orientation
    spacing: Spacing | None
    interpolation: Literal["linear", "cubic"]
    intensity: Choice
    crop: bool
    nonfinite: NonFinite


@dataclass(frozen=True)
class Traits:
    """What is remembered of a case, since finding it takes all of its voxels.

    Args:
        intensity: From stored to shown values.
        lowest: Stored value of each channel.
        start: Of the box that is kept.
        size: Of the box that is kept.
        repaired: How many values were NaN or infinite.
        classes: Of each class but the background, up to :data:`REMEMBERED` voxels of the box, as
            flat indices; classes that it does not have are left out.
    """

    intensity: Intensity
    lowest: tuple[float, ...]
    start: Triple
    size: Triple
    repaired: int
    classes: dict[int, NDArray[np.int64]]


@dataclass(frozen=True)
class Volume:
    """A prepared case.

    Args:
        image: ``[C,D,H,W]``, values as they are stored, of the box that is kept.
        label: ``[D,H,W]`` or ``None``.
        grid: Of the box.
        traits: Of the case.
    """

    image: Array
    label: Array | None
    grid: Grid
    traits: Traits

    def box(
        self, start: Triple, size: Triple
    ) -> tuple[NDArray[np.float32], NDArray[np.int64] | None]:
        """Cut a box out.

        What lies beyond the volume has the lowest value of its channel and the label 255.

        Returns:
            Image ``[C,d,h,w]`` and label ``[d,h,w]``.
        """
        here, there = overlap(start, size, self.image.shape[-3:])
        inside = self._shown(self.image[here])
        if inside.shape[-3:] == size:
            image = inside
        else:
            lowest = self.traits.intensity(np.reshape(self.traits.lowest, (-1, 1, 1, 1)))
            image = np.empty((len(inside), *size), np.float32)
            image[...] = lowest
            image[there] = inside
        if self.label is None:
            return image, None
        label = np.full(size, IGNORE, np.int64)
        label[there] = self.label[here]
        return image, label

    def _shown(self, stored: Array) -> NDArray[np.float32]:
        if self.traits.repaired:
            stored = _filled(stored, self.traits.lowest)
        return self.traits.intensity(stored)


class CaseReader:
    """Prepares cases, and remembers of each what would cost much to find again.

    Args:
        cases: To be read.
        classes: How many classes the labels have.
        preparation: What is done to each.
        in_memory: Whether prepared cases are kept.
    """

    def __init__(
        self, cases: Sequence[Case], classes: int, preparation: Preparation, in_memory: bool
    ) -> None:
        self.cases = cases
        self.classes = classes
        self.preparation = preparation
        self.in_memory = in_memory
        self._traits: dict[int, Traits] = {}
        self._volumes: dict[int, Volume] = {}

    @property
    def repaired(self) -> int:
        """How many values were NaN or infinite in the cases that were prepared so far."""
        return sum(traits.repaired for traits in self._traits.values())

    def __getitem__(self, index: int) -> Volume:
        """Prepare a case.

        Raises:
            DataError: Its files cannot be read, or do not hold what they should.
        """
        if index in self._volumes:
            return self._volumes[index]
        case = self.cases[index]
        scan, label = read_scan(case.image), read_label(case, self.classes)
        volume = prepare(scan, label, self.preparation, self._traits.get(index))
        self._traits[index] = volume.traits
        if self.in_memory:
            volume = Volume(
                np.array(volume.image, order="C"),
                None if volume.label is None else np.array(volume.label, order="C"),
                volume.grid,
                volume.traits,
            )
            self._volumes[index] = volume
        return volume


def prepare(
    scan: Scan, label: Array | None, how: Preparation, known: Traits | None = None
) -> Volume:
    """Turn, resample and crop an image and its label.

    Nothing is copied that need not be: of an uncompressed file whose spacing is kept, the result
    is a view that reads from the disk what is cut out of it.

    Args:
        scan: The image.
        label: ``[D,H,W]``.
        how: What is done.
        known: What is remembered of it, if it was prepared before.

    Raises:
        DataError: It has values that are NaN or infinite, and these are refused.
    """
    scan = rising(scan)
    stored = scan.stored
    grid = grid_of(scan.path, stored.shape[1:], scan.affine, how.orientation, how.spacing)
    repaired = known.repaired if known else _count_nonfinite(stored)
    if repaired and how.nonfinite == "refuse":
        raise DataError(
            f"{scan.path}: {repaired} of its values are NaN or infinite; "
            "data.nonfinite=lowest gives them the lowest value."
        )
    stored = grid.turn(stored)
    if how.spacing is not None:
        if repaired:
            stored = _filled(stored, _lowest(stored).tolist())
        order = 1 if how.interpolation == "linear" else 3
        stored = grid.resample(stored.astype(np.float32), order)
    if label is not None:
        label = grid.resample(grid.turn(label), order=0)
    if known is None:
        known = _traits(scan, stored, label, how, repaired)
    here, _ = overlap(known.start, known.size, stored.shape[-3:])
    return Volume(
        stored[here],
        None if label is None else label[here],
        grid.box(known.start, known.size),
        known,
    )


def read_label(case: Case, classes: int) -> Array:
    """The label of a case, uint8 ``[D,H,W]``.

    Raises:
        DataError: It cannot be read, or holds what is none of the classes.
    """
    values = read_scan(case.label).values[0]
    if values.dtype.kind == "f":
        if not np.array_equal(values, np.round(values)):
            raise DataError(f"{case.label}: its values are no whole numbers.")
        values = values.astype(np.int64)
    low, high = int(values.min()), int(values.max())
    if low < 0 or (high >= classes and high != IGNORE) or (high == IGNORE and classes <= IGNORE):
        found = np.unique(values)
        unknown = [k for k in found.tolist() if not 0 <= k < classes and k != IGNORE]
        if unknown:
            raise DataError(
                f"{case.label}: has the values {unknown[:10]}, of which dataset.json knows "
                f"nothing: it has the classes 0 to {classes - 1}."
            )
    label: Array = values.astype(np.uint8, copy=False)
    return label


def _traits(
    scan: Scan, stored: Array, label: Array | None, how: Preparation, repaired: int
) -> Traits:
    lowest = _lowest(stored)
    start, size = (0, 0, 0), stored.shape[1:]
    if how.crop:
        empty = lowest
        if isinstance(how.intensity, tuple):  # what a window makes 0 is empty, noisy or not
            empty = np.asarray(intensity_of(how.intensity, scan, stored, lowest).shift)
        start, size = _bounds(np.asarray((stored > empty.reshape(-1, 1, 1, 1)).any(axis=0)))
    here, _ = overlap(start, size, stored.shape[1:])
    inside = stored[here]
    if repaired:
        inside = _filled(inside, lowest.tolist())
    classes: dict[int, NDArray[np.int64]] = {}
    if label is not None:
        flat = np.ascontiguousarray(label[here]).ravel()
        for number in np.unique(flat).tolist():
            if number not in (0, IGNORE):
                found = np.flatnonzero(flat == number)
                chosen = np.linspace(0, len(found) - 1, min(len(found), REMEMBERED))
                classes[number] = found[chosen.round().astype(np.intp)].astype(np.int64)
    intensity = intensity_of(how.intensity, scan, inside, lowest)
    return Traits(intensity, tuple(lowest.tolist()), start, size, repaired, classes)


def _lowest(stored: Array) -> Array:
    """The lowest finite value of each channel, 0 where it has none."""
    flat = stored.reshape(len(stored), -1)
    if stored.dtype.kind != "f":
        return np.asarray(flat.min(axis=1))
    finite = np.isfinite(flat)
    lowest = np.asarray(np.where(finite, flat, np.inf).min(axis=1))
    lowest[~np.isfinite(lowest)] = 0
    return lowest


def _filled(stored: Array, lowest: Sequence[float]) -> Array:
    values = np.reshape(np.asarray(lowest, stored.dtype), (-1, 1, 1, 1))
    return np.asarray(np.where(np.isfinite(stored), stored, values))


def _count_nonfinite(stored: Array) -> int:
    if stored.dtype.kind != "f":
        return 0
    return int(stored.size - np.count_nonzero(np.isfinite(stored)))


def _bounds(inside: NDArray[np.bool_]) -> tuple[Triple, Triple]:
    """First voxel and size of the smallest box with all that is true; of nothing, all."""
    if not inside.any():
        depth, height, width = inside.shape
        return (0, 0, 0), (depth, height, width)
    spans = [np.flatnonzero(inside.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    (a, b, c), (d, e, f) = zip(*((int(s[0]), int(s[-1] - s[0] + 1)) for s in spans), strict=True)
    return (a, b, c), (d, e, f)
