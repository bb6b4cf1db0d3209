"""Pictures of two domains that have nothing to do with each other."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lit_imgproc.data.base import BatchSize, ImageDataset, NumWorkers, Split
from lit_imgproc.data.decode import read_image
from lit_imgproc.data.names import Names
from lit_imgproc.data.order import TrainBatches
from lit_imgproc.data.pairs import toy
from lit_imgproc.data.pairs.base import (
    Fraction,
    PairData,
    Side,
    TwoPictures,
    as_tensor,
    decode,
)
from lit_imgproc.data.pairs.files import Dealing, digest_file, find_files, look, singles
from lit_imgproc.data.pairs.framing import Framing, Pixels
from lit_imgproc.data.probe import Probe
from lit_imgproc.data.readable import OnError
from lit_imgproc.data.transforms import Augment, AugmentChoice
from lit_imgproc.geometry import geometry_of

Sizes = dict[str, tuple[int, int]]
"""By file, height and width."""
Domains = tuple[Sizes, Sizes]
"""The files of the source and those of the target."""


class UnpairedImages(PairData[Domains]):
    """Images of two domains, for translation as of CycleGAN, arXiv:1703.10593, or for styles.

    By default files lie as its authors publish them: ``trainA``, ``trainB``, ``testA``, ``testB``
    and, if there are some, ``valA`` and ``valB``. Other patterns say otherwise, and with both
    domains or styles in two folders, such as ``content/*`` and ``style/*``, validation and test
    images are held out: always the same ones, whatever the seed.

    ``image`` is of the source's domain and ``target`` of the other. Training goes over the sources,
    again and again where there are more targets, and draws a target for each by its seed.
    Evaluation sees each source once, with the targets in order, again and again where there are
    fewer. Both are scaled, cut and augmented independently.

    Example:
        >>> data = UnpairedImages(root="data/horse2zebra", load_size=286, augment={"train": "flip"})

        Photographs and paintings, whose shape is kept:

        >>> data = UnpairedImages(
        ...     root="data", source="photos/**/*", target="paintings/**/*", resize="crop",
        ...     image_size=256, load_size=512,
        ... )

    Args:
        root: The folder of the data set.
        source: The pattern of the source's files; see
            :class:`~lit_imgproc.data.pairs.paired.PairedImages`.
        target: The pattern of the target's files.
        image_size: Height and width of what networks see, in pixels.
        load_size: Training scales to this and cuts ``image_size`` out of it at random: 286 for 256
            in the paper; ``None`` scales to ``image_size``.
        resize: ``squash`` scales to a square. ``crop`` keeps the shape: the longer side is cut, in
            the middle in evaluation and anywhere in training.
        in_channels: Of the source: 3 for RGB, 1 for grey.
        out_channels: Of the target.
        val_fraction: Share of the images to hold out for validation where that is not given.
        test_fraction: Share of the images to hold out for testing where that is not given.
        augment: What training does with each, for example ``{"train": "flip"}``.
        batch_size: Images of each domain in a batch of one process; 1 in the paper.
        num_workers: Processes that load images; ``None`` goes by the CPUs of this rank.
        on_error: What happens to images that cannot be used: ``stop``, or ``skip`` them.
        seed: Seed of the order of the images, of their partners and of their augmentations.

    Raises:
        UserError: Arguments do not fit together.
        DataError: When it is prepared, with one line for everything that is wrong.
    """

    def __init__(
        self,
        *,
        root: str,
        source: str = "{split}A/*",
        target: str = "{split}B/*",
        image_size: Side = 256,
        load_size: Side | None = None,
        resize: Literal["squash", "crop"] = "squash",
        in_channels: Literal[1, 3] = 3,
        out_channels: Literal[1, 3] = 3,
        val_fraction: Fraction = 0.15,
        test_fraction: Fraction = 0.15,
        augment: AugmentChoice = None,
        batch_size: BatchSize = 1,
        num_workers: NumWorkers = None,
        on_error: OnError = "stop",
        seed: int = 0,
    ) -> None:
        super().__init__(
            root=root,
            framing=Framing(image_size, load_size, resize),
            in_channels=in_channels,
            out_channels=out_channels,
            augment=augment,
            batch_size=batch_size,
            num_workers=num_workers,
            on_error=on_error,
            seed=seed,
        )
        self.patterns = {"source": source, "target": target}
        self.dealing = Dealing(None, None, val_fraction, test_fraction)
        self.dealing.check(self.patterns)

    def find(self) -> tuple[dict[Split, Domains], list[str]]:
        """List the files of both domains, look at all headers, and hold out what is not given."""
        problems: list[str] = []
        domains: list[dict[Split, Sizes]] = []
        for setting, pattern in self.patterns.items():
            found = find_files(self.root, pattern, setting)
            dealt = self.dealing.deal(self.root, singles(found))
            names = list(dict.fromkeys(name for some in dealt.values() for name in some))
            looks = dict(zip(names, look(self.root, names), strict=True))
            problems += [one for one in looks.values() if isinstance(one, str)]
            domains.append({split: _sizes(some, looks) for split, some in dealt.items()})
        sources, targets = domains
        result: dict[Split, Domains] = {
            split: (sources[split], targets[split]) for split in sources
        }
        if sources["test"] == sources["val"] and targets["test"] == targets["val"]:
            result["test"] = result["val"]
        return result, problems

    def decoded(self, files: Domains) -> tuple[Domains, list[str]]:
        """Read some files of both domains."""
        problems: list[str] = []
        left: list[Sizes] = []
        for some, channels in zip(files, (self.in_channels, self.out_channels), strict=True):

            def read(name: str, channels: int = channels) -> Pixels:
                return read_image(os.path.join(self.root, name), channels)

            kept, unreadable = decode(read, list(some))
            problems += unreadable
            left.append({name: some[name] for name in kept})
        return (left[0], left[1]), problems

    def make(self, split: Split, files: Domains) -> ImageDataset:
        """The data set of a split; that of training is augmented."""
        channels = (self.in_channels, self.out_channels)
        augments: list[Augment | None] = [None, None]
        if split == "train" and self.augment["train"] != "none":
            choice, size = self.augment["train"], self.framing.image_size
            augments = [Augment(choice, size, one) for one in channels]
        return UnpairedDataset(self.root, files, channels, self.framing, augments)

    def _train_batches(self, rank: int, world_size: int) -> TrainBatches:
        dataset = self.dataset("train")
        assert isinstance(dataset, UnpairedDataset)
        longer = max(len(dataset), len(dataset.targets))
        return TrainBatches(longer, self.batch_size, self.seed, rank, world_size)

    @classmethod
    def write_toy(cls, root: Path) -> None:
        """Golden and red discs in ``trainA``, ``trainB``, ``testA`` and ``testB``."""
        toy.write_domains(root)


class UnpairedDataset(TwoPictures):
    """The sources of one split, each with some target. Of both splits there may be different many.

    Args:
        root: The folder of the files.
        files: Their names and sizes.
        channels: Of the sources and of the targets.
        framing: What is seen of them.
        augments: What training does with the sources, and with the targets.
    """

    def __init__(
        self,
        root: Path,
        files: Domains,
        channels: tuple[int, int],
        framing: Framing,
        augments: Sequence[Augment | None],
    ) -> None:
        self.root, self.channels, self.framing, self.augments = root, channels, framing, augments
        sources, targets = files
        self.names, self.targets = Names(sources), Names(targets)
        self.sizes = np.array(list(sources.values()), np.int32).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self.names) if len(self.targets) else 0

    def size(self, index: int) -> tuple[int, ...]:
        """Height and width of a source."""
        height, width = self.sizes[index].tolist()
        return height, width

    def fetch(self, index: int | tuple[int, int]) -> dict[str, Any]:
        """An item with its source as an array."""
        if isinstance(index, tuple):
            # An epoch is as long as the longer list, so it may go over the sources repeatedly.
            number, sample_seed = index[0] % len(self), index[1]
            random = np.random.default_rng(sample_seed)
            partner = int(random.integers(len(self.targets)))
            seeds = random.integers(2**63, size=2).tolist()
        else:
            number, partner, seeds = index, index % len(self.targets), [None, None]
        source, target = self.names[number], self.targets[partner]
        image = self._read(source, 0, seeds[0])
        height, width = self.sizes[number].tolist()
        path = str(self.root / source)
        return {
            "image": image,
            "target": as_tensor(self._read(target, 1, seeds[1])),
            "id": source,
            "geometry": geometry_of(path, (height, width), (image.shape[0], image.shape[1])),
        }

    def update_digest(self, digest: "hashlib._Hash") -> None:
        """Feed the names and bytes of all files to a digest."""
        for names in (self.names, self.targets):
            for name in names:
                digest_file(digest, self.root, name)

    def _read(self, name: str, side: int, seed: int | None) -> Pixels:
        layers = [read_image(os.path.join(self.root, name), self.channels[side])]
        if seed is None:
            (image,) = self.framing.evaluated(layers, (0, 0))
        else:
            (image,) = self.framing.trained(layers, seed, self.augments[side])
        return image


def _sizes(names: Sequence[str], looks: dict[str, Probe | str]) -> Sizes:
    """Height and width of those files that can be used."""
    found = ((name, looks[name]) for name in names)
    return {name: (one.height, one.width) for name, one in found if not isinstance(one, str)}
