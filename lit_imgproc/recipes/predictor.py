"""A trained module, asked about any number of files and arrays."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray

from lit_imgproc.data.base import ImageDataModule
from lit_imgproc.data.medical.base import VolumeData
from lit_imgproc.data.readable import collate
from lit_imgproc.errors import UserError
from lit_imgproc.geometry import geometry_of
from lit_imgproc.inputs import InputSpec
from lit_imgproc.models.base import Batch, ImageModule
from lit_imgproc.models.segmentation.instance_module import InstanceSegmenter
from lit_imgproc.models.segmentation.module import Segmenter
from lit_imgproc.recipes import masks
from lit_imgproc.recipes.predictions import Answer, Said, outputs, whole_images

Image = str | Path | NDArray[Any]
Images = Image | Sequence[Image]


class Predictor:
    """Asks a module about images, prepared as they were for evaluation.

    Args:
        module: In eval mode, on the device that is to compute.
        reader: A datamodule that opens files as those of its data set were.
        spec: What is done to an image before the network sees it.
        batch_size: How many images the network sees at once.
    """

    def __init__(
        self, module: ImageModule, reader: ImageDataModule, spec: InputSpec, batch_size: int
    ) -> None:
        self.module, self.reader, self.spec = module, reader, spec
        self.batch_size = batch_size
        self.whole: masks.WholeFiles | None = None
        """What segments whole files, where the module segments and they are no plain images."""
        if isinstance(module, Segmenter):
            self.whole = masks.whole_files(module, reader, spec, batch_size)

    def files(self, images: Sequence[str | Path]) -> list[Path]:
        """Files as they are given, and for a folder those in it that the run can read.

        Of labelled volumes a folder that holds a DICOM series is one of them.

        Raises:
            UserError: One is not there, or a folder has none.
        """
        found: list[Path] = []
        for path in map(Path, images):
            if not path.exists():
                raise UserError(f"there is no file or folder {path}")
            if not path.is_dir():
                found.append(path)
                continue
            if isinstance(self.reader, VolumeData):
                inside = masks.volumes_in(path)
            else:
                endings = tuple(self.reader.suffixes)
                inside = sorted(f for f in path.rglob("*") if f.name.lower().endswith(endings))
            if not inside:
                raise UserError(f"the folder {path} holds no images")
            found += inside
        return found

    def stream(self, images: Images) -> Iterator[Answer]:
        """One answer after another: neither images nor masks need all fit in memory.

        Args:
            images: See :meth:`lit_imgproc.recipes.run.Run.predict`, as for the answers.
        """
        whole = self.whole
        for apart, some in groupby(
            self._given(images), lambda one: whole is not None and whole.takes(one.image)
        ):
            if apart:
                assert whole is not None
                for one in some:
                    yield {"id": one.name, **whole.answer(one.image)}
            else:
                yield from whole_images(self._said(some))

    def looks(self, images: Images) -> Iterator[Batch]:
        """What the network sees of each image: a batch of one on its device.

        A raster that is read in tiles is one a tile, a volume that is looked at in slices one a
        slice.

        Args:
            images: See :meth:`lit_imgproc.recipes.run.Run.predict`.
        """
        for given in self._given(images):
            if isinstance(self.whole, masks.Volumes) and self.whole.takes(given.image):
                for sample in self.whole.samples(given.image):
                    yield self._on_device(cast(Batch, collate(([sample], []))))
            else:
                for look in self._opened([given]):
                    yield self._on_device(self._batch([look]))

    def _on_device(self, batch: Batch) -> Batch:
        module = self.module
        moved = module.transfer_batch_to_device(batch, module.device, 0)
        return module.on_after_batch_transfer(moved, 0)

    def mask_paths(self, files: Sequence[Path], folder: Path, *, overwrite: bool) -> list[Path]:
        """Where the masks of files are to be written.

        Args:
            files: As of :meth:`files`.
            folder: Where to write.
            overwrite: Whether files may be there already, other than the images.

        Raises:
            UserError: The run does not segment, or a file is there already.
        """
        if not isinstance(self.module, Segmenter):
            raise UserError(
                "this run has no masks to write: it does not say of each pixel what it shows "
                f"({type(self.module).__name__})"
            )
        if self.whole is not None:
            return outputs(files, folder, self.whole.suffix, overwrite)
        if isinstance(self.module, InstanceSegmenter):
            outputs(files, folder, masks.INSTANCES_SUFFIX, overwrite)
        return outputs(files, folder, masks.IMAGE_SUFFIX, overwrite)

    def stream_masks(self, files: Sequence[Path], paths: Sequence[Path]) -> Iterator[Answer]:
        """Write the masks of files, one after another.

        Args:
            files: As of :meth:`files`.
            paths: As of :meth:`mask_paths`.

        Yields:
            An answer as of :meth:`stream` when its mask is written. ``mask_file`` says where; the
            mask of a raster is there alone.
        """
        if self.whole is not None:
            for file, path in zip(files, paths, strict=True):
                yield {"id": str(file), **self.whole.write(file, path), "mask_file": str(path)}
            return
        names = cast(Segmenter, self.module).class_names
        for path, answer in zip(paths, self.stream(files), strict=True):
            masks.write_image(path, answer, names)
            yield answer | {"mask_file": str(path)}

    def _given(self, images: Images) -> Iterator["_Given"]:
        """Files and arrays, one after another."""
        if isinstance(images, np.ndarray) and images.ndim == self.reader.dimensions + 2:
            images = list(images)
        many: Iterable[Any] = images if isinstance(images, list | tuple) else [images]
        number = 0
        for position, image in enumerate(many):
            array = isinstance(image, np.ndarray)
            for one in [image] if array else self.files([image]):
                yield _Given(number, str(position) if array else str(one), one)
                number += 1

    def _opened(self, given: Iterable["_Given"]) -> Iterator["_Look"]:
        """What the network looks at, one after another."""
        for number, name, image in given:
            if isinstance(image, np.ndarray):
                yield _Look(number, name, image, None)
                continue
            for pixels, geometry in self.reader.parts(image):
                yield _Look(number, name, pixels, geometry)

    def _said(self, given: Iterable["_Given"]) -> Iterator[Said]:
        """What the network says of each of them."""
        opened = self._opened(given)
        while group := list(islice(opened, self.batch_size)):
            batch = self._on_device(self._batch(group))
            with torch.inference_mode():
                answers = self.module.predict_step(batch, 0)
            for look, geometry, answer in zip(group, batch["geometry"], answers, strict=True):
                yield Said(look.image, geometry, answer)

    def _batch(self, looks: Sequence["_Look"]) -> dict[str, Any]:
        """Prepared as for evaluation: stacked, or a list where the sizes differ."""
        images: list[torch.Tensor] = []
        geometries = []
        for look in looks:
            pixels = self.spec(look.pixels)
            images.append(torch.tensor(pixels).permute(2, 0, 1).contiguous())
            stored, size = look.pixels.shape[:2], pixels.shape[:2]
            geometries.append(look.geometry or geometry_of(look.name, stored, size))
        one_size = len({image.shape for image in images}) == 1
        return {
            "image": torch.stack(images) if one_size else images,
            "id": [look.name for look in looks],
            "geometry": geometries,
        }


class _Given(NamedTuple):
    """A file or an array: its number, its name and itself."""

    number: int
    name: str
    image: Path | NDArray[Any]


class _Look(NamedTuple):
    """An image or a part of one: its number, name, pixels and, of a part, where that lies."""

    image: int
    name: str
    pixels: NDArray[Any]
    geometry: dict[str, Any] | None
