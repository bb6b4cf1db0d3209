"""Semantic segmentation of rasters: tiles of images with tiles of their masks."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge
from numpy.typing import NDArray

from lit_imgproc.data.base import BatchSize, DataError, ImageDataset, NumWorkers
from lit_imgproc.data.readable import OnError
from lit_imgproc.data.satellite import toy
from lit_imgproc.data.satellite.bands import Band, Complex, Index, Selection
from lit_imgproc.data.satellite.base import Fraction, Look, Pixels, RasterData, Side
from lit_imgproc.data.satellite.listing import SUFFIXES, Layout, Piece, Source, partners
from lit_imgproc.data.satellite.masks import encode, open_mask, read_classes_file
from lit_imgproc.data.satellite.moments import Moments
from lit_imgproc.data.satellite.raster import Raster, Read, clip
from lit_imgproc.data.satellite.tiles import TileDataset, file_digest, on_raster, to_tensor
from lit_imgproc.data.satellite.tiling import Tile, Unit, Window
from lit_imgproc.data.transforms import IGNORE, Augment, AugmentChoice

CLASSES_FILE = "classes.json"


class SegmentationTiles(TileDataset):
    """Items ``{"image", "mask", "id", "geometry"}``; the targets of the sources are masks.

    In evaluation each pixel of the rasters counts once: what an earlier tile holds as well is 255.
    """

    def sample(
        self,
        source: Source,
        window: Window,
        read: Read,
        seen: tuple[int, int],
        sample_seed: int | None,
    ) -> dict[str, Any]:
        """Image and mask of a window; 255 where the raster has no data or ends."""
        image, mask = read.image, read_classes(source, window, read)
        mask[: seen[0]] = IGNORE
        mask[:, : seen[1]] = IGNORE
        if sample_seed is not None and self.augment is not None:
            moved = self.augment.sample(sample_seed, image=image, mask=mask)
            image, mask = moved["image"], moved["mask"]
        return {"image": to_tensor(image), "mask": torch.from_numpy(np.ascontiguousarray(mask))}

    def update_target(self, digest: "hashlib._Hash", source: Source) -> None:
        """The bytes of the mask."""
        digest.update(file_digest(source.target.path))


class RasterTiles(RasterData):
    """Semantic segmentation of rasters of any size, band count and sample type, tile by tile.

    ``root/images`` holds the rasters and ``root/masks`` for each a raster of the same name (its
    suffix may differ), size, CRS and transform, whose values are numbers of classes. Windows are
    read as they are asked for, so a raster may be larger than memory. Splits are of whole files, by
    ``splits`` or by their names, or with ``block`` of blocks of ground; no tile is in two blocks.

    Every tile is read once at the start: for the statistics, and so that damaged files show. Tiles
    without data or labels are left out and counted. Where the raster has no data, the mask is 255.

    Example:
        >>> data = RasterTiles(
        ...     root="data/dubai_aerial",
        ...     tile_size=256,
        ...     splits={"train": ["t[1235]_*"], "val": ["t4_*"], "test": ["t6_*"]},
        ... )
        >>> data.facts()["class_names"]
        ['building', 'land_unpaved', 'road', 'vegetation', 'water']

    Args:
        root: The folder of the data set.
        images: The folder of rasters in it.
        masks: The folder of masks in it.
        class_names: The names of the values 0, 1, … of the masks; ``None`` reads ``classes`` and
            ``ignore_index`` of ``root/classes.json``.
        ignore_index: A value of the masks that is of no class, beside 255 and nodata.
        tile_size: Side of a tile, in pixels.
        overlap: Of neighbouring tiles, in pixels. Evaluation counts each pixel once nevertheless.
        sampling: What training sees: the tiles of the ``grid``, or as many ``random`` windows of
            their blocks, others in every epoch.
        splits: Patterns of names of files, such as ``t1_*``, by split; files of no split are not
            used, and without ``test`` those of ``val`` are tested.
        block: Side of the blocks of ground that go to one split as a whole.
        block_unit: Of ``block``: ``pixel``, counted from each raster's corner and at least
            ``block`` a side; or units of the ``crs``, counted from its origin, where rasters of the
            same ground share their blocks.
        gap: Pixels between tiles of neighbouring blocks.
        val_fraction: Share of the tiles to hold out for validation.
        test_fraction: Share of the tiles to hold out for testing.
        bands: Numbers, from 1, or names of bands; ``None`` takes all but alpha.
        band_names: The names of the files' bands, where the files do not say.
        indices: Spectral indices as further bands; see :mod:`lit_imgproc.data.satellite.bands`.
        complex_values: Whether complex values are refused or their magnitude is taken.
        augment: What training does, for example ``{"train": "dihedral"}``.
        batch_size: Tiles in a batch of one process.
        num_workers: Processes that load tiles; ``None`` goes by the CPUs of this rank.
        on_error: What happens to files that cannot be used: ``stop`` before training, or ``skip``
            them, with a warning. The same in mid-run, as with ``ImageFolder``.
        seed: Seed of the order of the tiles and of their augmentations.

    Raises:
        DataError: When it is prepared, with one line for everything that is wrong.
    """

    def __init__(
        self,
        *,
        root: str,
        images: str = "images",
        masks: str = "masks",
        class_names: list[str] | None = None,
        ignore_index: Annotated[int, Ge(0)] | None = None,
        tile_size: Side = 256,
        overlap: Pixels = 0,
        sampling: Literal["grid", "random"] = "grid",
        splits: dict[Literal["train", "val", "test"], list[str]] | None = None,
        block: Annotated[float, Ge(1)] | None = None,
        block_unit: Unit = "pixel",
        gap: Pixels = 0,
        val_fraction: Fraction = 0.15,
        test_fraction: Fraction = 0.15,
        bands: list[Band] | None = None,
        band_names: list[str] | None = None,
        indices: list[Index] | None = None,
        complex_values: Complex = "refuse",
        augment: AugmentChoice = None,
        batch_size: BatchSize = 32,
        num_workers: NumWorkers = None,
        on_error: OnError = "stop",
        seed: int = 0,
    ) -> None:
        super().__init__(
            root=root,
            images=images,
            layout=Layout(
                tile_size, overlap, splits, block, block_unit, gap, val_fraction, test_fraction
            ),
            sampling=sampling,
            selection=Selection.of(bands, band_names, indices or (), complex_values),
            augment=augment,
            batch_size=batch_size,
            num_workers=num_workers,
            on_error=on_error,
            seed=seed,
        )
        self.masks, self.class_names, self.ignore_index = masks, class_names, ignore_index
        self._names: list[str] = []
        self._codes: NDArray[np.int16] = np.zeros(0, np.int16)
        self._partners: dict[str, list[Path]] = {}

    def read(self) -> dict[Any, ImageDataset]:
        """Read the classes and find the masks before what all rasters have."""
        names, ignore = self.class_names, self.ignore_index
        if names is None:
            names, ignore = read_classes_file(self.root / CLASSES_FILE, ignore)
        self._names, self._codes = encode(names, ignore)
        self._partners = partners(self.root / self.masks, SUFFIXES)
        return super().read()

    def _source(self, name: str) -> Source:
        raster = Raster(self.root / self.images / name, self.selection)
        found = self._partners.get(Path(name).with_suffix("").as_posix(), [])
        if len(found) != 1:
            have = f"{len(found)} masks" if found else "no mask"
            raise DataError(f"{raster.path}: has {have} of its name in {self.root / self.masks}.")
        return Source(name, raster, open_mask(found[0], raster, self._codes))

    def _classes(self, sources: Sequence[Source], train: Sequence[Piece]) -> list[str]:
        return self._names

    def _look(self, source: Source, tile: Tile, class_names: Sequence[str]) -> Look:
        read = source.raster.read(tile.window)
        mask = read_classes(source, tile.window, read)
        moments = Moments(source.raster.channels)
        moments.add(on_raster(read, tile.window, source.raster), tile.seen)
        fresh = mask[tile.seen[0] :, tile.seen[1] :]
        counts = np.bincount(fresh[fresh != IGNORE], minlength=len(class_names))
        return Look(moments, counts, bool(counts.any()), "")

    def _dataset(
        self,
        sources: Sequence[Source],
        pieces: Sequence[Piece],
        class_names: Sequence[str],
        augment: Augment | None,
    ) -> ImageDataset:
        random = self.sampling == "random" and augment is not None
        return SegmentationTiles(sources, pieces, class_names, augment, random)

    @classmethod
    def write_toy(cls, root: Path) -> None:
        """Fields of four land covers, told apart by their spectra, with CRS and nodata."""
        toy.write_rasters(root)


def read_classes(source: Source, window: Window, read: Read) -> NDArray[np.int64]:
    """The mask of a window, ``[H,W]``; 255 where the raster has no data or ends."""
    within = clip(window, source.raster.height, source.raster.width)
    mask = np.full((window.height, window.width), IGNORE, np.int64)
    top, left = within.row - window.row, within.column - window.column
    mask[top : top + within.height, left : left + within.width] = source.target.read(within)
    if read.missing is not None:
        mask[~read.valid] = IGNORE
    return mask
