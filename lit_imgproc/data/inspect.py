"""One look at every image of a split, in all workers: what `verify` and `stats` go by."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from lit_imgproc.data import workers
from lit_imgproc.data.base import ImageDataModule, ImageDataset, Progress, Split
from lit_imgproc.data.errors import DataError
from lit_imgproc.data.transforms import IGNORE

THUMBNAIL = 16
"""Side of the small grey copy that near duplicates are told by."""

AT_ONCE = 32
"""Images that a worker looks at before it reports."""


@dataclass(frozen=True)
class Look:
    """What was seen of one image, as evaluation sees it."""

    name: str
    group: str | None
    problems: list[str] = field(default_factory=list)
    size: tuple[int, ...] = ()
    digest: bytes = b""
    thumbnail: NDArray[np.float32] | None = None
    """Grey ``[256]`` with mean 0 and norm 1, or ``None`` for an image without any contrast."""
    pixels: int = 0
    channels: NDArray[np.float64] | None = None
    """``[4,C]``: mean, variance, least and greatest value; 8-bit images in [0, 1]."""
    classes: Counter[str] = field(default_factory=Counter)
    """Labels, boxes or mask pixels of each class."""


def inspect(data: ImageDataModule, split: Split, progress: Progress) -> Iterator[Look]:
    """Look at every image of a split.

    Args:
        data: Prepared or not.
        split: Which of its images.
        progress: Shows how far it is.
    """
    dataset = data.dataset(split)
    loader: DataLoader[Look] = DataLoader(
        _Looks(dataset, data.input_spec().eight_bit),
        batch_size=AT_ONCE,
        collate_fn=list,
        num_workers=data.num_workers,
        worker_init_fn=workers.shield,
    )
    looks = (look for group in loader for look in group)
    yield from progress(looks, split, len(dataset))


class _Looks(Dataset[Look]):
    def __init__(self, dataset: ImageDataset, eight_bit: bool) -> None:
        self.dataset = dataset
        self.eight_bit = eight_bit

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Look:
        dataset = self.dataset
        name = dataset.names[index]
        group = None if dataset.groups is None else dataset.groups[index]
        try:
            sample, size = dataset[index], dataset.size(index)
        except DataError as error:
            return Look(name, group, [str(error)])
        image = sample["image"].numpy()
        problems = [f"{name}: {problem}" for problem in _problems(sample, dataset.class_names)]
        return Look(
            name,
            group,
            problems,
            tuple(size),
            hashlib.sha256(f"{image.dtype}{image.shape}".encode() + image.tobytes()).digest(),
            _thumbnail(image),
            image[0].size,
            _channels(image, 255 if self.eight_bit else 1),
            _classes(sample, dataset.class_names),
        )


def _problems(sample: dict[str, Any], class_names: Any) -> Iterator[str]:
    """Where the pixels cannot be used, or the annotations do not belong to them."""
    image, classes = sample["image"].numpy(), len(class_names)
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        yield f"{np.count_nonzero(~np.isfinite(image))} values are NaN or infinite."
    if "mask" in sample:
        mask = sample["mask"].numpy()
        if mask.shape != image.shape[1:]:
            yield f"its mask is {list(mask.shape)}, the image {list(image.shape[1:])}."
        unknown = sorted(set(np.unique(mask).tolist()) - {*range(classes), IGNORE})
        if unknown:
            yield f"its mask has the values {unknown}, and there are {classes} classes."
    if "boxes" in sample:
        boxes, (height, width) = sample["boxes"].numpy(), image.shape[-2:]
        outside = (boxes[:, :2] < 0).any(1) | (boxes[:, 2:] > [width, height]).any(1)
        empty = (boxes[:, 2:] <= boxes[:, :2]).any(1)
        if outside.any() or empty.any():
            yield f"{outside.sum()} boxes lie outside of the image, {empty.sum()} are empty."
        labels = sample["labels"].numpy()
        if len(labels) != len(boxes) or (
            len(labels) and not 0 <= labels.min() <= labels.max() < classes
        ):
            yield f"it has {len(boxes)} boxes and the labels {sorted(set(labels.tolist()))}."


def _thumbnail(image: NDArray[Any]) -> NDArray[np.float32] | None:
    if image.ndim == 4:
        image = image[:, image.shape[1] // 2]  # the middle slice of a volume
    grey = np.nan_to_num(image.mean(0, dtype=np.float32), posinf=0, neginf=0)
    small = cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA).ravel()
    small = small - small.mean()
    norm = float(np.linalg.norm(small))
    return None if norm <= 1e-6 * max(1.0, float(np.abs(grey).max())) else small / np.float32(norm)


def _channels(image: NDArray[Any], scale: float) -> NDArray[np.float64]:
    rows = image.reshape(len(image), -1).astype(np.float64) / scale
    rows[~np.isfinite(rows)] = np.nan
    with np.errstate(invalid="ignore"):
        return np.stack(
            [np.nanmean(rows, 1), np.nanvar(rows, 1), np.nanmin(rows, 1), np.nanmax(rows, 1)]
        )


def _classes(sample: dict[str, Any], class_names: Any) -> Counter[str]:
    if "mask" in sample:
        values, counts = np.unique(sample["mask"].numpy(), return_counts=True)
        found = dict(zip(values.tolist(), counts.tolist(), strict=True))
    elif "labels" in sample:
        found = Counter(sample["labels"].tolist())
    elif "label" in sample:
        label = sample["label"]
        several = getattr(label, "ndim", 0) == 1
        found = Counter(np.flatnonzero(label).tolist() if several else [int(label)])
    else:
        found = Counter()
    return Counter({class_names[k]: n for k, n in found.items() if 0 <= k < len(class_names)})
