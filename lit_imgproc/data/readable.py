"""Images that cannot be read when their turn comes: the training stops, or they are left out."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from lit_imgproc.data.errors import DataError

OnError = Literal["stop", "skip"]
Key = int | tuple[int, int]
Sample = dict[str, Any]
Fetched = tuple[list[Sample], list[str]] | DataError

RAGGED = (
    *("boxes", "labels", "masks", "iscrowd", "area", "proposals"),
    *("caption", "captions", "geometry"),
)
"""What differs in number from image to image: a batch has it as a list."""

LONGEST_GAP = 100
"""So many unreadable images in a row are no accident: a disk or a share is gone."""


class Samples(list[Sample]):
    """The samples of a batch, their images moved to where they end up as they come.

    An array ``[H,W,C]`` is copied while it is in the cache of the CPU, and its own memory serves
    the next image: to stack a list of tensors takes several times as long.

    Args:
        count: The samples of the batch, at most.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._moved = 0
        self._rows: NDArray[Any] | None = None

    def add(self, sample: Sample) -> None:
        """Append a sample and move its image, if that is an array of the others' size."""
        image = sample.get("image")
        if isinstance(image, np.ndarray):
            if self._rows is None:
                self._rows = np.empty((self._count, *image.shape), image.dtype)
            if (image.shape, image.dtype) == (self._rows.shape[1:], self._rows.dtype):
                self._rows[self._moved] = image
                sample["image"] = self._rows[self._moved]
                self._moved += 1
        self.append(sample)

    def images(self) -> Tensor | None:
        """All images, a tensor ``[B,C,H,W]`` over rows of pixels; ``None`` if sizes differ.

        In torch's words its memory format is channels last.
        """
        if self._rows is None or self._moved < len(self):
            return None
        return torch.from_numpy(self._rows[: self._moved]).permute(0, 3, 1, 2)


class Readable(Dataset[Sample]):
    """A data set as a loader's worker sees it: a whole batch at a time, without exceptions.

    Torch would bring an exception to the main process as the text of a traceback. Here a
    ``DataError`` is brought as the value it is, and :class:`~lit_imgproc.data.order.Loader` raises
    it.

    Args:
        dataset: Gives a sample for an index, or for ``(index, sample_seed)`` in training.
        on_error: ``stop`` gives up at an image that cannot be read. ``skip`` leaves it out of an
            evaluation; in training the next one of the data set that can be read takes its place,
            so that batches keep their sizes and all ranks their number of batches.
    """

    def __init__(self, dataset: Any, on_error: OnError) -> None:
        self.dataset = dataset
        self.on_error = on_error

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, keys: Sequence[Key]) -> Fetched:
        """The samples of a batch, and a sentence about each image that was left out."""
        try:
            return self._fetch(keys)
        except DataError as error:
            return error

    def _fetch(self, keys: Sequence[Key]) -> Fetched:
        samples = Samples(len(keys))
        skipped: list[str] = []
        for key in keys:
            try:
                samples.add(self._fetch_one(key))
            except DataError as error:
                if self.on_error == "stop":
                    raise
                skipped.append(str(error))
                if isinstance(key, tuple):
                    samples.add(self._next(*key, skipped))
        if not samples:
            raise DataError(
                f"none of the {len(keys)} images of an evaluation batch can be read; the first is "
                f"{skipped[0]}"
            )
        return samples, skipped

    def _fetch_one(self, key: Key) -> Sample:
        # A data set may have a faster way for images that are copied into a batch at once.
        fetch = getattr(self.dataset, "fetch", None)
        sample: Sample = self.dataset[key] if fetch is None else fetch(key)
        return sample

    def _next(self, index: int, sample_seed: int, skipped: list[str]) -> Sample:
        """The sample in the place of an unreadable one: a function of its index alone."""
        for step in range(1, LONGEST_GAP):
            try:
                sample: Sample = self._fetch_one(((index + step) % len(self), sample_seed))
                return sample
            except DataError as error:
                skipped.append(str(error))
        raise DataError(
            f"{LONGEST_GAP} images in a row cannot be read, so the disk or share they lie on may "
            f"be gone; the last is {skipped[-1]}"
        )


def collate(fetched: Fetched) -> Any:
    """A batch of what :class:`Readable` fetched, with what was left out of it as ``skipped``.

    What is :data:`RAGGED` stays a list, and so do images, masks and the like of different sizes.
    """
    if isinstance(fetched, DataError):
        return fetched
    samples, skipped = fetched
    images = samples.images() if isinstance(samples, Samples) else None
    if images is not None:
        samples = [_without(sample, {"image"}) for sample in samples]
    else:
        samples = [_as_tensor(sample) for sample in samples]
    listed = {key for key in samples[0] if key in RAGGED}
    for key in ("image", "mask", "weight", "instances"):
        if key in samples[0] and len({sample[key].shape for sample in samples}) > 1:
            listed.add(key)
    batch = default_collate([_without(sample, listed) for sample in samples])
    batch |= {key: [sample[key] for sample in samples] for key in samples[0] if key in listed}
    if images is not None:
        batch["image"] = images
    return {**batch, "skipped": skipped} if skipped else batch


def _as_tensor(sample: Sample) -> Sample:
    """A sample whose image, if it is an array ``[H,W,C]``, is a tensor ``[C,H,W]``."""
    image = sample.get("image")
    if not isinstance(image, np.ndarray):
        return sample
    image = np.require(image, requirements=["C", "W"])
    return {**sample, "image": torch.from_numpy(image).permute(2, 0, 1)}


def _without(sample: Sample, keys: set[str]) -> Sample:
    return {key: value for key, value in sample.items() if key not in keys}
