"""The files of scene classification: images of any bands, and lists of splits."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lit_imgproc.data.base import DataError, Split, raise_all
from lit_imgproc.data.decode import IMAGE_SUFFIXES, read_image
from lit_imgproc.data.imagenet.datasets import ClassificationDataset, Labels
from lit_imgproc.data.imagenet.folder import Files, Listing
from lit_imgproc.data.satellite.bands import Selection
from lit_imgproc.data.satellite.moments import Moments
from lit_imgproc.data.satellite.raster import Raster, Read
from lit_imgproc.data.satellite.tiles import file_digest
from lit_imgproc.data.transforms import Augment
from lit_imgproc.inputs import InputSpec

LARGEST = 2**29
"""So many values an image may have, 2 GB of float32."""

PLAIN = IMAGE_SUFFIXES - {".tif", ".tiff"}
"""What OpenCV reads as RGB of 8 bits, turned as EXIF says and out of its palette."""


class Scene(NamedTuple):
    """An image as it was read, and what its bands are called."""

    read: Read
    band_names: list[str]


def read_scene(path: Path, selection: Selection) -> Scene:
    """All of an image file.

    Raises:
        DataError: It cannot be read, has not the bands that are asked for, or is too large.
    """
    if path.suffix.lower() in PLAIN and selection.bands is None and not selection.indices:
        return Scene(Read(read_image(path, 3), None), ["red", "green", "blue"])
    raster = Raster(path, selection)
    if raster.height * raster.width * raster.channels > LARGEST:
        raise DataError(
            f"{path}: is too large for one image ({raster.height}x{raster.width}); cut it."
        )
    return Scene(raster.read(), raster.band_names)


class SceneDataset(ClassificationDataset):
    """Rasters that are read when they are asked for.

    Args:
        root: The folder that ``names`` are relative to.
        names: See :class:`~lit_imgproc.data.imagenet.datasets.ClassificationDataset`.
        labels: As there.
        class_names: As there.
        spec: As there.
        augment: As there.
        selection: What to make of the bands.
        moments: The statistics of the training images.
    """

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        labels: Labels,
        class_names: Sequence[str],
        spec: InputSpec,
        augment: Augment | None,
        selection: Selection,
        moments: Moments,
    ) -> None:
        super().__init__(names, labels, class_names, spec, augment)
        self.root, self.selection, self.moments = root, selection, moments

    def size(self, index: int) -> tuple[int, ...]:
        """Height and width of the image."""
        path = self.root / self.names[index]
        if path.suffix.lower() in PLAIN:
            return tuple(self.image(index).shape[:2])
        raster = Raster(path, self.selection)
        return raster.height, raster.width

    def image(self, index: int) -> Any:
        """The image, ``[H,W,C]``, uint8 or float32."""
        path = self.root / self.names[index]
        image = read_scene(path, self.selection).read.image
        check_alike(path, image, self.spec.channels, self.spec.eight_bit)
        return image

    @cached_property
    def statistics(self) -> tuple[list[float], list[float]]:
        """Of up to 1,000 training images, evenly spaced; of 8-bit images in ``[0,1]``."""
        scale = 255 if self.spec.eight_bit else 1
        return (self.moments.mean / scale).tolist(), (self.moments.std / scale).tolist()

    def update_digest(self, digest: "hashlib._Hash") -> None:
        """Feed the class names and each file's name, label and bytes to a digest."""
        digest.update("\0".join(self.class_names).encode())
        for name, label in zip(self.names, self.labels, strict=True):
            digest.update(f"\0{name}\0".encode())
            digest.update(label.tobytes())
            digest.update(file_digest(str(self.root / name)))


def check_alike(path: Path, image: NDArray[Any], channels: int, eight_bit: bool) -> None:
    """Raise a ``DataError`` where an image is not of the kind of the others."""
    if image.shape[2] != channels or (image.dtype == np.uint8) != eight_bit:
        kind = "8 bits" if eight_bit else "more than 8 bits"
        raise DataError(
            f"{path}: gives {image.shape[2]} bands of {image.dtype}, where others give {channels} "
            f"of {kind}."
        )


def read_split_lists(
    listing: Listing, root: Path, lists: Mapping[Literal["train", "val", "test"], str]
) -> dict[Split, Files]:
    """The files of each split that text files name.

    Raises:
        DataError: With one line for everything that is wrong.
    """
    if missing := {"train", "val", "test"} - set(lists):
        raise DataError(f"data.split_lists: has none for {', '.join(sorted(missing))}.")
    known = {Path(file[0]).stem: file for files in listing.files.values() for file in files}
    found: dict[Split, Files] = {}
    problems: list[str] = []
    owners: dict[str, str] = {}
    for split, name in lists.items():
        try:
            lines = (root / name).read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{root / name}: cannot be read ({error}).") from error
        found[split] = []
        for number, line in enumerate(lines, start=1):
            stem = Path(line.strip()).stem
            if not stem:
                continue
            if stem not in known:
                problems.append(f"{root / name}:{number}: there is no image {stem}.")
            elif stem in owners:
                problems.append(f"{root / name}:{number}: {stem} is in {owners[stem]} already.")
            else:
                owners[stem] = name
                found[split].append(known[stem])
    raise_all(problems)
    return found
