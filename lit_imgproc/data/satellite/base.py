"""What the datamodules over tiles of rasters share."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from annotated_types import Ge, Gt, Lt
from numpy.typing import NDArray

from lit_imgproc.data.base import (
    BatchSize,
    DataError,
    ImageDataModule,
    ImageDataset,
    NumWorkers,
    Split,
)
from lit_imgproc.data.readable import OnError
from lit_imgproc.data.satellite.bands import Selection
from lit_imgproc.data.satellite.listing import SUFFIXES, Layout, Piece, Source, list_files, open_all
from lit_imgproc.data.satellite.moments import Moments, value_range_of
from lit_imgproc.data.satellite.raster import Raster
from lit_imgproc.data.satellite.threads import in_threads
from lit_imgproc.data.satellite.tiling import Tile
from lit_imgproc.data.transforms import Augment, AugmentChoice
from lit_imgproc.inputs import InputSpec

Fraction = Annotated[float, Gt(0), Lt(1)]
Side = Annotated[int, Gt(0)]
Pixels = Annotated[int, Ge(0)]

NEIGHBOURS = 64
"""So many tiles of a raster a thread reads in a row, before training."""


class Look(NamedTuple):
    """What one tile is found to hold, before training.

    Attributes:
        moments: Of what no earlier tile holds.
        counts: Pixels or objects of each class, ``[K]``.
        use: Whether there is anything to learn from or to evaluate.
        problem: Why its raster cannot be used, or ``""``.
    """

    moments: Moments
    counts: NDArray[np.int64]
    use: bool
    problem: str


class RasterData(ImageDataModule):
    """What the datamodules over tiles of rasters share.

    Args:
        root: See :class:`~lit_imgproc.data.satellite.segmentation.RasterTiles`, as for the others.
    """

    suffixes = SUFFIXES

    def __init__(
        self,
        *,
        root: str,
        images: str,
        layout: Layout,
        sampling: str,
        selection: Selection,
        augment: AugmentChoice,
        batch_size: BatchSize,
        num_workers: NumWorkers,
        on_error: OnError,
        seed: int,
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers, seed=seed)
        self.root, self.images = Path(root), images
        self.layout, self.sampling, self.selection = layout, sampling, selection
        self.augment = augment or {"train": "none"}
        self.on_error = on_error
        self._facts: dict[str, Any] = {}
        self._spec: InputSpec | None = None

    @abstractmethod
    def _source(self, name: str) -> Source:
        """Open a raster and what belongs to it, or raise a ``DataError``."""

    @abstractmethod
    def _classes(self, sources: Sequence[Source], train: Sequence[Piece]) -> list[str]:
        """The names of the classes, after looking at the headers and annotations."""

    @abstractmethod
    def _look(self, source: Source, tile: Tile, class_names: Sequence[str]) -> Look:
        """Read a tile, before training."""

    @abstractmethod
    def _dataset(
        self,
        sources: Sequence[Source],
        pieces: Sequence[Piece],
        class_names: Sequence[str],
        augment: Augment | None,
    ) -> ImageDataset:
        """A split."""

    def open(self, path: Path) -> NDArray[Any]:
        """All of a raster, with the bands and indices of this data set."""
        return Raster(path, self.selection).read().image

    def input_spec(self) -> InputSpec:
        """Tiles as they are, of the bands and range that the training tiles have."""
        self.prepare()
        assert self._spec is not None
        return self._spec

    def facts(self) -> dict[str, Any]:
        """Classes, bands, size, and the statistics of the values that training tiles have."""
        self.prepare()
        return dict(self._facts)

    def read(self) -> dict[Split, ImageDataset]:
        """Open all files, deal out the tiles, and read every tile once."""
        self.layout.check()
        sources, problems = open_all(list_files(self.root, self.images), self._source)
        self.settle(problems)
        if not sources:
            raise DataError(f"{self.root}: no file of it can be used.")
        pieces = self.layout.deal(sources)
        class_names = self._classes(sources, pieces["train"])
        looks = self._look_at_all(sources, pieces, class_names)
        self._settle_files(sources, looks)
        used = {split: self._used(sources, split, pieces[split], looks) for split in pieces}
        raster = sources[0].raster
        self._gather(raster, class_names, [looks[p.source, p.tile] for p in used["train"]])
        dtype = np.uint8 if raster.dtype == "uint8" else np.float32
        size = self.layout.tile_size
        assert self._spec is not None
        highest = self._spec.value_range[1]
        augment = Augment(self.augment["train"], size, raster.channels, dtype, highest)
        return {
            split: self._dataset(
                sources, used[split], class_names, augment if split == "train" else None
            )
            for split in used
        }

    def _look_at_all(
        self,
        sources: Sequence[Source],
        pieces: dict[Split, list[Piece]],
        class_names: Sequence[str],
    ) -> dict[tuple[int, Tile], Look]:
        every = list({(p.source, p.tile): None for split in pieces.values() for p in split})
        # Neighbours together, since GDAL keeps what it decodes of a file for the thread that did.
        parts = [
            part
            for _, group in groupby(every, key=lambda key: key[0])
            for part in batched(group, NEIGHBOURS)
        ]

        def look(part: Sequence[tuple[int, Tile]]) -> list[Look]:
            return [self._look_at(sources[number], tile, class_names) for number, tile in part]

        looks = [one for some in in_threads(look, parts) for one in some]
        return dict(zip([key for part in parts for key in part], looks, strict=True))

    def _look_at(self, source: Source, tile: Tile, class_names: Sequence[str]) -> Look:
        try:
            return self._look(source, tile, class_names)
        except DataError as error:
            none = np.zeros(len(class_names), np.int64)
            return Look(Moments(source.raster.channels), none, False, str(error))

    def _settle_files(self, sources: Sequence[Source], looks: dict[tuple[int, Tile], Look]) -> None:
        problems: dict[int, str] = {}
        for (number, _), look in looks.items():
            if look.problem:
                problems.setdefault(number, look.problem)
        self.settle(list(problems.values()))
        for key in [key for key in looks if key[0] in problems]:
            del looks[key]

    def _used(
        self,
        sources: Sequence[Source],
        split: Split,
        pieces: Sequence[Piece],
        looks: dict[tuple[int, Tile], Look],
    ) -> list[Piece]:
        whole = [piece for piece in pieces if (piece.source, piece.tile) in looks]
        used = [piece for piece in whole if looks[piece.source, piece.tile].use]
        if len(used) < len(whole):
            kind = f"{split} tiles without data or labels left out"
            self.repaired[kind] += len(whole) - len(used)
        if not used:
            raise DataError(
                f"{self.root}: no {split} tiles of {self.layout.tile_size} pixels with data; give "
                "more rasters, or smaller tiles or blocks (data.tile_size, data.block)."
            )
        return used

    def _gather(self, raster: Raster, class_names: list[str], train: Sequence[Look]) -> None:
        found = Moments(raster.channels)
        for look in train:
            found.join(look.moments)
        scale = 255 if raster.dtype == "uint8" else 1
        value_range = value_range_of(raster.dtype, found)
        side = self.layout.tile_size
        self._spec = InputSpec(raster.channels, (side, side), "none", value_range=value_range)
        self._facts = {
            "num_classes": len(class_names),
            "class_names": class_names,
            "class_counts": np.sum([look.counts for look in train], axis=0).tolist(),
            "in_channels": raster.channels,
            "band_names": raster.band_names,
            "mean": (found.mean / scale).tolist(),
            "std": (found.std / scale).tolist(),
            "value_range": list(value_range),
            "image_size": [side, side],
        }


def batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of ``size`` items, the last of what is left."""
    rest = iter(items)
    while part := list(islice(rest, size)):
        yield part
