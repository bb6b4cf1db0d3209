"""Images with the objects, classes or captions that annotations tell of them."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from lit_imgproc.data.base import DataError, ImageDataset, available_cpus
from lit_imgproc.data.coco.annotations import Objects, Source
from lit_imgproc.data.coco.proposals import Proposals
from lit_imgproc.data.decode import read_image
from lit_imgproc.data.imagenet.datasets import SAMPLE, pixel_statistics
from lit_imgproc.data.transforms import Augment
from lit_imgproc.geometry import geometry_of
from lit_imgproc.inputs import InputSpec

Target = Literal["boxes", "instances", "semantic", "labels", "captions"]
Pixels = NDArray[np.uint8]


class AnnotatedDataset(ImageDataset):
    """One split; each item has ``image`` uint8 ``[C,H,W]``, ``id``, and what ``target`` says.

    - ``boxes``: ``boxes`` float32 ``[N,4]``, xyxy in pixels of the item's image; ``labels`` int64
      ``[N]``, which are indices of ``class_names``; ``iscrowd`` int64 ``[N]``; ``area`` float32
      ``[N]``, in pixels of the item's image.
    - ``instances``: these and ``masks`` uint8 ``[N,H,W]``.
    - ``semantic``: ``mask`` int64 ``[H,W]``, 255 = ignore.
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
    """

    proposals: Proposals | None = None

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
        geometry = geometry_of(self._path(index), (stored[0], stored[1]), size)
        return {**self._item(index, image, found), "geometry": geometry}

    def _training(self, index: int, sample_seed: int) -> dict[str, Any]:
        image = self._image(index)
        if self.augment is None or not self.augment.resizes:
            # The seed's high bits: the low ones set the state of the augmentation's generator.
            image = self.scales[(sample_seed >> 32) % len(self.scales)](image)
        found = self._found(index, (image.shape[0], image.shape[1]))
        if self.augment is not None:
            try:
                image, found = self._augmented(image, found, sample_seed)
            except Exception as error:  # a crop of 600 pixels from an image of 500, say
                raise DataError(
                    f"{self._path(index)}: augment.train fails on this image of "
                    f"{image.shape[0]}x{image.shape[1]}: {error}"
                ) from error
        return self._item(index, image, found)

    def _found(self, index: int, size: tuple[int, int]) -> dict[str, Any]:
        """What is asked of an image, as arrays, at a size."""
        if self.target == "captions":
            return {"captions": self.source.captions(index)}
        if self.target == "semantic":
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

    def _item(self, index: int, image: Pixels, found: dict[str, Any]) -> dict[str, Any]:
        if "masks" in found:  # what is cut off but for its box, or too small to be seen
            seen = found["masks"].max((1, 2), initial=0) > 0
            if not seen.all():
                found = {
                    key: value if key == "proposals" else value[seen]
                    for key, value in found.items()
                }
        if "mask" in found:
            found = {"mask": found["mask"].astype(np.int64)}
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

    def survey(self) -> tuple[tuple[list[float], list[float]], dict[int, str]]:
        """Look at up to 1,000 images, evenly spaced, as evaluation sees them.

        Returns:
            Mean and deviation of each channel's ``[0,1]`` pixels, and why images cannot be used.
        """
        count = min(len(self), SAMPLE)
        chosen = np.linspace(0, len(self) - 1, count).round().astype(int).tolist()
        problems: dict[int, str] = {}

        def load(index: int) -> Pixels | None:
            try:
                pixels: Pixels = self[index]["image"].permute(1, 2, 0).numpy()
            except DataError as error:
                problems[index] = str(error)
                return None
            return pixels

        with ThreadPoolExecutor(available_cpus(limit=8)) as pool:  # decoding releases the GIL
            result = pixel_statistics(
                image for image in pool.map(load, chosen) if image is not None
            )
        return result, dict(sorted(problems.items()))

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
