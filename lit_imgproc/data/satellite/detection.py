"""Detection in rasters: tiles of images with the boxes that lie in them."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray

from lit_imgproc.data.base import BatchSize, DataError, ImageDataset, NumWorkers
from lit_imgproc.data.readable import OnError
from lit_imgproc.data.satellite import annotations, toy
from lit_imgproc.data.satellite.annotations import Objects, mend, read_objects
from lit_imgproc.data.satellite.bands import Band, Complex, Index, Selection
from lit_imgproc.data.satellite.base import Fraction, Look, Pixels, RasterData, Side
from lit_imgproc.data.satellite.listing import Layout, Piece, Source, partners
from lit_imgproc.data.satellite.moments import Moments
from lit_imgproc.data.satellite.raster import Raster, Read, clip
from lit_imgproc.data.satellite.tiles import TileDataset, on_raster, to_tensor
from lit_imgproc.data.satellite.tiling import Tile, Unit, Window, grid
from lit_imgproc.data.transforms import Augment, AugmentChoice

Boxes = NDArray[np.float32]
Labels = NDArray[np.int64]

SEEN_TWICE = 0.25
"""Share of a tile that its neighbour sees as well, at least, where a raster is predicted."""


class DetectionTiles(TileDataset):
    """Items ``{"image", "boxes", "labels", "iscrowd", "area", "id", "geometry"}``.

    The targets of the sources are :class:`~lit_imgproc.data.satellite.annotations.Objects`.

    Args:
        sources: See :class:`~lit_imgproc.data.satellite.tiles.TileDataset`, as for the others.
        min_visible: Share of a box that must lie in a tile for the tile to have it.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        pieces: Sequence[Piece],
        class_names: Sequence[str],
        augment: Augment | None,
        random: bool,
        min_visible: float,
    ) -> None:
        super().__init__(sources, pieces, class_names, augment, random)
        self.min_visible = min_visible

    def sample(
        self,
        source: Source,
        window: Window,
        read: Read,
        seen: tuple[int, int],
        sample_seed: int | None,
    ) -> dict[str, Any]:
        """Image and boxes of a window, in pixels of the window."""
        boxes, labels = boxes_in(source.target, window, self.min_visible, self.class_names)
        image = black_beyond(read.image, window, source.raster)
        if sample_seed is not None and self.augment is not None:
            moved = self.augment.sample(sample_seed, image=image, boxes=boxes)
            image, boxes, labels = moved["image"], moved["boxes"], labels[moved["kept"]]
        area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        return {
            "image": to_tensor(image),
            "boxes": torch.from_numpy(boxes),
            "labels": torch.from_numpy(labels),
            "iscrowd": torch.zeros(len(boxes), dtype=torch.int64),
            "area": torch.from_numpy(area),
        }

    def update_target(self, digest: "hashlib._Hash", source: Source) -> None:
        """The boxes and labels."""
        digest.update(source.target.boxes.tobytes())
        digest.update("\0".join(source.target.labels).encode())


class RasterBoxes(RasterData):
    """Detection of objects in rasters of any size, band count and sample type, tile by tile.

    ``root/images`` holds the rasters, and ``root/annotations`` for each a file of the same name:
    ``.geojson`` (polygons with the property ``label``, in a CRS), ``.csv`` (columns ``xmin``,
    ``ymin``, ``xmax``, ``ymax``, ``label``, in pixels) or ``.xml`` (Pascal VOC). A file without
    boxes is an image without objects. Of several files the boxes must be the same.

    Boxes are cut at the edges of a tile, and a tile has those of which enough lies in it. Boxes
    that reach out of the raster are cut there; boxes without area are left out; both are counted.

    Example:
        >>> data = RasterBoxes(root="data/neon_trees", images=".", annotations=".", block=400)

    Args:
        root: The folder of the data set.
        images: The folder of rasters in it.
        annotations: The folder of annotations in it.
        class_names: The names of the classes; ``None`` takes those of the training boxes. Where
            it is a single one, all boxes are of it, whatever their labels say.
        min_visible: Share of a box that must lie in a tile for the tile to have it.
        tile_size: Side of a tile, in pixels.
        overlap: Of neighbouring tiles, in pixels: an object of that size is whole in one of them.
        sampling: See :class:`~lit_imgproc.data.satellite.segmentation.RasterTiles`, as for the
            other arguments.
        splits: Patterns of names of files by split.
        block: Side of the blocks of ground that go to one split as a whole.
        block_unit: Of ``block``: ``pixel``, or units of the ``crs``.
        gap: Pixels between tiles of neighbouring blocks.
        val_fraction: Share of the tiles to hold out for validation.
        test_fraction: Share of the tiles to hold out for testing.
        bands: Numbers, from 1, or names of bands; ``None`` takes all but alpha.
        band_names: The names of the files' bands, where the files do not say.
        indices: Spectral indices as further bands.
        complex_values: Whether complex values are refused or their magnitude is taken.
        augment: What training does, for example ``{"train": "dihedral"}``.
        batch_size: Tiles in a batch of one process.
        num_workers: Processes that load tiles; ``None`` goes by the CPUs of this rank.
        on_error: What happens to files that cannot be used: ``stop``, or ``skip`` them.
        seed: Seed of the order of the tiles and of their augmentations.

    Raises:
        DataError: When it is prepared, with one line for everything that is wrong.
    """

    def __init__(
        self,
        *,
        root: str,
        images: str = "images",
        annotations: str = "annotations",
        class_names: list[str] | None = None,
        min_visible: Annotated[float, Gt(0), Le(1)] = 0.3,
        tile_size: Side = 400,
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
        batch_size: BatchSize = 8,
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
        self.annotations, self.class_names, self.min_visible = annotations, class_names, min_visible
        self._partners: dict[str, list[Path]] = {}

    def parts(self, path: Path) -> Iterator[tuple[NDArray[Any], dict[str, Any] | None]]:
        """The tiles of a raster that have data, read one by one, with :data:`SEEN_TWICE`."""
        raster, size = Raster(path, self.selection), self.layout.tile_size
        overlap = max(self.layout.overlap, round(size * SEEN_TWICE))
        for number, tile in enumerate(grid(raster.whole, size, overlap)):
            read = raster.read(tile.window)
            if number == 0 or read.valid.any():  # of every raster there is to be an answer
                window, sides = list(tile.window), [raster.height, raster.width]
                geometry = {"path": raster.path, "window": window, "size": sides}
                yield black_beyond(read.image, tile.window, raster), geometry

    def read(self) -> dict[Any, ImageDataset]:
        """Find the annotations before what all rasters have."""
        self._partners = partners(self.root / self.annotations, annotations.SUFFIXES)
        return super().read()

    def _source(self, name: str) -> Source:
        raster = Raster(self.root / self.images / name, self.selection)
        found = self._partners.get(Path(name).with_suffix("").as_posix(), [])
        if not found:
            kinds = ", ".join(sorted(annotations.SUFFIXES))
            raise DataError(
                f"{raster.path}: has no annotations ({kinds}) in {self.root / self.annotations}."
            )
        objects, done = mend(read_objects(found, raster), raster)
        if self.class_names is not None and len(self.class_names) == 1:
            objects = Objects(objects.boxes, self.class_names * len(objects.labels))
        if self.class_names is not None:
            _check_labels(raster.path, objects.labels, self.class_names)
        self.repaired.update(done)
        return Source(name, raster, objects)

    def _classes(self, sources: Sequence[Source], train: Sequence[Piece]) -> list[str]:
        if self.class_names is not None:
            return self.class_names
        numbers = {piece.source for piece in train}
        names = sorted({label for number in numbers for label in sources[number].target.labels})
        if not names:
            raise DataError(f"{self.root}: the training rasters have no boxes.")
        for source in sources:
            _check_labels(source.raster.path, source.target.labels, names)
        return names

    def _look(self, source: Source, tile: Tile, class_names: Sequence[str]) -> Look:
        read = source.raster.read(tile.window)
        moments = Moments(source.raster.channels)
        moments.add(on_raster(read, tile.window, source.raster), tile.seen)
        _, labels = boxes_in(source.target, tile.window, self.min_visible, class_names)
        counts = np.bincount(labels, minlength=len(class_names))
        return Look(moments, counts, bool(read.valid.any()), "")

    def _dataset(
        self,
        sources: Sequence[Source],
        pieces: Sequence[Piece],
        class_names: Sequence[str],
        augment: Augment | None,
    ) -> ImageDataset:
        random = self.sampling == "random" and augment is not None
        return DetectionTiles(sources, pieces, class_names, augment, random, self.min_visible)

    @classmethod
    def write_toy(cls, root: Path) -> None:
        """Bright roofs of two kinds on dark ground, with CRS and boxes as GeoJSON and CSV."""
        toy.write_boxes(root)


def black_beyond(image: NDArray[Any], window: Window, raster: Raster) -> NDArray[Any]:
    """The image ``[H,W,C]`` of a window, 0 beyond the raster, where it is its mirror image.

    Objects that are seen there a second time have no boxes.
    """
    within = clip(window, raster.height, raster.width)
    if within == window:
        return image
    result = np.zeros_like(image)
    top, left = within.row - window.row, within.column - window.column
    part = np.s_[top : top + within.height, left : left + within.width]
    result[part] = image[part]
    return result


def boxes_in(
    objects: Objects, window: Window, min_visible: float, class_names: Sequence[str]
) -> tuple[Boxes, Labels]:
    """The objects of which enough lies in a window.

    Args:
        objects: Of the raster.
        window: Of the raster.
        min_visible: How much is enough, as a share of a box's area.
        class_names: All labels are among them.

    Returns:
        float32 ``[N,4]``, cut at the edges of the window, xyxy in its pixels; and int64 ``[N]``.
    """
    corner = [window.column, window.row, window.column, window.row]
    sides = [window.width, window.height, window.width, window.height]
    moved = objects.boxes - corner
    cut = np.clip(moved, 0, sides)
    extent, shown = moved[:, 2:] - moved[:, :2], cut[:, 2:] - cut[:, :2]
    enough = (shown >= annotations.SMALLEST).all(1)
    enough &= shown.prod(1) >= min_visible * extent.prod(1)
    number = {name: number for number, name in enumerate(class_names)}
    labels = [number[objects.labels[index]] for index in np.flatnonzero(enough)]
    return cut[enough].astype(np.float32), np.asarray(labels, np.int64)


def _check_labels(path: str, labels: Sequence[str], names: Sequence[str]) -> None:
    if unknown := sorted(set(labels) - set(names)):
        raise DataError(
            f"{path}: has boxes of {', '.join(unknown)}, and the classes are {', '.join(names)}."
        )
