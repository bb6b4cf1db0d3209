"""What a data set is made of: how many images, how large, of which values and classes."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lit_imgproc.data.base import ImageDataModule, Progress
from lit_imgproc.data.inspect import inspect

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_CLASSES = 40
"""So many classes have a bar of their own in the figure: the most frequent."""


@dataclass
class SplitStats:
    """One split. Means, deviations and extremes are a value a channel, 8-bit images in [0, 1]."""

    images: int = 0
    unreadable: int = 0
    groups: int = 0
    sizes: list[list[int]] = field(default_factory=list)
    """Smallest, median and largest stored size, each side for itself."""
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    classes: dict[str, int] = field(default_factory=dict)
    """Labels, boxes or mask pixels of each class, those without any too."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def stats(data: ImageDataModule, progress: Progress) -> dict[str, SplitStats]:
    """Look at every image of every split.

    Args:
        data: Prepared or not.
        progress: Shows how far it is.
    """
    return {split: _of_split(data, split, progress) for split in data.splits()}


def _of_split(data: ImageDataModule, split: Any, progress: Progress) -> SplitStats:
    result = SplitStats()
    pixels, moments, extremes = 0, np.zeros(1), None
    sizes: list[tuple[int, ...]] = []
    groups: set[str] = set()
    classes: Counter[str] = Counter()
    for look in inspect(data, split, progress):
        result.images += 1
        if look.group is not None:
            groups.add(look.group)
        if look.channels is None:
            result.unreadable += 1
            continue
        sizes.append(look.size)
        classes += look.classes
        mean, variance, low, high = look.channels
        pixels += look.pixels
        moments = moments + look.pixels * np.stack([mean, variance + mean**2])
        extremes = (
            (low, high)
            if extremes is None
            else (np.fmin(extremes[0], low), np.fmax(extremes[1], high))
        )
    result.groups = len(groups)
    result.classes = {name: classes[name] for name in data.dataset(split).class_names}
    if extremes is not None:
        mean, squares = moments / pixels
        result.mean = mean.tolist()
        result.std = np.sqrt(np.maximum(squares - mean**2, 0)).tolist()
        result.low, result.high = (values.tolist() for values in extremes)
        result.sizes = [
            [int(v) for v in f(np.array(sizes), axis=0)] for f in (np.min, np.median, np.max)
        ]
    return result


def rows(found: Mapping[str, SplitStats]) -> Iterator[tuple[str, list[str]]]:
    """A table: what is told, and a cell a split."""
    splits = list(found.values())
    yield "images", [str(one.images) for one in splits]
    if any(one.unreadable for one in splits):
        yield "unreadable", [str(one.unreadable) for one in splits]
    if any(one.groups for one in splits):
        yield "groups", [str(one.groups) for one in splits]
    for number, what in enumerate(("smallest", "median size", "largest")):
        sizes = [one.sizes[number] if one.sizes else [] for one in splits]
        yield what, ["x".join(map(str, size)) for size in sizes]
    for what in ("mean", "std", "low", "high"):
        yield what, [" ".join(f"{value:.4g}" for value in getattr(one, what)) for one in splits]
    for name in splits[0].classes:
        yield name, [_share(one.classes, name) for one in splits]


def _share(classes: Mapping[str, int], name: str) -> str:
    count, total = classes.get(name, 0), max(sum(classes.values()), 1)
    return f"{count} ({count / total:.1%})"


def figure(found: Mapping[str, SplitStats]) -> "Figure":
    """Class balance of the splits, as shares, and mean and deviation of the channels."""
    from matplotlib.figure import Figure

    result = Figure(figsize=(11, 4.5), layout="constrained")
    balance, values = result.subplots(1, 2)
    first = next(iter(found.values()))
    names = sorted(first.classes, key=lambda name: -first.classes[name])[:MOST_CLASSES]
    width = 0.8 / len(found)
    for number, (split, one) in enumerate(found.items()):
        total = max(sum(one.classes.values()), 1)
        shares = [one.classes.get(name, 0) / total for name in names]
        places = np.arange(len(names)) + (number - (len(found) - 1) / 2) * width
        balance.bar(places, shares, width, label=f"{split}: {one.images}")
        channels = np.arange(len(one.mean)) + (number - (len(found) - 1) / 2) * width
        values.errorbar(channels, one.mean, one.std, fmt="o", label=split, capsize=3)
    turned = len(names) > 4
    balance.set_xticks(
        range(len(names)), names, rotation=45 * turned, ha="right" if turned else "center"
    )
    more = len(first.classes) - len(names)
    balance.set(
        title="Class balance", ylabel="share" + (f" (and {more} more classes)" if more else "")
    )
    values.set(title="Mean and deviation", xlabel="channel", xlim=(-0.5, len(first.mean) - 0.5))
    if len(first.mean) <= MOST_CLASSES:
        values.set_xticks(range(len(first.mean)))
    result.legend(*balance.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return result
