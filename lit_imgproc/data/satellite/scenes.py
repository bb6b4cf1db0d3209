"""Scene classification: a raster an image, with a class each."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from annotated_types import Gt, Lt
from numpy.typing import NDArray

from lit_imgproc.data.base import (
    BatchSize,
    DataError,
    ImageDataset,
    NumWorkers,
    Split,
    raise_all,
)
from lit_imgproc.data.imagenet.base import ClassificationData
from lit_imgproc.data.imagenet.datasets import SAMPLE
from lit_imgproc.data.imagenet.folder import Listing, list_images
from lit_imgproc.data.readable import OnError
from lit_imgproc.data.satellite import toy
from lit_imgproc.data.satellite.bands import Band, Complex, Index, Selection
from lit_imgproc.data.satellite.moments import Moments, value_range_of
from lit_imgproc.data.satellite.scene_files import (
    Kind,
    SceneDataset,
    read_kind,
    read_scene,
    read_split_lists,
    unlike,
)
from lit_imgproc.data.satellite.threads import in_threads
from lit_imgproc.data.transforms import Augment, AugmentChoice
from lit_imgproc.inputs import InputSpec, Interpolation, Resize

Fraction = Annotated[float, Gt(0), Lt(1)]
Side = Annotated[int, Gt(0)]
T = TypeVar("T")

AT_ONCE = 64
"""So many images are held in memory while a sample of them is read."""


class SceneFolder(ClassificationData):
    """Scenes of any number of bands and any sample type, a class a folder or listed in a CSV file.

    GeoTIFFs, or JPEG and PNG files, in the layouts of
    :class:`~lit_imgproc.data.imagenet.datamodule.ImageFolder`. Images of 8 bits are uint8; all
    others keep their values, as float32, with missing ones set to 0.

    At the start every header is looked at, and up to 1,000 images of each split, evenly spaced, are
    read, so that broken files show. Mean, deviation and range are of those for training.

    Example:
        >>> data = SceneFolder(root="data/ucmerced", augment={"train": "dihedral"})
        >>> data.facts()["in_channels"]
        3

    Args:
        root: The folder of the data set.
        index: A CSV file in ``root`` to be read instead of looking at folders.
        split_lists: Text files in ``root`` by split, with a name of an image in each line; folders
            and suffixes in them do not count.
        image_size: Height and width of the images that networks see, in pixels; ``None`` takes
            those of the first training image.
        resize: See :class:`~lit_imgproc.inputs.InputSpec`, as for ``interpolation``.
        interpolation: How images are scaled in evaluation.
        bands: Numbers, from 1, or names of bands; ``None`` takes all but alpha.
        band_names: The names of the files' bands, where the files do not say.
        indices: Spectral indices as further bands; see :mod:`lit_imgproc.data.satellite.bands`.
        complex_values: Whether complex values are refused or their magnitude is taken.
        val_fraction: Share of the images to hold out for validation where that is not given.
        test_fraction: Share of the images to hold out for testing where that is not given.
        augment: What training does, for example ``{"train": "dihedral"}``.
        batch_size: Images in a batch of one process.
        num_workers: Processes that load images; ``None`` goes by the CPUs of this rank.
        on_error: What happens to images that cannot be read: ``stop``, or ``skip`` them.
        seed: Seed of the order of the images and of their augmentations.

    Raises:
        DataError: When it is prepared, with one line for everything that is wrong.
    """

    def __init__(
        self,
        *,
        root: str,
        index: str | None = None,
        split_lists: dict[Literal["train", "val", "test"], str] | None = None,
        image_size: Side | None = None,
        resize: Resize = "squash",
        interpolation: Interpolation = "area",
        bands: list[Band] | None = None,
        band_names: list[str] | None = None,
        indices: list[Index] | None = None,
        complex_values: Complex = "refuse",
        val_fraction: Fraction = 0.15,
        test_fraction: Fraction = 0.15,
        augment: AugmentChoice = None,
        batch_size: BatchSize = 32,
        num_workers: NumWorkers = None,
        on_error: OnError = "stop",
        seed: int = 0,
    ) -> None:
        super().__init__(
            augment=augment,
            cache=None,
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
        )
        self.root, self.index, self.split_lists = Path(root), index, split_lists
        self.image_size, self.resize, self.interpolation = image_size, resize, interpolation
        self.selection = Selection.of(bands, band_names, indices or (), complex_values)
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self.on_error = on_error
        self._spec: InputSpec | None = None
        self._first: Kind

    def open(self, path: Path) -> NDArray[Any]:
        """An image with the bands and indices of this data set."""
        return read_scene(path, self.selection).image

    def input_spec(self) -> InputSpec:
        """What evaluation does to an image; known after looking at one."""
        if self._spec is None:
            self.prepare()
        assert self._spec is not None
        return self._spec

    def facts(self) -> dict[str, Any]:
        """Also the names of the bands."""
        return super().facts() | {"band_names": self._first.band_names}

    def read(self) -> dict[Split, ImageDataset]:
        """List the files and read a sample of each split."""
        listing = self._list()
        problems = self._look_at_all(listing)
        moments, unreadable = self._sample(listing)
        self.settle(sorted({*problems, *unreadable}))
        listing.raise_problems()
        datasets: dict[Split, ImageDataset] = {}
        for split in ("train", "val", "test"):
            datasets[split] = SceneDataset(
                listing.root,
                [name for name, _ in listing.files[split]],
                listing.encode(split),
                listing.class_names,
                self.input_spec(),
                self._augmentation() if split == "train" else None,
                self.selection,
                moments,
            )
        return datasets

    def _list(self) -> Listing:
        listing = list_images(self._folder(), self.index, self.val_fraction, self.test_fraction)
        if self.split_lists is not None:
            listing.files = read_split_lists(listing, self.root, self.split_lists)
        return listing

    def _folder(self) -> Path:
        """Where the folders of classes lie."""
        return self.root

    def _look_at_all(self, listing: Listing) -> list[str]:
        """Look at every header, and leave out of the listing what cannot be used.

        The first image says what the others have to be like.
        """
        kinds = self._each(listing, listing.names(), read_kind)
        usable = [kind for kind in kinds if not isinstance(kind, DataError)]
        if not usable:
            raise_all([str(kind) for kind in kinds])
        self._first = usable[0]
        problems = [
            str(kind)
            if isinstance(kind, DataError)
            else unlike(listing.root / name, kind, usable[0])
            for name, kind in zip(listing.names(), kinds, strict=True)
        ]
        found = [problem for problem in problems if problem]
        listing.leave_out(found)
        return found

    def _sample(self, listing: Listing) -> tuple[Moments, list[str]]:
        """Read a sample of each split, and leave out of the listing what cannot be read."""
        moments, problems = Moments(self._first.channels), []
        for split, files in listing.files.items():
            count = min(len(files), SAMPLE)
            chosen = np.linspace(0, len(files) - 1, count).round().astype(int).tolist()
            names = [files[index][0] for index in chosen]
            for start in range(0, len(names), AT_ONCE):
                for scene in self._each(listing, names[start : start + AT_ONCE], read_scene):
                    if isinstance(scene, DataError):
                        problems.append(str(scene))
                    elif split == "train":
                        moments.add(scene)
        listing.leave_out(problems)
        self._describe(moments)
        return moments, problems

    def _each(
        self, listing: Listing, names: Sequence[str], look: Callable[[Path, Selection], T]
    ) -> list[T | DataError]:
        """What is found of each of some files, or what is wrong with it."""

        def one(name: str) -> T | DataError:
            try:
                return look(listing.root / name, self.selection)
            except DataError as error:
                return error

        return in_threads(one, names)

    def _describe(self, moments: Moments) -> None:
        first = self._first
        size = first.size if self.image_size is None else (self.image_size, self.image_size)
        self._spec = InputSpec(
            first.channels,
            size,
            self.resize,
            interpolation=self.interpolation,
            value_range=value_range_of(first.dtype, moments),
        )

    def _augmentation(self) -> Augment:
        spec = self.input_spec()
        dtype = np.uint8 if spec.eight_bit else np.float32
        highest = spec.value_range[1]
        return Augment(self.augment["train"], spec.size[0], spec.channels, dtype, highest)

    @classmethod
    def write_toy(cls, root: Path) -> None:
        """Four classes of 13 bands, uint16, that differ by their spectra alone."""
        toy.write_scenes(root, toy.SENTINEL_BANDS)


class HyperspectralScenes(SceneFolder):
    """:class:`SceneFolder` for imaging spectrometers, whose toy has 120 bands.

    Example:
        >>> data = HyperspectralScenes(root="data/hyperspectral")
        >>> data.facts()["in_channels"]
        120
    """

    @classmethod
    def write_toy(cls, root: Path) -> None:
        """Four classes of 120 bands, uint16, that differ by their spectra alone."""
        toy.write_scenes(root, [f"{400 + 17 * number} nm" for number in range(120)])
