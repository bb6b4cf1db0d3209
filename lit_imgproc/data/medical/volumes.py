"""Labelled volumes, for networks of three dimensions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Le

from lit_imgproc.data.base import BatchSize, DataError, ImageDataset, NumWorkers, Split
from lit_imgproc.data.medical import toy
from lit_imgproc.data.medical.base import Found, Fraction, Millimetres, VolumeData, VolumeDataset
from lit_imgproc.data.medical.geometry import Orientation, Triple
from lit_imgproc.data.medical.intensity import Choice
from lit_imgproc.data.medical.patches import (
    VolumeAugment,
    VolumeAugmentChoice,
    augment_patch,
    patch_start,
)
from lit_imgproc.data.medical.prepared import CaseReader, NonFinite, Volume
from lit_imgproc.data.medical.read import read_header
from lit_imgproc.data.readable import OnError

Side = Annotated[int, Gt(0)]


class VolumePatches(VolumeDataset):
    """Whole volumes, or patches of them.

    ``dataset[index]`` is a whole volume and has its ``geometry``; ``dataset[index, sample_seed]``
    is an augmented patch. Items are ``{"image": float32 [C,D,H,W], "mask": int64 [D,H,W], "id":
    str}``.

    Args:
        reader: See :class:`~lit_imgproc.data.medical.base.VolumeDataset`, as for the next two.
        numbers: Of the cases of this split.
        class_names: Background first.
        patch_size: Depth, height and width.
        foreground: Share of patches that are centred on foreground.
        augment: What is done to a patch.
        value_range: What augmented values are cut to.
    """

    def __init__(
        self,
        reader: CaseReader,
        numbers: Sequence[int],
        class_names: Sequence[str],
        patch_size: Triple,
        foreground: float,
        augment: VolumeAugment,
        value_range: tuple[float, float] | None,
    ) -> None:
        super().__init__(reader, numbers, class_names)
        cases = [reader.cases[number] for number in self.numbers]
        self.names = [case.name for case in cases]
        self.groups = [case.group for case in cases]
        self.patch_size = patch_size
        self.foreground = foreground
        self.augment = augment
        self.value_range = value_range

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        if not isinstance(index, tuple):
            return whole_sample(self.reader[self.numbers[index]], self.names[index])
        index, sample_seed = index
        random = np.random.default_rng(sample_seed)
        volume = self.reader[self.numbers[index]]
        start = patch_start(volume, self.patch_size, self.foreground, random)
        image, mask = volume.box(start, self.patch_size)
        image, mask = augment_patch(image, mask, self.augment, random, self.value_range)
        return {
            "image": torch.from_numpy(image),
            "mask": torch.from_numpy(mask),
            "id": self.names[index],
        }

    def size(self, index: int) -> tuple[int, ...]:
        """Depth, height and width as the file stores them, from its header."""
        return read_header(self.reader.cases[self.numbers[index]].image).shape[1:]


def whole_sample(volume: Volume, name: str) -> dict[str, Any]:
    """A whole volume with its geometry, and its mask if it has one."""
    image, mask = volume.box((0, 0, 0), volume.grid.shape)
    sample = {"image": torch.from_numpy(image), "id": name, "geometry": volume.grid.to_dict()}
    return sample if mask is None else sample | {"mask": torch.from_numpy(mask)}


class MedicalVolumes(VolumeData):
    """Labelled volumes in the layout of the Medical Segmentation Decathlon.

    ``root/dataset.json`` names the classes (``labels``), the channels (``modality``) and, under
    ``training``, pairs of an ``image`` and a ``label``: NIfTI files, or folders of DICOM series. A
    pair may name its ``patient``. Cases are held out for validation and testing, whole patients
    and always the same ones, unless ``validation`` or a labelled ``test`` are listed. Every file is
    read once at the start, so that whatever is wrong shows then.

    Training sees one patch of each volume an epoch; where the volume ends within it, the image goes
    on with its lowest value and the mask with 255. Evaluation sees whole volumes, and the
    ``geometry`` of a sample brings a prediction back to the voxels of its file
    (:func:`~lit_imgproc.data.medical.geometry.write_back`).

    All triples are in the order depth, height, width. The axes run from bottom to top, from back to
    front and from left to right (RAS), or with the last two the other way (LPS), as DICOM has them.

    Example:
        >>> data = MedicalVolumes(root="data/hippocampus", patch_size=(40, 56, 40),
        ...                       intensity="zscore", augment={"train": "flip"})
        >>> data.facts()["class_names"]
        ['background', 'Anterior', 'Posterior']

    Args:
        root: The folder of the data set.
        patch_size: Depth, height and width of a training patch, in voxels.
        foreground: Share of the patches that are centred on a voxel that is not background; each
            class has equal chances.
        orientation: Where the axes run to; ``None`` leaves them as they are stored.
        spacing: Millimetres from voxel to voxel along depth, height and width that all volumes are
            resampled to; ``None`` leaves them as they are.
        interpolation: How images are resampled. Labels take the nearest voxel.
        intensity: A window ``[center, width]``, in Hounsfield units for CT, to [0, 1]; ``zscore``
            gives each channel of a volume mean 0 and deviation 1, taken above its lowest value;
            ``None`` leaves the values of the file.
        crop_foreground: Cut away what has the lowest value, or is below the window, all around.
        nonfinite: A volume with NaN or infinity is refused, or these become its lowest value.
        cache: ``memory`` keeps prepared volumes there: 2 or 4 bytes a voxel and channel and 1 for
            the label. ``None`` reads a file for each patch, of an uncompressed one that is not
            resampled only the patch.
        augment: What training does, such as ``{"train": "flip"}``: see
            :data:`~lit_imgproc.data.medical.patches.VolumeAugment`.
        val_fraction: Share of the cases to hold out for validation.
        test_fraction: Share of the cases to hold out for testing.
        batch_size: Patches in a batch of one process; in evaluation, volumes.
        num_workers: Processes that load volumes; ``None`` goes by the CPUs of this rank.
        on_error: ``stop`` at cases that cannot be used, or ``skip`` them.
        seed: Seed of the order of the patches, of their places and their augmentations.

    Raises:
        DataError: When it is prepared, with one line for everything that is wrong.
    """

    dimensions: ClassVar[Literal[2, 3]] = 3

    def __init__(
        self,
        *,
        root: str,
        patch_size: tuple[Side, Side, Side],
        foreground: Annotated[float, Ge(0), Le(1)] = 0.5,
        orientation: Orientation = "RAS",
        spacing: Millimetres | None = None,
        interpolation: Literal["linear", "cubic"] = "linear",
        intensity: Choice = None,
        crop_foreground: bool = False,
        nonfinite: NonFinite = "refuse",
        cache: Literal["memory"] | None = "memory",
        augment: VolumeAugmentChoice = None,
        val_fraction: Fraction = 0.15,
        test_fraction: Fraction = 0.15,
        batch_size: BatchSize = 2,
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
        self.patch_size: Triple = (patch_size[0], patch_size[1], patch_size[2])
        self.foreground = foreground
        self.augment: dict[Literal["train"], VolumeAugment] = augment or {"train": "none"}
        if self.augment["train"] == "dihedral" and patch_size[1] != patch_size[2]:
            raise DataError(
                "augment.train: dihedral turns patches by quarters, so data.patch_size must have "
                f"equal height and width; they are {patch_size[1]} and {patch_size[2]}."
            )

    @property
    def plane(self) -> tuple[int, int]:
        """Height and width of a patch."""
        return self.patch_size[1:]

    def facts(self) -> dict[str, Any]:
        """As of the base, with depth, height and width of a patch as ``image_size``."""
        return super().facts() | {"image_size": list(self.patch_size)}

    def samples(self, path: Path) -> list[dict[str, Any]]:
        """The one volume of a file."""
        return [whole_sample(self._open(path), str(path))]

    def _dataset(self, split: Split, found: dict[int, Found]) -> ImageDataset:
        window = isinstance(self.preparation.intensity, tuple)
        return VolumePatches(
            self.reader,
            list(found),
            self.class_names,
            self.patch_size,
            self.foreground,
            self.augment["train"] if split == "train" else "none",
            (0.0, 1.0) if window else None,
        )

    @classmethod
    def write_toy(cls, root: Path) -> None:
        """12 small volumes of ellipsoids in several orientations and spacings, NIfTI."""
        toy.write_volumes(root)
