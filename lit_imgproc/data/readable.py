"""Images that cannot be read when their turn comes: the training stops, or they are left out."""

from collections.abc import Sequence
from typing import Any, Literal

from torch.utils.data import Dataset, default_collate

from lit_imgproc.data.errors import DataError

OnError = Literal["stop", "skip"]
Key = int | tuple[int, int]
Sample = dict[str, Any]
Fetched = tuple[list[Sample], list[str]] | DataError

RAGGED = ("boxes", "labels", "masks", "iscrowd", "area", "caption", "captions", "geometry")
"""What differs in number from image to image: a batch has it as a list."""

LONGEST_GAP = 100
"""So many unreadable images in a row are no accident: a disk or a share is gone."""


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
        samples: list[Sample] = []
        skipped: list[str] = []
        for key in keys:
            try:
                samples.append(self.dataset[key])
            except DataError as error:
                if self.on_error == "stop":
                    raise
                skipped.append(str(error))
                if isinstance(key, tuple):
                    samples.append(self._next(*key, skipped))
        if not samples:
            raise DataError(
                f"none of the {len(keys)} images of an evaluation batch can be read; the first is "
                f"{skipped[0]}"
            )
        return samples, skipped

    def _next(self, index: int, sample_seed: int, skipped: list[str]) -> Sample:
        """The sample in the place of an unreadable one: a function of its index alone."""
        for step in range(1, LONGEST_GAP):
            try:
                sample: Sample = self.dataset[(index + step) % len(self), sample_seed]
                return sample
            except DataError as error:
                skipped.append(str(error))
        raise DataError(
            f"{LONGEST_GAP} images in a row cannot be read, so the disk or share they lie on may "
            f"be gone; the last is {skipped[-1]}"
        )


def collate(fetched: Fetched) -> Any:
    """A batch of what :class:`Readable` fetched, with what was left out of it as ``skipped``.

    What is :data:`RAGGED` stays a list, and so do images of different sizes.
    """
    if isinstance(fetched, DataError):
        return fetched
    samples, skipped = fetched
    listed = {key for key in samples[0] if key in RAGGED}
    for key in ("image", "mask"):
        if key in samples[0] and len({sample[key].shape for sample in samples}) > 1:
            listed.add(key)
    batch = default_collate([_without(sample, listed) for sample in samples])
    batch |= {key: [sample[key] for sample in samples] for key in samples[0] if key in listed}
    return {**batch, "skipped": skipped} if skipped else batch


def _without(sample: Sample, keys: set[str]) -> Sample:
    return {key: value for key, value in sample.items() if key not in keys}
