"""Images with the objects, classes or captions that annotations tell of them."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lit_imgproc.data.base import DataError, ImageDataset, available_cpus
from lit_imgproc.data.coco.annotations import Objects, Source
from lit_imgproc.data.coco.borders import Borders
from lit_imgproc.data.coco.proposals import Proposals
from lit_imgproc.data.decode import read_image
from lit_imgproc.data.imagenet.datasets import SAMPLE, pixel_statistics
from lit_imgproc.data.transforms import IGNORE, Augment
from lit_imgproc.geometry import geometry_of
from lit_imgproc.inputs import InputSpec

Target = Literal["boxes", "instances", "semantic", "labels", "captions"]
Pixels = NDArray[np.uint8]


class Survey(NamedTuple):
    """What some images of a split are like, as evaluation sees them.

    Attributes:
        mean: Of each channel, of pixels in [0, 1].
        std: Of each channel.
        class_counts: Pixels of each class in semantic masks.
        problems: By the index of an image, why it cannot be used.
    """

    mean: list[float]
    std: list[float]
    class_counts: list[int]
    problems: dict[int, str]


class AnnotatedDataset(ImageDataset):
    """One split; each item has ``image`` uint8 ``[C,H,W]``, ``id``, and what ``target`` says.

    - ``boxes``: ``boxes`` float32 ``[N,4]``, xyxy in pixels of the item's image; ``labels`` int64
      ``[N]``, which are indices of ``class_names``; ``iscrowd`` int64 ``[N]``; ``area`` float32
      ``[N]``, in pixels of the item's image.
    - ``instances``: these and ``masks`` uint8 ``[N,H,W]``.
    - ``semantic``: ``mask`` int64 ``[H,W]``, 255 = ignore. Where it is of objects that are told
      apart, an item of evaluation has ``instances`` int64 ``[H,W]``, too, the number of each
      pixel's object, 0 = none; and one of training, if the data set has ``borders``, ``weight``
      float32 ``[H,W]``, how much each pixel counts.
    - ``labels``: ``label``, float32 ``[K]``: 1 for each class that is in the image.
    - ``captions``: ``captions``, a list of str.

    Where the data set has ``proposals``, an item with boxes has these, too: float32 ``[P,4]``, xyxy
    in pixels of the item's image, the likeliest first. Training moves and cuts them as it does
    boxes, and drops those that are cut away.

    As evaluation sees it, an item has its ``geometry``, too: see
    :mod:`lit_imgproc.geometry`.

    Args:
        root: The folder that the names of ``source`` are relative to.
        source: The images and their annotations.
        class_names: The names of the classes.
        target: What is asked of an image.
        spec: What evaluation does to an image.
        scales: What training does before it augments: one of these, drawn by the sample's seed.
        augment: What training does beside.

    Attributes:
        proposals: Where boxes of selective search are taken from, if samples are to have them.
        borders: What training makes of objects that are told apart; ``None`` takes them as they
            are.
    """

    proposals: Proposals | None = None
    borders: Borders | None = None

    def __init__(
        self,
        root: Path,
        source: Source,
        class_names: Sequence[str],
        target: Target,
        spec: InputSpec,
        scales: Sequence[InputSpec] = (),
        augment: Augment | None = None,
    ) -> None:
        self.root, self.source, self.target = root, source, target
        self.names, self.class_names = source.names, list(class_names)
        self.spec, self.scales, self.augment = spec, list(scales) or [spec], augment

    def __len__(self) -> int:
        return len(self.source)

    def size(self, index: int) -> tuple[int, ...]:
        """Height and width of the upright image, as its header said."""
        return self.source.size(index)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        if isinstance(index, tuple):
            return self._training(*index)
        image = self._image(index)
        stored, image = image.shape[:2], self.spec(image)
        size = (image.shape[0], image.shape[1])
        found = self._found(index, size)
        if (numbers := found.get("numbers")) is not None:
            found = {"mask": numbers > 0, "instances": numbers}
        geometry = geometry_of(self._path(index), (stored[0], stored[1]), size)
        return {**self._item(index, image, found), "geometry": geometry}

    def _training(self, index: int, sample_seed: int) -> dict[str, Any]:
        image = self._image(index)
        if self.augment is None or not self.augment.resizes:
            # The seed's high bits: the low ones set the state of the augmentation's generator.
            image = self.scales[(sample_seed >> 32) % len(self.scales)](image)
        found = self._found(index, (image.shape[0], image.shape[1]))
        numbers = found.pop("numbers", None)
        if numbers is not None:
            found["mask"] = numbers  # they move as classes do
        if self.augment is not None:
            try:
                image, found = self._augmented(image, found, sample_seed)
            except Exception as error:  # a crop of 600 pixels from an image of 500, say
                raise DataError(
                    f"{self._path(index)}: augment.train fails on this image of "
                    f"{image.shape[0]}x{image.shape[1]}: {error}"
                ) from error
        if numbers is not None:
            found = self._learned(found["mask"])
        return self._item(index, image, found)

    def _found(self, index: int, size: tuple[int, int]) -> dict[str, Any]:
        """What is asked of an image, as arrays, at a size."""
        if self.target == "captions":
            return {"captions": self.source.captions(index)}
        if self.target == "semantic":
            numbers = self.source.numbered(index, size)
            if numbers is not None:
                return {"numbers": numbers}
            return {"mask": self.source.semantic(index, size)}
        if self.target == "labels":
            present = np.zeros(len(self.class_names), np.float32)
            present[self.source.objects(index).labels] = 1
            return {"label": present}
        objects = self.source.objects(index, size if self.target == "instances" else None)
        found = _scaled(objects, self.source.size(index), size)
        if self.proposals is not None:
            boxes = self.proposals.boxes(index, self._path(index))
            found["proposals"] = _resized(boxes, self.source.size(index), size)
        return found

    def _augmented(
        self, image: Pixels, found: dict[str, Any], sample_seed: int
    ) -> tuple[Pixels, dict[str, Any]]:
        assert self.augment is not None
        if self.target in ("labels", "captions"):
            return self.augment(image, sample_seed), found
        # Proposals are boxes like others, at the end of the list: all are moved at once.
        proposals = found.pop("proposals", None)
        count = len(found["boxes"]) if "boxes" in found else 0
        given = {key: found[key] for key in ("mask", "boxes", "masks") if key in found}
        if proposals is not None:
            masks = given.pop("masks", None)
            given["boxes"] = np.concatenate([found["boxes"], proposals])
        moved = self.augment.sample(sample_seed, image=image, **given)
        if "kept" not in moved:
            return moved.pop("image"), moved
        kept, boxes = moved.pop("kept"), moved["boxes"]
        own = kept < count
        if proposals is not None:
            moved |= {"boxes": boxes[own], "proposals": boxes[~own]}
            if masks is not None:
                # Masks come with one box each or with none. Their turn is the same as that of the
                # boxes: no transform that looks at either runs on an image alone, as all must.
                again = self.augment.sample(sample_seed, image=image, masks=masks)
                moved["masks"] = again["masks"][kept[own]]
        rest = {key: value[kept[own]] for key, value in found.items() if key not in moved}
        return moved.pop("image"), {**rest, **moved}

    def _learned(self, numbers: NDArray[np.uint16]) -> dict[str, Any]:
        """What is learned of the numbers of objects."""
        if self.borders is not None:
            return self.borders(numbers)
        return {"mask": np.where(numbers == IGNORE, IGNORE, numbers > 0)}

    def _item(self, index: int, image: Pixels, found: dict[str, Any]) -> dict[str, Any]:
        if "masks" in found:  # what is cut off but for its box, or too small to be seen
            seen = found["masks"].max((1, 2), initial=0) > 0
            if not seen.all():
                found = {
                    key: value if key == "proposals" else value[seen]
                    for key, value in found.items()
                }
        for key in ("mask", "instances"):
            if key in found:
                found = {**found, key: found[key].astype(np.int64)}
        item = {
            key: torch.from_numpy(np.ascontiguousarray(value))
            for key, value in found.items()
            if key != "captions"
        }
        if "captions" in found:
            item["captions"] = found["captions"]
        if not (image.flags.c_contiguous and image.flags.writeable):
            image = image.copy()
        # A view: rows of pixels, which is how they are copied into a batch the fastest.
        pixels = torch.from_numpy(image).permute(2, 0, 1)
        return {"image": pixels, **item, "id": self.names[index]}

    def _image(self, index: int) -> Pixels:
        image = read_image(self._path(index), self.spec.channels)
        if image.shape[:2] != self.source.size(index):
            raise DataError(
                f"{self._path(index)}: is {image.shape[0]}x{image.shape[1]} and was "
                f"{'x'.join(map(str, self.source.size(index)))} when training began."
            )
        return image

    def _path(self, index: int) -> str:
        return os.path.join(self.root, self.names[index])

    def survey(self) -> Survey:
        """Look at up to 1,000 images, evenly spaced, as evaluation sees them."""
        count = min(len(self), SAMPLE)
        chosen = np.linspace(0, len(self) - 1, count).round().astype(int).tolist()
        problems: dict[int, str] = {}
        counts = np.zeros(IGNORE + 1, np.int64)

        def load(index: int) -> tuple[Pixels, NDArray[np.int64]] | None:
            try:
                sample = self[index]
            except DataError as error:
                problems[index] = str(error)
                return None
            mask = sample.get("mask", torch.zeros(0, dtype=torch.int64)).ravel()
            pixels: Pixels = sample["image"].permute(1, 2, 0).numpy()
            return pixels, np.bincount(mask.numpy(), minlength=len(counts))

        def images(found: Iterable[tuple[Pixels, NDArray[np.int64]] | None]) -> Iterator[Pixels]:
            for one in found:
                if one is not None:
                    counts[:] += one[1]
                    yield one[0]

        with ThreadPoolExecutor(available_cpus(limit=8)) as pool:  # decoding releases the GIL
            mean, std = pixel_statistics(images(pool.map(load, chosen)))
        of_classes = counts[: len(self.class_names)].tolist()
        return Survey(mean, std, of_classes, dict(sorted(problems.items())))

    def update_digest(self, digest: "hashlib._Hash") -> None:
        """Feed the class names and each image's name, annotations and bytes to a digest."""
        digest.update("\0".join(self.class_names).encode())
        for index, name in enumerate(self.names):
            digest.update(f"\0{name}\0".encode())
            digest.update(self.source.digest(index))
            with open(self._path(index), "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())


def _scaled(objects: Objects, stored: tuple[int, int], size: tuple[int, int]) -> dict[str, Any]:
    """The objects in pixels of an image that was scaled."""
    found = {
        "boxes": _resized(objects.boxes, stored, size),
        "labels": objects.labels,
        "iscrowd": objects.iscrowd,
        "area": objects.area * np.float32(size[0] / stored[0] * (size[1] / stored[1])),
    }
    return found if objects.masks is None else {**found, "masks": objects.masks}


def _resized(
    boxes: NDArray[np.float32], stored: tuple[int, int], size: tuple[int, int]
) -> NDArray[np.float32]:
    down, across = size[0] / stored[0], size[1] / stored[1]
    edges = np.array([across, down, across, down], np.float32)
    inside: NDArray[np.float32] = np.minimum(
        boxes * edges, np.array([size[1], size[0]] * 2, np.float32)
    )
    return inside
