"""What a run that segments says of files, in the formats that such masks are exchanged in."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from lit_imgproc import pictures
from lit_imgproc.data.base import ImageDataModule
from lit_imgproc.data.medical.base import VolumeData
from lit_imgproc.data.medical.dicom import is_dicom
from lit_imgproc.data.medical.geometry import Grid, join, write_back
from lit_imgproc.data.medical.nifti import is_nifti
from lit_imgproc.data.medical.prepared import prepare
from lit_imgproc.data.medical.scan import Scan
from lit_imgproc.data.medical.volumes import whole_sample
from lit_imgproc.data.satellite.mosaic import BLOCK, NO_LABEL, mosaic
from lit_imgproc.data.satellite.raster import Raster
from lit_imgproc.data.satellite.segmentation import RasterTiles
from lit_imgproc.data.satellite.tiling import Window
from lit_imgproc.errors import UserError
from lit_imgproc.inputs import InputSpec
from lit_imgproc.models.segmentation.metrics import BACKGROUND
from lit_imgproc.models.segmentation.module import Segmenter

Answer = dict[str, Any]
Mask = NDArray[np.uint8]
Scores = NDArray[np.float32]

IMAGE_SUFFIX = ".png"
INSTANCES_SUFFIX = ".instances.png"
MOST_INSTANCES = 2**16 - 1
"""What a PNG image of 16 bits can number."""


class WholeFiles(Protocol):
    """What segments a file that is not one image: in parts, or in axes of its own.

    Attributes:
        suffix: Of the files that it writes.
    """

    suffix: str

    def takes(self, image: Path | NDArray[Any]) -> bool:
        """Whether it is for this; the rest are images like any others."""
        ...

    def answer(self, image: Path | NDArray[Any]) -> Answer:
        """``mask``, uint8 at the size of the file, ``classes`` and ``size``."""
        ...

    def write(self, file: Path, path: Path) -> Answer:
        """Write the mask of a file, and say what is in it."""
        ...


def whole_files(
    module: Segmenter, reader: ImageDataModule, spec: InputSpec, batch_size: int
) -> WholeFiles | None:
    """What segments files of a kind of data, ``None`` where each is an image.

    Args:
        module: In eval mode, where it is to compute.
        reader: Opens files as those of the run were.
        spec: Of the run.
        batch_size: How many tiles or slices the network sees at once.
    """
    if isinstance(reader, RasterTiles):
        return Rasters(module, reader, spec, batch_size)
    if isinstance(reader, VolumeData):
        return Volumes(module, reader, spec, batch_size)
    return None


class Rasters:
    """Segments rasters tile by tile, so that none has to fit in memory.

    Tiles are of the size that the run was trained on. They overlap by the module's
    ``window_overlap``, and their probabilities are averaged, those in the middle of a tile counting
    most: see :func:`~lit_imgproc.data.satellite.mosaic.mosaic`. Pixels without data are 255.
    """

    suffix = ".tif"

    def __init__(
        self, module: Segmenter, reader: RasterTiles, spec: InputSpec, batch_size: int
    ) -> None:
        self.module, self.reader, self.spec = module, reader, spec
        self.batch_size = batch_size

    def takes(self, image: Path | NDArray[Any]) -> bool:
        """An array is an image: whoever has one has room for its scores as well."""
        return isinstance(image, Path)

    def answer(self, image: Path | NDArray[Any]) -> Answer:
        """Write the mask and read it again: it is smaller by far than the scores."""
        assert isinstance(image, Path)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "mask.tif")
            return self.write(image, path) | {"mask": read_raster_mask(path)}

    def write(self, file: Path, path: Path) -> Answer:
        """Write a GeoTIFF of the raster's CRS, transform and size. The answer has no ``mask``."""
        size = self.reader.layout.tile_size
        path.parent.mkdir(parents=True, exist_ok=True)
        mosaic(
            Raster(file, self.reader.selection),
            self._scores,
            path,
            values="scores",
            tile_size=size,
            overlap=min(round(size * self.module.window_overlap), size - 1),
            batch_size=self.batch_size,
        )
        written = Raster(path)
        counts = np.zeros(NO_LABEL + 1, np.int64)
        for row in range(0, written.height, BLOCK):
            height = min(BLOCK, written.height - row)
            rows = written.read(Window(row, 0, height, written.width)).image
            counts += np.bincount(rows.ravel(), minlength=len(counts))
        classes = shares(counts[:NO_LABEL], self.module.class_names)
        return {"classes": classes, "size": [written.height, written.width]}

    def _scores(self, tiles: NDArray[Any]) -> Scores:
        """Probabilities ``[B,K,H,W]`` of tiles ``[B,C,H,W]`` as the raster has them."""
        prepared = np.stack([self.spec(tile.transpose(1, 2, 0)) for tile in tiles])
        return _scores(self.module, torch.from_numpy(prepared.transpose(0, 3, 1, 2)))


class Volumes:
    """Segments volumes, whole or slice by slice, and answers in the voxels of their files.

    It is the probabilities that are brought back to the spacing of the file, and only then does
    each voxel get the class of the highest, as nnU-Net does it (arXiv:1809.10486). Labels would
    have to be taken from the nearest voxel, which moves the edge of a structure by up to half a
    voxel of the network: of balls five voxels wide, resampled to voxels 1.7 times larger, the Dice
    with themselves is 0.80, and 0.64 by their labels. What is hardly wider than one voxel of the
    network can fade, whichever way. Probabilities are brought back class by class, so that of the
    file's size there are two arrays of floats, however many classes there are.
    """

    suffix = ".nii.gz"

    def __init__(
        self, module: Segmenter, reader: VolumeData, spec: InputSpec, batch_size: int
    ) -> None:
        self.module, self.reader, self.spec = module, reader, spec
        self.batch_size = batch_size

    def takes(self, image: Path | NDArray[Any]) -> bool:
        """An array is a volume where the network is of three dimensions, or a slice."""
        return isinstance(image, Path) or self.reader.dimensions == 3

    def answer(self, image: Path | NDArray[Any]) -> Answer:
        """Of a file, the folder of a DICOM series, or an array ``[D,H,W]`` or ``[D,H,W,C]``."""
        return self._said(self._labels(image)[0])

    def write(self, file: Path, path: Path) -> Answer:
        """Write a NIfTI file of the affine, orientation and shape of the file."""
        labels, geometry = self._labels(file)
        write_back(labels, geometry, path)
        return self._said(labels)

    def _said(self, labels: Mask) -> Answer:
        counts = np.bincount(labels.ravel())
        classes = shares(counts, self.module.class_names)
        return {"mask": labels, "classes": classes, "size": list(labels.shape)}

    def samples(self, image: Path | NDArray[Any]) -> list[dict[str, Any]]:
        """The volume, or all of its slices, prepared as for evaluation."""
        samples = self.reader.samples(image) if isinstance(image, Path) else [self._sample(image)]
        if (channels := len(samples[0]["image"])) != self.spec.channels:
            raise UserError(
                f"{image}: has {channels} channels where {self.spec.channels} are needed."
            )
        return samples

    def _labels(self, image: Path | NDArray[Any]) -> tuple[Mask, dict[str, Any]]:
        samples = self.samples(image)
        parts: list[tuple[Scores, dict[str, Any]]] = []
        for first in range(0, len(samples), self.batch_size):
            some = samples[first : first + self.batch_size]
            scores = _scores(self.module, torch.stack([sample["image"] for sample in some]))
            parts += zip(scores, [sample["geometry"] for sample in some], strict=True)
        return labels_in_file(parts)

    def _sample(self, array: NDArray[Any]) -> dict[str, Any]:
        """An array, whose axes run and whose voxels are as those that the run was trained on."""
        volume = array[..., np.newaxis] if array.ndim == 3 else array
        if volume.ndim != 4 or volume.shape[3] != self.spec.channels or 0 in volume.shape:
            raise UserError(
                f"A volume must be of shape [D,H,W] or [D,H,W,C] with {self.spec.channels} "
                f"channels; got {list(array.shape)}."
            )
        how = self.reader.preparation
        z, y, x = how.spacing or (1.0, 1.0, 1.0)
        towards = -1.0 if how.orientation == "LPS" else 1.0
        affine = np.diag([towards * x, towards * y, z, 1.0])
        scan = Scan("the array", volume.transpose(3, 0, 1, 2), affine)
        return whole_sample(prepare(scan, None, how), scan.path)


def labels_in_file(parts: Sequence[tuple[Scores, dict[str, Any]]]) -> tuple[Mask, dict[str, Any]]:
    """The class of the highest probability of each voxel of a file.

    Args:
        parts: Probabilities and geometry: ``[K,D,H,W]`` of one box, or ``[K,H,W]`` of each slice.
            What lies outside of them is class 0.

    Returns:
        uint8 ``[D,H,W]``, and the geometry of all of the file as it is stored.
    """
    best = np.empty(0, np.float32)
    labels = np.empty(0, np.uint8)
    for number in range(len(parts[0][0])):
        scores, geometry = parts[0][0][number : number + 1], parts[0][1]
        if scores.ndim == 3:
            scores, geometry = join([(part[number : number + 1], where) for part, where in parts])
        grid = Grid.from_dict(geometry)
        here = grid.restore(scores, order=1, outside=[float(number == 0)])[0]
        if number == 0:
            best, labels = np.array(here), np.zeros(here.shape, np.uint8)
            continue
        labels[here > best] = number
        np.maximum(best, here, out=best)
    return labels, Grid(grid.path, grid.stored, grid.affine).to_dict()


def volumes_in(folder: Path) -> list[Path]:
    """The NIfTI files in a folder and its subfolders, and those of them that hold a DICOM series.

    Which files are DICOM is looked up in them, since their names often tell nothing.
    """
    found = []
    for path in sorted([folder, *folder.rglob("*")]):
        if path.is_dir():
            if any(is_dicom(file) for file in path.iterdir() if file.is_file()):
                found.append(path)
        elif is_nifti(path):
            found.append(path)
    return found


def write_image(path: Path, answer: Answer, class_names: Sequence[str]) -> None:
    """Write the mask of an image as a PNG image of class numbers, at the size of the image.

    Its palette has the colours of the classes, black for the background. Of a run that tells
    objects apart, a second PNG image beside it has the number of each pixel's object in 16 bits.

    Args:
        path: Ends with ``.png``; its folder is made.
        answer: Has ``mask`` and maybe ``instances``.
        class_names: Of the run.

    Raises:
        UserError: There are more objects than 16 bits can number.
    """
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(answer["mask"])
    inks = [pictures.colour(number) for number in range(len(class_names))]
    if class_names[0] == BACKGROUND:
        inks[0] = (0, 0, 0)
    image.putpalette([value for ink in inks for value in ink])
    image.save(path)
    if "instances" in answer:
        numbers = answer["instances"]
        if numbers.max(initial=0) > MOST_INSTANCES:
            raise UserError(f"{answer['id']}: has more than {MOST_INSTANCES:,} objects")
        Image.fromarray(numbers.astype(np.uint16)).save(beside(path))


def beside(path: Path) -> Path:
    """Where the numbers of objects are written, of which classes go to ``path``."""
    return path.with_name(path.name.removesuffix(IMAGE_SUFFIX) + INSTANCES_SUFFIX)


def read_raster_mask(path: Path) -> Mask:
    """All of a mask ``[H,W]`` that :class:`Rasters` wrote."""
    return np.asarray(Raster(path).read().image[:, :, 0], np.uint8)


def shares(counts: NDArray[np.int64], class_names: Sequence[str]) -> dict[str, float]:
    """The share of each class that is there, of all that have one."""
    total = max(int(counts.sum()), 1)
    return {class_names[k]: int(counts[k]) / total for k in np.flatnonzero(counts).tolist()}


def _scores(module: Segmenter, images: torch.Tensor) -> Scores:
    """Probabilities of images ``[B,C,*S]`` that were prepared as for evaluation."""
    batch = module.on_after_batch_transfer({"image": images.to(module.device)}, 0)
    with torch.inference_mode():
        return np.asarray(module.scores(batch["image"]).cpu())
