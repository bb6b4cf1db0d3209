"""Classification data: one's own folders."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Gt, Le, Lt

from lit_imgproc.data import probe
from lit_imgproc.data.base import BatchSize, ImageDataset, NumWorkers, Progress, Split
from lit_imgproc.data.cache import Cache
from lit_imgproc.data.errors import DataError
from lit_imgproc.data.form import Form, load
from lit_imgproc.data.imagenet import toy
from lit_imgproc.data.imagenet.base import ClassificationData
from lit_imgproc.data.imagenet.cached import CachedDataset, Copies
from lit_imgproc.data.imagenet.datasets import FileDataset
from lit_imgproc.data.imagenet.folder import Listing, list_images
from lit_imgproc.data.names import Names
from lit_imgproc.data.readable import OnError
from lit_imgproc.data.transforms import AugmentChoice
from lit_imgproc.inputs import InputSpec, Interpolation, Resize

SPLITS: tuple[Split, ...] = ("train", "val", "test")
Fraction = Annotated[float, Gt(0), Lt(1)]
Side = Annotated[int, Gt(0)]


class ImageFolder(ClassificationData):
    """One's own images, a class a folder or listed in a CSV file.

    The layouts, found by looking:

    - ``root/train/<class>/…``, ``root/test/<class>/…`` and, if there is one, ``root/val``
      (``valid``, ``validation``). Without it validation images are held out of the training
      images; without ``test`` the validation images are the test images, as with ImageNet.
    - ``root/<class>/…``: validation and test images are held out.
    - ``index``: a CSV file in ``root`` with the columns ``path`` (relative to ``root``), ``label``
      (several are separated by ``|``: the task is then multi-label) and, if it likes, ``split``.

    What is held out is the same share of every class and always the same images, whatever the
    seed. Frames of one object must not be parted: give such data a ``split``.

    Mean and deviation are of up to 1,000 training images, evenly spaced, as evaluation sees them.
    As many images of each split are decoded at the start, and the first and last bytes of all
    files are looked at, so that broken files show.

    A ``cache`` saves decoding. ``jpeg`` and ``raw`` are copies on disk of the size that evaluation
    needs, which ``lit-imgproc data prepare`` makes once for everybody; see
    :mod:`lit_imgproc.data.cache` for what they hold. ``memory`` keeps what ``raw`` does in memory,
    once a rank; ``device`` has all images on the device, where it also makes the batches. What
    ``random_resized_crop`` cuts out is then a part of the smaller image, not of the original.

    Example:
        >>> data = ImageFolder(root="data/fruits", image_size=112, augment={"train": "flip"})
        >>> data.facts()["class_names"]
        ['apple', 'cherry', 'tomato']

    Args:
        root: The folder of the data set.
        index: A CSV file in ``root`` to be read instead of looking at folders.
        image_size: Height and width of the images that networks see, in pixels.
        resize: See :class:`~lit_imgproc.inputs.InputSpec`, as for the next two.
        crop_fraction: Share of the scaled image's side that ``resize: crop`` keeps.
        interpolation: How images are scaled in evaluation.
        in_channels: 3 for RGB, 1 for grey.
        images_per_class: Train on so many images of each class only, drawn by ``seed``.
        val_fraction: Share of the images to hold out for validation where that is not given.
        test_fraction: Share of the images to hold out for testing where that is not given.
        augment: What training does, for example ``{"train": "random_resized_crop"}``.
        cache: Where images are taken from, if not from their files.
        cache_dir: The folder of caches. ``None`` takes ``.lit_imgproc`` in ``root``, or where that
            cannot be written to ``~/.cache/lit_imgproc``. All data sets may share one.
        batch_size: Images in a batch of one process.
        num_workers: Processes that load images; ``None`` goes by the CPUs of this rank.
        on_error: What happens when an image can no longer be read in mid-run: ``stop``, or
            ``skip`` it, with a warning and the metric ``data/skipped``. In training another image
            then takes its place; an evaluation is of the images that can be read.
        seed: Seed of the order of the images and of their augmentations.

    Raises:
        DataError: When it is prepared, with one line for everything that is wrong.
    """

    def __init__(
        self,
        *,
        root: str,
        index: str | None = None,
        image_size: Side = 224,
        resize: Resize = "crop",
        crop_fraction: Annotated[float, Gt(0), Le(1)] = 0.875,
        interpolation: Interpolation = "area",
        in_channels: Literal[1, 3] = 3,
        images_per_class: Annotated[int, Gt(0)] | None = None,
        val_fraction: Fraction = 0.15,
        test_fraction: Fraction = 0.15,
        augment: AugmentChoice = None,
        cache: Literal["jpeg", "raw", "memory", "device"] | None = None,
        cache_dir: str | None = None,
        batch_size: BatchSize = 32,
        num_workers: NumWorkers = None,
        on_error: OnError = "stop",
        seed: int = 0,
    ) -> None:
        super().__init__(
            augment=augment, cache=cache, batch_size=batch_size, num_workers=num_workers, seed=seed
        )
        self.on_error = on_error
        self.root = Path(root)
        self.cache_dir = cache_dir
        self.index = index
        self.images_per_class = images_per_class
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        size = (image_size, image_size)
        self.spec = InputSpec(in_channels, size, resize, crop_fraction, interpolation)

    def input_spec(self) -> InputSpec:
        """What evaluation does to an image."""
        return self.spec

    def read(self) -> dict[Split, ImageDataset]:
        """List the files, look at each, and decode a sample of each split."""
        listing = self._listing()
        form = Form("jpeg" if self.cache == "jpeg" else "raw", self.spec)
        names, copies = listing.names(), None
        if self.cache in ("jpeg", "raw"):
            copies = Copies(self.root, names, self._cache(names).open(), form)
        problems = probe.problems(self.root, names) if copies is None else copies.problems()
        listing.leave_out(problems)
        if self.images_per_class is not None:
            listing.draw(self.images_per_class, self.seed)
        if self.cache in ("memory", "device") and not listing.problems:
            names = listing.names()
            copies = Copies(self.root, names, load(self.root, names, form), form)
            problems += copies.problems()
            listing.leave_out(copies.problems())
        datasets: dict[Split, ImageDataset] = {}
        while not listing.problems:
            split = {split: self._split(listing, split, copies) for split in SPLITS}
            unreadable = [problem for dataset in split.values() for problem in _unreadable(dataset)]
            problems += unreadable
            listing.leave_out(unreadable)
            if not unreadable:
                datasets |= split
                break
        self.settle(list(dict.fromkeys(problems)))
        listing.raise_problems()
        return datasets

    def prepare_cache(self, progress: Progress) -> Path:
        """Make the cache on disk, or what is not there or damaged of it.

        Args:
            progress: Shows how far it is.

        Returns:
            The folder of the cache.

        Raises:
            DataError: ``cache`` is none on disk, it cannot be written, or files cannot be read.
        """
        if self.cache not in ("jpeg", "raw"):
            raise DataError(
                f"data.cache is {self.cache or 'null'}, which needs no preparation: "
                "set it to jpeg or raw."
            )
        names = self._listing().names()
        cache = self._cache(names)
        folder = cache.prepare(progress)
        self.settle(Copies(self.root, names, cache.open(), cache.form).problems())
        return folder

    def verify_cache(self, progress: Progress) -> list[str]:
        """Read all of the cache on disk, if there is to be one; a sentence a damaged part."""
        if self.cache not in ("jpeg", "raw"):
            return []
        return self._cache(self._listing().names()).verify(progress)

    def _listing(self) -> Listing:
        return list_images(self.root, self.index, self.val_fraction, self.test_fraction)

    def _cache(self, names: Sequence[str]) -> Cache:
        if self.cache_dir is not None:
            folders = [Path(self.cache_dir)]
        else:
            own = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
            folders = [self.root / ".lit_imgproc", own / "lit_imgproc" / "data"]
        form = Form("jpeg" if self.cache == "jpeg" else "raw", self.spec)
        return Cache(self.root, names, form, folders)

    def _split(self, listing: Listing, split: Split, copies: Copies | None) -> FileDataset:
        names = Names(name for name, _ in listing.files[split])
        augment = self._augmentation() if split == "train" else None
        labels, classes = listing.encode(split), listing.class_names
        if copies is None:
            return FileDataset(self.root, names, labels, classes, self.spec, augment)
        pack = copies.of(names)
        return CachedDataset(
            self.root, names, labels, classes, self.spec, augment, pack, copies.form
        )

    @classmethod
    def write_toy(cls, root: Path) -> None:
        """Three classes of drawn shapes in ``train``, ``val`` and ``test``, JPEG and PNG."""
        toy.write_folder(root)


def _unreadable(dataset: FileDataset) -> list[str]:
    """What is wrong with the images that mean and deviation are of."""
    try:
        _ = dataset.statistics
    except DataError as error:
        return str(error).splitlines()
    return []
