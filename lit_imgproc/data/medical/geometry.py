"""From the voxels of a file to those of a network, and back.

A volume is turned until its axes run to the patient's right, front and top (or left, back and top),
resampled to a spacing in millimetres, and a box of it is cut out. :class:`Grid` says what was done,
so that a prediction can be brought back to the voxels of the file.

All triples are in the order of the array: depth, height, width. In the canonical orientations that
is bottom to top, back to front, left to right (RAS) or bottom to top, front to back, right to left
(LPS): slices along the depth are axial.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from lit_imgproc.data.errors import DataError
from lit_imgproc.data.medical.nifti import is_nifti, write_nifti
from lit_imgproc.data.medical.scan import Affine, Array, spacing_of
from lit_imgproc.extras import require

Orientation = Literal["RAS", "LPS"] | None
Triple = tuple[int, int, int]
Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class Grid:
    """The voxels of a network's volume, in terms of a file's.

    Args:
        path: The file.
        stored: Depth, height and width of the file's voxels.
        affine: The file's; see :class:`~lit_imgproc.data.medical.scan.Scan`.
        orientation: Where the axes run to, ``None`` where they were left as they are.
        spacing: Millimetres from voxel to voxel, ``None`` where they were left as they are.
        start: The box's first voxel; below zero where the box begins before the volume.
        size: The box's size; ``None`` is all.
    """

    path: str
    stored: Triple
    affine: tuple[tuple[float, ...], ...]
    orientation: Orientation = None
    spacing: Spacing | None = None
    start: Triple = (0, 0, 0)
    size: Triple | None = None

    @property
    def turned(self) -> Triple:
        """Depth, height and width once the axes are turned."""
        sides = [0, 0, 0]
        for side, axis in zip(self.stored[::-1], self._turn()[:, 0].astype(int), strict=True):
            sides[axis] = side
        x, y, z = sides
        return z, y, x

    @property
    def whole(self) -> Triple:
        """Depth, height and width once turned and resampled, before a box is cut out.

        The first voxel stays where it is, and the last is the nearest to the last before.
        """
        if self.spacing is None:
            return self.turned
        sides = zip(self.turned, self._zoom(), strict=True)
        depth, height, width = (int((side - 1) / zoom + 1.5) for side, zoom in sides)
        return depth, height, width

    @property
    def shape(self) -> Triple:
        """Depth, height and width of the box."""
        return self.whole if self.size is None else self.size

    @property
    def box_affine(self) -> Affine:
        """The affine of the box."""
        affine = self._turned_affine() @ np.diag([*self._zoom()[::-1], 1.0])
        affine[:3, 3] += affine[:3, :3] @ np.asarray(self.start)[::-1]
        return affine

    def box(self, start: Triple, size: Triple) -> Self:
        """A box of this box."""
        a, b, c = (int(first + more) for first, more in zip(self.start, start, strict=True))
        return replace(self, start=(a, b, c), size=size)

    def turn(self, array: Array) -> Array:
        """Turn the last three axes of the file's voxels; a view."""
        nib = require("nibabel", "medical")
        reverse = tuple(reversed(range(array.ndim)))
        turned: Array = nib.apply_orientation(array.transpose(reverse), self._turn())
        return turned.transpose(reverse)

    def resample(self, array: Array, order: int) -> Array:
        """Bring turned voxels ``[...,D,H,W]`` to the spacing.

        Args:
            array: Of the turned volume.
            order: 0 takes the nearest voxel, as labels need it; 1 is linear, 3 cubic.
        """
        return _interpolate(array, self._zoom(), self.whole, order)

    def restore(self, array: Array, *, order: int, outside: Sequence[float] = (0,)) -> Array:
        """Bring voxels of the box back to those of the file.

        Args:
            array: ``[D,H,W]`` or ``[C,D,H,W]``.
            order: As for :meth:`resample`.
            outside: What voxels get that the box does not hold: a value, or one a channel.

        Raises:
            DataError: The array is not of the box.
        """
        if array.shape[-3:] != self.shape:
            raise DataError(
                f"{self.path}: a prediction of shape {list(array.shape)} is not one of the "
                f"{list(self.shape)} voxels of its volume."
            )
        whole = np.empty((*array.shape[:-3], *self.whole), array.dtype)
        whole[...] = np.reshape(outside, (-1,) + (1,) * 3) if array.ndim == 4 else outside[0]
        here, there = overlap(self.start, self.shape, self.whole)
        whole[here] = array[there]
        z, y, x = self._zoom()
        turned = _interpolate(whole, (1 / z, 1 / y, 1 / x), self.turned, order)
        nib = require("nibabel", "medical")
        back = nib.orientations.ornt_transform(_ORIGINAL, self._turn())
        reverse = tuple(reversed(range(turned.ndim)))
        return np.asarray(nib.apply_orientation(turned.transpose(reverse), back)).transpose(reverse)

    def to_dict(self) -> dict[str, Any]:
        """Plain values: what a sample's ``geometry`` holds.

        ``voxel`` are the millimetres from voxel to voxel of the box, along its axes.
        """
        return {**asdict(self), "voxel": list(spacing_of(self.box_affine))}

    @classmethod
    def from_dict(cls, geometry: dict[str, Any]) -> Self:
        """The grid that :meth:`to_dict` wrote down."""
        return cls(**{key: _plain(value) for key, value in geometry.items() if key != "voxel"})

    def _turn(self) -> Any:
        """What turns the axes, as nibabel has it: for each stored axis its new place, and -1."""
        nib = require("nibabel", "medical")
        if self.orientation is None:
            return _ORIGINAL
        now = nib.io_orientation(np.asarray(self.affine))
        return nib.orientations.ornt_transform(now, nib.orientations.axcodes2ornt(self.orientation))

    def _turned_affine(self) -> Affine:
        nib = require("nibabel", "medical")
        back = nib.orientations.inv_ornt_aff(self._turn(), self.stored[::-1])
        return np.asarray(np.asarray(self.affine) @ back, np.float64)

    def _zoom(self) -> Spacing:
        """Voxels of the turned volume from one resampled voxel to the next."""
        if self.spacing is None:
            return (1.0, 1.0, 1.0)
        old = spacing_of(self._turned_affine())
        z, y, x = (wanted / had for wanted, had in zip(self.spacing, old, strict=True))
        return z, y, x


_ORIGINAL = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])


def grid_of(
    path: str,
    stored: Sequence[int],
    affine: Affine,
    orientation: Orientation = None,
    spacing: Spacing | None = None,
) -> Grid:
    """All of a file, turned and resampled.

    Args:
        path: The file.
        stored: Its depth, height and width.
        affine: Its affine.
        orientation: See :class:`Grid`.
        spacing: See :class:`Grid`.
    """
    depth, height, width = (int(side) for side in stored)
    rows = tuple(tuple(row) for row in np.asarray(affine, float).tolist())
    return Grid(path, (depth, height, width), rows, orientation, spacing)


def overlap(
    start: Sequence[int], size: Sequence[int], whole: Sequence[int]
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Where a box and a volume meet: indices of the volume, and of the box, for the last axes."""
    here: list[Any] = [...]
    there: list[Any] = [...]
    for first, side, full in zip(start, size, whole, strict=True):
        low, high = min(max(first, 0), full), min(max(first + side, 0), full)
        here.append(slice(low, high))
        there.append(slice(low - first, high - first))
    return tuple(here), tuple(there)


def write_back(prediction: Any, geometry: dict[str, Any], path: str | Path) -> None:
    """Write a prediction in the voxels of the file that it was made of.

    A NIfTI file gets one of the same affine, shape and header; any other gets a NIfTI file with
    the right affine or, if it is a single image, a PNG image.

    Args:
        prediction: Labels, integers ``[D,H,W]`` or, of a slice, ``[H,W]``: each voxel of the file
            gets the nearest. Or probabilities, floats ``[K,D,H,W]`` or ``[K,H,W]``, interpolated;
            what lies outside of the box that was predicted is background, class 0.
        geometry: Of the sample; see :func:`join` for the slices of a volume.
        path: Ends with ``.nii.gz``, ``.nii`` or, for labels of a single image, ``.png``.

    Raises:
        DataError: The prediction is not of this geometry, or the file cannot be written.
    """
    grid = Grid.from_dict(geometry)
    array = _unflattened(np.asarray(prediction), grid)
    if array.dtype.kind == "f":
        outside = [1.0] + [0.0] * (len(array) - 1) if array.ndim == 4 and len(array) > 1 else [0.0]
        volume = grid.restore(array.astype(np.float32), order=1, outside=outside)
    else:
        kind = np.uint8 if array.max(initial=0) < 256 and array.min(initial=0) >= 0 else np.int32
        volume = grid.restore(array.astype(kind), order=0)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    if str(path).lower().endswith(".png"):
        _write_png(path, volume)
    else:
        like = grid.path if is_nifti(grid.path) else None
        write_nifti(path, volume, np.asarray(grid.affine), like)


def join(parts: Sequence[tuple[Any, dict[str, Any]]]) -> tuple[Array, dict[str, Any]]:
    """Put the predictions of slices or boxes of one file together.

    Args:
        parts: Predictions as for :func:`write_back`, each with its geometry.

    Returns:
        The prediction of the whole volume and its geometry; where no part lies it is 0. Where
        parts overlap the last one counts.

    Raises:
        DataError: They are not of one file.
    """
    grids = [Grid.from_dict(geometry) for _, geometry in parts]
    whole = replace(grids[0], start=(0, 0, 0), size=None)
    result: Array | None = None
    for (prediction, _), grid in zip(parts, grids, strict=True):
        if replace(grid, start=(0, 0, 0), size=None) != whole:
            raise DataError(f"{grid.path}: cannot be joined with a prediction of {whole.path}.")
        array = _unflattened(np.asarray(prediction), grid)
        if result is None:
            result = np.zeros((*array.shape[:-3], *whole.whole), array.dtype)
        here, there = overlap(grid.start, grid.shape, whole.whole)
        result[here] = array[there]
    assert result is not None
    return result, whole.to_dict()


def _plain(value: Any) -> Any:
    """With tuples where JSON has lists."""
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


def _unflattened(array: Array, grid: Grid) -> Array:
    """With the axis of length 1 that a slice has lost."""
    if array.ndim == (3 if array.dtype.kind == "f" else 2) and 1 in grid.shape:
        return np.expand_dims(array, grid.shape.index(1) - 3)
    return array


def _interpolate(array: Array, zoom: Spacing, shape: Triple, order: int) -> Array:
    """Sample the last three axes at ``index * zoom``."""
    if shape == array.shape[-3:] and np.allclose(zoom, 1, rtol=0, atol=1e-6):
        return array
    ndimage = require("scipy.ndimage", "medical")
    result = np.empty((*array.shape[:-3], *shape), array.dtype)
    for index in np.ndindex(*array.shape[:-3]):
        ndimage.affine_transform(
            array[index],
            zoom,
            output_shape=shape,
            output=result[index],
            order=order,
            mode="nearest",
        )
    return result


def _write_png(path: str | Path, volume: Array) -> None:
    import cv2

    if volume.ndim != 3 or volume.shape[0] != 1 or volume.dtype != np.uint8:
        raise DataError(f"{path}: labels of a single image alone can be a PNG image.")
    cv2.imwrite(str(path), volume[0])
