"""The files of scene classification: images of any bands, and lists of splits."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from lit_imgproc.data.base import DataError, Split, raise_all
from lit_imgproc.data.decode import IMAGE_SUFFIXES, read_image
from lit_imgproc.data.imagenet.datasets import ClassificationDataset, Labels
from lit_imgproc.data.imagenet.folder import Files, Listing
from lit_imgproc.data.probe import probe
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


class Kind(NamedTuple):
    """What the images of a data set have in common, and a size, which they may have not.

    Attributes:
        channels: How many bands the images have.
        dtype: ``uint8`` or ``float32``.
        band_names: Of the images.
        size: Height and width, in pixels.
    """

    channels: int
    dtype: str
    band_names: list[str]
    size: tuple[int, int]


def read_kind(path: Path, selection: Selection) -> Kind:
    """What the header of an image file says.

    Raises:
        DataError: It cannot be read, has not the bands that are asked for, or is too large.
    """
    if _is_plain(path, selection):
        header = probe(path)
        if isinstance(header, str):
            raise DataError(header)
        return Kind(3, "uint8", ["red", "green", "blue"], (header.height, header.width))
    raster = _open(path, selection)
    size = raster.height, raster.width
    return Kind(raster.channels, raster.dtype, raster.band_names, size)


def read_scene(path: Path, selection: Selection) -> Read:
    """All of an image file.

    Raises:
        DataError: It cannot be read, has not the bands that are asked for, or is too large.
    """
    if _is_plain(path, selection):
        return Read(read_image(path, 3), None)
    return _open(path, selection).read()


def unlike(path: Path, kind: Kind, first: Kind) -> str:
    """A sentence where an image is not of the kind of the first, or ``""``."""
    if (kind.channels, kind.dtype) == (first.channels, first.dtype):
        return ""
    return (
        f"{path}: gives {kind.channels} bands of {kind.dtype}, where the first image gives "
        f"{first.channels} of {first.dtype}."
    )


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
        """Height and width of the image, from its header."""
        return read_kind(self.root / self.names[index], self.selection).size

    def image(self, index: int) -> Any:
        """The image, ``[H,W,C]``, uint8 or float32.

        Raises:
            DataError: It cannot be read, or has other bands than the others.
        """
        path = self.root / self.names[index]
        image = read_scene(path, self.selection).image
        if image.shape[2] != self.spec.channels or (image.dtype == np.uint8) != self.spec.eight_bit:
            raise DataError(
                f"{path}: gives {image.shape[2]} bands of {image.dtype}, unlike others."
            )
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


def _open(path: Path, selection: Selection) -> Raster:
    raster = Raster(path, selection)
    if raster.height * raster.width * raster.channels > LARGEST:
        size = f"{raster.height}x{raster.width}"
        raise DataError(f"{path}: is too large for one image ({size}); cut it.")
    return raster


def _is_plain(path: Path, selection: Selection) -> bool:
    return path.suffix.lower() in PLAIN and selection.bands is None and not selection.indices


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
