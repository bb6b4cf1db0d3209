"""Slices of labelled volumes, for networks of two dimensions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Gt

from lit_imgproc.data.base import BatchSize, ImageDataset, NumWorkers, Split
from lit_imgproc.data.medical import toy
from lit_imgproc.data.medical.base import Found, Fraction, Millimetres, VolumeData, VolumeDataset
from lit_imgproc.data.medical.geometry import Orientation, Triple
from lit_imgproc.data.medical.intensity import Choice
from lit_imgproc.data.medical.prepared import CaseReader, NonFinite, Volume
from lit_imgproc.data.names import Names
from lit_imgproc.data.readable import OnError
from lit_imgproc.data.transforms import Augment, AugmentChoice

Axis = Literal["axial", "coronal", "sagittal"]
AXES: dict[Axis, int] = {"axial": 0, "coronal": 1, "sagittal": 2}
"""Along which axis of a prepared volume slices follow each other."""


class VolumeSlices(VolumeDataset):
    """Slices, each ``{"image": float32 [C,H,W], "mask": int64 [H,W], "id": str}``.

    As evaluation sees them, they have their ``geometry``, too.

    Args:
        reader: See :class:`~lit_imgproc.data.medical.base.VolumeDataset`, as for ``class_names``.
        found: The cases of this split.
        class_names: Background first.
        axis: Along which slices follow each other.
        side: Height and width that a slice is cut or padded to, its centre kept.
        labelled: Whether slices without labels are left out.
        augment: What training does.
    """

    def __init__(
        self,
        reader: CaseReader,
        found: dict[int, Found],
        class_names: Sequence[str],
        axis: Axis,
        side: int,
        labelled: bool,
        augment: Augment | None,
    ) -> None:
        super().__init__(reader, list(found), class_names)
        self.axis = axis
        self.side = side
        self.augment = augment
        along = AXES[axis]
        slices = [
            (number, index)
            for number, one in found.items()
            for index in (one.planes[along].tolist() if labelled else range(one.shape[along]))
        ]
        self.slices = np.asarray(slices, np.int64).reshape(-1, 2)
        self._shapes = {number: one.shape for number, one in found.items()}
        cases = [reader.cases[number] for number, _ in slices]
        self.names = Names(
            f"{case.name}/{axis}/{index}" for case, (_, index) in zip(cases, slices, strict=True)
        )
        self.groups = Names(case.group for case in cases)

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        sample_seed = None
        if isinstance(index, tuple):
            index, sample_seed = index
        number, position = self.slices[index].tolist()
        volume = self.reader[number]
        sample = slice_sample(volume, self.axis, position, self.side, self.names[index])
        if sample_seed is None:
            return sample
        del sample["geometry"]
        if self.augment is not None:
            augmented = self.augment.sample(
                sample_seed,
                image=sample["image"].permute(1, 2, 0).numpy(),
                mask=sample["mask"].numpy().astype(np.uint8),
            )
            image = np.ascontiguousarray(augmented["image"].transpose(2, 0, 1))
            sample["image"] = torch.from_numpy(image)
            sample["mask"] = torch.from_numpy(augmented["mask"].astype(np.int64))
        return sample

    def size(self, index: int) -> tuple[int, ...]:
        """Height and width of the slice before it is cut or padded."""
        shape = list(self._shapes[int(self.slices[index, 0])])
        del shape[AXES[self.axis]]
        return tuple(shape)


def slice_sample(volume: Volume, axis: Axis, position: int, side: int, name: str) -> dict[str, Any]:
    """A slice of a volume with its geometry, and its mask if it has one."""
    along = AXES[axis]
    start = [(length - side) // 2 for length in volume.grid.shape]
    size = [side] * 3
    start[along], size[along] = position, 1
    begin: Triple = (start[0], start[1], start[2])
    extent: Triple = (size[0], size[1], size[2])
    image, mask = volume.box(begin, extent)
    geometry = volume.grid.box(begin, extent).to_dict()
    pixels = np.ascontiguousarray(image.squeeze(axis=along + 1))
    sample = {"image": torch.from_numpy(pixels), "id": name, "geometry": geometry}
    if mask is not None:
        sample["mask"] = torch.from_numpy(np.ascontiguousarray(mask.squeeze(axis=along)))
    return sample


class MedicalSlices(VolumeData):
    """Slices of labelled volumes in the layout of the Medical Segmentation Decathlon.

    Files, splits and geometry are those of :class:`~lit_imgproc.data.medical.volumes
    .MedicalVolumes`: slices of one patient are all in one split. A slice is not scaled; give a
    ``spacing`` for that. It is cut or padded around its centre to ``image_size``; padding has the
    lowest value of the image and the label 255. Predictions of the slices of a volume are put
    together by :func:`~lit_imgproc.data.medical.geometry.join`.

    Example:
        >>> data = MedicalSlices(root="data/hippocampus", image_size=64, axis="coronal",
        ...                      intensity="zscore", augment={"train": "flip"})
        >>> data.input_spec().size
        (64, 64)

    Args:
        root: The folder of the data set.
        image_size: Height and width of the images that networks see, in pixels.
        axis: Along which slices follow each other: bottom to top, back to front or left to right.
        training_slices: Train on ``all`` slices, or on those alone that have ``labelled`` pixels.
            Validation and testing are always on all.
        orientation: Where the axes run to; ``None`` leaves them as they are stored, and slices of
            the first are called axial.
        spacing: Millimetres from voxel to voxel along depth, height and width that all volumes are
            resampled to; ``None`` leaves them as they are.
        interpolation: How images are resampled. Labels take the nearest voxel.
        intensity: A window ``[center, width]`` to [0, 1], ``zscore`` of a volume's channels, or
            ``None`` for the values of the file.
        crop_foreground: Cut away what has the lowest value, or is below the window, all around.
        nonfinite: A volume with NaN or infinity is refused, or these become its lowest value.
        cache: ``memory`` keeps prepared volumes there; ``None`` reads a volume for each slice.
        augment: What training does, such as ``{"train": "flip"}``.
        val_fraction: Share of the cases to hold out for validation.
        test_fraction: Share of the cases to hold out for testing.
        batch_size: Slices in a batch of one process.
        num_workers: Processes that load slices; ``None`` goes by the CPUs of this rank.
        on_error: ``stop`` at cases that cannot be used, or ``skip`` them.
        seed: Seed of the order of the slices and of their augmentations.

    Raises:
        DataError: When it is prepared, with one line for everything that is wrong.
    """

    def __init__(
        self,
        *,
        root: str,
        image_size: Annotated[int, Gt(0)],
        axis: Axis = "axial",
        training_slices: Literal["all", "labelled"] = "all",
        orientation: Orientation = "RAS",
        spacing: Millimetres | None = None,
        interpolation: Literal["linear", "cubic"] = "linear",
        intensity: Choice = None,
        crop_foreground: bool = False,
        nonfinite: NonFinite = "refuse",
        cache: Literal["memory"] | None = "memory",
        augment: AugmentChoice = None,
        val_fraction: Fraction = 0.15,
        test_fraction: Fraction = 0.15,
        batch_size: BatchSize = 16,
        num_workers: NumWorkers = None,
        on_error: OnError = "stop",
        seed: int = 0,
    ) -> None:
        super().__init__(
            root=root,
            orientation=orientation,
            spacing=spacing,
            interpolation=interpolation,
            intensity=intensity,
            crop_foreground=crop_foreground,
            nonfinite=nonfinite,
            cache=cache,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            batch_size=batch_size,
            num_workers=num_workers,
            on_error=on_error,
            seed=seed,
        )
        self.image_size = image_size
        self.axis: Axis = axis
        self.training_slices = training_slices
        self.augment = augment or {"train": "none"}

    @property
    def plane(self) -> tuple[int, int]:
        """Height and width of a slice as networks see it."""
        return self.image_size, self.image_size

    def facts(self) -> dict[str, Any]:
        """As of the base, with height and width as ``image_size``."""
        return super().facts() | {"image_size": list(self.plane)}

    def samples(self, path: Path) -> list[dict[str, Any]]:
        """All slices of a file, in order."""
        volume = self._open(path)
        return [
            slice_sample(volume, self.axis, index, self.image_size, f"{path}/{self.axis}/{index}")
            for index in range(volume.grid.shape[AXES[self.axis]])
        ]

    def _dataset(self, split: Split, found: dict[int, Found]) -> ImageDataset:
        train = split == "train"
        augment = None
        if train:
            windowed = isinstance(self.preparation.intensity, tuple)
            highest = 1.0 if windowed else 2.0  # of a z-score; of other values more
            augment = Augment(
                self.augment["train"], self.image_size, self.channels, np.float32, highest
            )
        labelled = train and self.training_slices == "labelled"
        return VolumeSlices(
            self.reader, found, self.class_names, self.axis, self.image_size, labelled, augment
        )

    @classmethod
    def write_toy(cls, root: Path) -> None:
        """12 small volumes of ellipsoids in several orientations and spacings, NIfTI."""
        toy.write_volumes(root)
