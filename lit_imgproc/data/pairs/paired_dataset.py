"""The pairs of one split, as samples."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lit_imgproc.data.names import Names
from lit_imgproc.data.pairs.base import TwoPictures, as_tensor
from lit_imgproc.data.pairs.derived import seed_of
from lit_imgproc.data.pairs.files import Pair
from lit_imgproc.data.pairs.framing import Framing
from lit_imgproc.data.pairs.reading import Reading
from lit_imgproc.data.transforms import Augment
from lit_imgproc.geometry import geometry_of

Sized = tuple[Pair, tuple[int, int]]
"""A pair, and the height and width of its pictures."""


class PairedDataset(TwoPictures):
    """The pairs of one split, or their tiles.

    Args:
        reading: How they are read.
        framing: What is seen of them.
        files: The pairs and their sizes.
        augment: What training does.
    """

    def __init__(
        self, reading: Reading, framing: Framing, files: Sequence[Sized], augment: Augment | None
    ) -> None:
        self.reading, self.framing, self.augment = reading, framing, augment
        self.sources = Names(pair.source for pair, _ in files)
        self.targets = Names(pair.target for pair, _ in files)
        self.sizes = np.array([size for _, size in files], np.int32).reshape(-1, 2)
        self.tiles = np.array(
            [(n, *at) for n, (_, size) in enumerate(files) for at in framing.corners(*size)],
            np.int32,
        ).reshape(-1, 3)
        self.names = self.sources
        if framing.resize == "none":
            self.names = Names(
                f"{self.sources[number]}@{row},{column}"
                for number, row, column in self.tiles.tolist()
            )
            self.groups = Names(self.sources[number] for number in self.tiles[:, 0].tolist())

    def __len__(self) -> int:
        return len(self.tiles)

    def size(self, index: int) -> tuple[int, ...]:
        """Height and width of the picture, or of the tile."""
        if self.framing.resize == "none":
            return self.framing.image_size, self.framing.image_size
        height, width = self.sizes[index].tolist()
        return height, width

    def fetch(self, index: int | tuple[int, int]) -> dict[str, Any]:
        """An item with its source as an array."""
        sample_seed = None
        if isinstance(index, tuple):
            index, sample_seed = index
        number, *corner = self.tiles[index].tolist()
        pair, at = Pair(self.sources[number], self.targets[number]), (corner[0], corner[1])
        layers = self.reading.layers(pair)
        if sample_seed is None:
            seed = hole_seed(Path(pair.source).name, at)
            layers = self.framing.evaluated(layers, at)
        else:
            seed = sample_seed
            layers = self.framing.trained(layers, sample_seed, self.augment)
        source, target = self.reading.pair(layers, seed)
        height, width = self.sizes[number].tolist()
        path = str(self.reading.root / pair.source)
        return {
            "image": source,
            "target": as_tensor(target),
            "id": self.names[index],
            "geometry": geometry(path, (height, width), self.framing, at),
        }

    def update_digest(self, digest: "hashlib._Hash") -> None:
        """Feed the names and bytes of all pairs to a digest."""
        for source, target in zip(self.sources, self.targets, strict=True):
            self.reading.update_digest(digest, Pair(source, target))


def hole_seed(name: str, corner: tuple[int, int]) -> int:
    """Where the hole of a tile is, in evaluation."""
    return seed_of(f"{name} {corner[0]} {corner[1]}")


def geometry(
    path: str, stored: tuple[int, int], framing: Framing, corner: tuple[int, int]
) -> dict[str, Any]:
    """What brings a prediction back: of a tile to the tile, with the ``window`` it is of the file.

    ``window`` is row, column, height and width.
    """
    size = (framing.image_size, framing.image_size)
    if framing.resize == "none":
        return geometry_of(path, size, size) | {"window": [*corner, *size]}
    return geometry_of(path, stored, size)
