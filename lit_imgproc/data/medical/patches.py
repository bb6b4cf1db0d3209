"""Where patches of volumes are cut out, and what is done to them in training."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lit_imgproc.data.medical.geometry import Triple
from lit_imgproc.data.medical.prepared import Volume

VolumeAugment = Literal["none", "flip", "dihedral", "flip_intensity"]
"""``flip`` mirrors each axis of half of the patches. ``dihedral`` also turns them by quarters in
the plane of height and width, which must be equal. ``flip_intensity`` mirrors, and changes contrast
by up to a quarter, brightness by up to a tenth of the patch's deviation, and adds noise of up to a
tenth of it."""

VolumeAugmentChoice = dict[Literal["train"], VolumeAugment] | None

CONTRAST, BRIGHTNESS, NOISE = 0.25, 0.1, 0.1


def patch_start(
    volume: Volume, size: Triple, foreground: float, random: np.random.Generator
) -> Triple:
    """The first voxel of a patch.

    With the probability ``foreground`` it is centred on a voxel of a class that is drawn first,
    each class with equal chances; otherwise every patch within the volume has equal chances. It is
    moved just as far as it must be to lie within the volume, and centred on a smaller one.

    Args:
        volume: What it is a patch of.
        size: Of the patch.
        foreground: Between 0 and 1; volumes without any foreground are drawn from evenly.
        random: What the choice is made by.
    """
    sides = volume.image.shape[-3:]
    low = [min((side - length) // 2, 0) for side, length in zip(sides, size, strict=True)]
    high = [
        max(side - length, lowest) for side, length, lowest in zip(sides, size, low, strict=True)
    ]
    classes = volume.traits.classes
    if random.random() < foreground and classes:
        voxels = classes[sorted(classes)[random.integers(len(classes))]]
        centre = np.unravel_index(voxels[random.integers(len(voxels))], sides)
        wanted = [int(at) - length // 2 for at, length in zip(centre, size, strict=True)]
        a, b, c = np.clip(wanted, low, high).tolist()
    else:
        a, b, c = random.integers(low, np.asarray(high) + 1).tolist()
    return a, b, c


def augment_patch(
    image: NDArray[np.float32],
    mask: NDArray[np.int64] | None,
    choice: VolumeAugment,
    random: np.random.Generator,
    value_range: tuple[float, float] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64] | None]:
    """Augment an image ``[C,D,H,W]`` and its mask ``[D,H,W]`` alike.

    Args:
        image: Changed in place or not.
        mask: Its labels.
        choice: See :data:`VolumeAugment`.
        random: What is done is drawn from it.
        value_range: What changed values are cut to.
    """
    if choice == "none":
        return image, mask
    axes = tuple(axis for axis in (-3, -2, -1) if random.random() < 0.5)
    turns = int(random.integers(4)) if choice == "dihedral" else 0

    def moved(array: Any) -> Any:
        return np.ascontiguousarray(np.rot90(np.flip(array, axes), turns, (-2, -1)))

    image, mask = moved(image), None if mask is None else moved(mask)
    if choice == "flip_intensity":
        image = _intensity(image, random)
        if value_range is not None:
            np.clip(image, *value_range, out=image)
    return image, mask


def _intensity(image: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float32]:
    axes = (1, 2, 3)
    mean, deviation = image.mean(axes, keepdims=True), image.std(axes, keepdims=True)
    contrast = 1 + random.uniform(-CONTRAST, CONTRAST)
    brightness = random.uniform(-BRIGHTNESS, BRIGHTNESS)
    noise = random.uniform(0, NOISE) * random.standard_normal(image.shape, np.float32)
    changed = (image - mean) * contrast + mean + deviation * (brightness + noise)
    return np.asarray(changed, np.float32)
