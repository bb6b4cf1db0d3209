"""What the datamodules of annotated images share, whatever told the annotations."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
from annotated_types import Gt, Le, Len, Lt

from lit_imgproc.data.base import (
    BatchSize,
    DataError,
    ImageDataModule,
    ImageDataset,
    NumWorkers,
    Progress,
    Split,
    raise_all,
)
from lit_imgproc.data.coco.annotations import BACKGROUND, Source, Table
from lit_imgproc.data.coco.borders import Borders
from lit_imgproc.data.coco.dataset import AnnotatedDataset, Survey, Target
from lit_imgproc.data.coco.grouping import GroupedBatches, aspect_groups
from lit_imgproc.data.coco.listing import Listing
from lit_imgproc.data.coco.proposals import MOST, ProposalCache, shown
from lit_imgproc.data.order import TrainBatches
from lit_imgproc.data.readable import OnError
from lit_imgproc.data.splits import held_out
from lit_imgproc.data.transforms import IGNORE, Augment, AugmentChoice
from lit_imgproc.errors import UserError
from lit_imgproc.inputs import InputSpec

Fraction = Annotated[float, Gt(0), Lt(1)]
Side = Annotated[int, Gt(0)]
Sides = Side | Annotated[list[Side], Len(1)]
Fit = Literal["fit", "squash", "none"]
Defects = Literal["repair", "refuse"]
Empty = Literal["keep", "drop"]
ProposalCount = Annotated[int, Gt(0), Le(MOST)] | None

SPLITS: tuple[Split, ...] = ("train", "val", "test")
SPELLINGS: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test",),
}
"""How data sets call their splits."""


@dataclass(frozen=True)
class Loading:
    """How images are scaled, shown and dealt, which is the same for all formats.

    The fields are arguments of the datamodules; see
    :class:`~lit_imgproc.data.coco.coco_json.CocoData`.
    """

    image_size: Sides
    max_size: int
    resize: Fit
    in_channels: int
    aspect_grouping: bool
    defects: Defects
    empty: Empty
    val_fraction: float
    test_fraction: float

    def spec(self, side: int) -> InputSpec:
        """What is done to an image whose shorter side is to be ``side``."""
        size = (side, side) if self.resize == "squash" else (side, max(side, self.max_size))
        return InputSpec(self.in_channels, size, self.resize)

    @property
    def sides(self) -> list[int]:
        """The sizes that training draws from; evaluation takes the last."""
        return [self.image_size] if isinstance(self.image_size, int) else self.image_size


@dataclass(frozen=True)
class Found:
    """What annotations tell.

    Attributes:
        class_names: The names of the classes.
        listings: The images of each split; those that are missing are held out.
        background: Whether semantic masks have a class 0 beside these.
    """

    class_names: list[str]
    listings: Mapping[Split, Listing]
    background: bool = True


class AnnotatedData(ImageDataModule):
    """Images with objects, masks or captions. A subclass finds them; see :meth:`find`.

    Labels are indices of ``class_names``, from 0, and objects only have classes: a network that
    wants 0 for background adds 1. In semantic masks every pixel has a class: 0 is ``background``,
    the first of ``class_names`` there, and 255 is to be ignored.

    Without a test split, the validation images are the test images; without validation images,
    these are held out of the training images; and where there is one list of images only, both are
    held out of it: always the same images, whatever the seed.

    Args:
        root: The folder of the data set.
        target: What a sample has beside its image.
        loading: How images are loaded.
        proposals: How many boxes of selective search an image has beside its own.
        augment: What training does; see :mod:`lit_imgproc.data.transforms`.
        batch_size: See :class:`~lit_imgproc.data.base.ImageDataModule`, as for the others.

    Attributes:
        borders: What training makes of the objects of semantic masks; see
            :class:`~lit_imgproc.data.coco.dataset.AnnotatedDataset`.
    """

    borders: Borders | None = None

    def __init__(
        self,
        *,
        root: str,
        target: Target,
        loading: Loading,
        proposals: ProposalCount,
        augment: AugmentChoice,
        batch_size: BatchSize,
        num_workers: NumWorkers,
        on_error: OnError,
        seed: int,
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers, seed=seed)
        if proposals is not None and target not in ("boxes", "instances"):
            raise UserError(f"data.proposals is for boxes and instances, not for target={target}")
        self.on_error, self.proposals = on_error, proposals
        self.root, self.target, self.loading = Path(root), target, loading
        self.augment = augment or {"train": "none"}
        self._surveys: dict[Split, Survey] = {}

    @abstractmethod
    def find(self) -> Found:
        """Read the annotations.

        Raises:
            DataError: With one line for everything that is wrong but for single images.
        """

    def input_spec(self) -> InputSpec:
        """What evaluation does to an image."""
        return self.loading.spec(self.loading.sides[-1])

    def facts(self) -> dict[str, Any]:
        """Classes, channels, size, and the statistics of the training images.

        For semantic masks ``class_counts`` are the pixels of each class in up to 1,000 of them.
        """
        names, spec = list(self.dataset("train").class_names), self.input_spec()
        survey = self._surveys["train"]
        facts = {
            "num_classes": len(names),
            "class_names": names,
            "in_channels": spec.channels,
            "mean": survey.mean,
            "std": survey.std,
            "value_range": list(spec.value_range),
            "image_size": list(spec.size),
            "multilabel": self.target == "labels",
        }
        if self.target == "semantic":
            facts["class_counts"] = survey.class_counts
        return facts

    def read(self) -> dict[Split, ImageDataset]:
        """Read the annotations, look at every image's header and decode a sample of each split."""
        found, sources = self._found()
        problems = [one for listing in found.listings.values() for one in listing.told()]
        refused = self._defects(found.listings)
        self._check(sources, found.class_names)
        given, sources = sources, self._complete(sources)
        if self.loading.empty == "drop" and isinstance(train := sources["train"], Table):
            sources["train"] = train.select(np.flatnonzero(train.counts))
        names = found.class_names
        if self.target == "semantic" and found.background:
            names = [BACKGROUND, *names]
        datasets: dict[Split, ImageDataset] = {}
        for split in SPLITS:
            if split == "test" and sources["test"] is sources["val"]:
                datasets["test"] = datasets["val"]
                continue
            datasets[split], unreadable = self._survey(split, sources[split], names)
            problems += unreadable
        raise_all([*problems, *refused] if refused else [])
        self.settle(problems)
        raise_all(
            [
                f"{self.root}: no {split} images; give some, or more images to hold out of."
                for split, dataset in datasets.items()
                if not len(dataset)
            ]
        )
        if self.proposals is not None:
            cache = self._proposal_cache(given)
            pack = cache.opened(shown)
            for dataset in datasets.values():
                proposals = cache.proposals(pack, dataset.names, self.proposals)
                cast(AnnotatedDataset, dataset).proposals = proposals
        return datasets

    def prepare_cache(self, progress: Progress) -> Path:
        """Search all images for ``proposals``, or those that have not been searched.

        Args:
            progress: Shows how far it is.

        Returns:
            The folder that the boxes lie in.

        Raises:
            DataError: There are to be no proposals, they cannot be written, or images not be read.
        """
        if self.proposals is None:
            raise DataError(
                "data.proposals is null, and there is nothing else to prepare: set it to a number."
            )
        cache = self._proposal_cache(self._found()[1])
        folder = cache.prepare(progress)
        self.settle(cache.problems(cache.open()))
        return folder

    def verify_cache(self, progress: Progress) -> list[str]:
        """Read all proposals that have been searched for; a sentence a damaged part."""
        if self.proposals is None:
            return []
        try:
            cache = self._proposal_cache(self._found()[1])
        except DataError:
            return []  # who reads the data set is told
        return cache.verify(progress)

    def _found(self) -> tuple[Found, dict[Split, Source]]:
        """What annotations tell, and what can be used of it once all headers were looked at."""
        if not self.root.is_dir():
            raise DataError(f"{self.root}: there is no such folder (data.root).")
        found = self.find()
        for listing in found.listings.values():
            listing.probe()
        return found, {split: listing.source() for split, listing in found.listings.items()}

    def _proposal_cache(self, sources: Mapping[Split, Source]) -> ProposalCache:
        names = (name for source in sources.values() for name in source.names)
        return ProposalCache(self.root, names)

    def _survey(
        self, split: Split, source: Source, names: list[str]
    ) -> tuple[AnnotatedDataset, list[str]]:
        """A split without those of the looked-at images that cannot be read, and why not."""
        dataset = self._dataset(split, source, names)
        survey = self._surveys[split] = dataset.survey()
        if survey.problems:
            kept = np.setdiff1d(np.arange(len(source)), list(survey.problems))
            dataset = self._dataset(split, source.select(kept), names)
        return dataset, list(survey.problems.values())

    def _dataset(self, split: Split, source: Source, names: list[str]) -> AnnotatedDataset:
        spec, scales, augment = self.input_spec(), [], None
        if split == "train":
            scales = [self.loading.spec(side) for side in self.loading.sides]
            if self.augment["train"] != "none":
                smallest = min(self.loading.sides)
                augment = Augment(self.augment["train"], smallest, spec.channels)
        dataset = AnnotatedDataset(self.root, source, names, self.target, spec, scales, augment)
        dataset.borders = self.borders
        return dataset

    def _defects(self, listings: Mapping[Split, Listing]) -> list[str]:
        """Count what was repaired, or return a sentence for each that is refused."""
        refused: list[str] = []
        for listing in listings.values():
            counts, sentences = listing.defects()
            if self.loading.defects == "refuse":
                refused += sentences
            else:
                self.repaired.update(counts)
        return refused

    def _check(self, sources: Mapping[Split, Source], class_names: list[str]) -> None:
        """Refuse what contradicts itself as a whole."""
        problems = []
        if self.target != "captions" and not class_names:
            problems.append(f"{self.root}: the annotations have no classes.")
        if self.target == "semantic" and len(class_names) >= IGNORE:
            problems.append(
                f"{self.root}: {len(class_names)} classes; a mask holds {IGNORE - 1} at most."
            )
        seen: dict[str, Split] = {}
        for split, source in sources.items():
            for name in source.names:
                if seen.setdefault(name, split) != split:
                    problems.append(f"{self.root / name}: is in {split}, and in {seen[name]}.")
        raise_all(problems)

    def _complete(self, sources: Mapping[Split, Source]) -> dict[Split, Source]:
        """Make the splits that are not given."""
        result = dict(sources)
        val, test = self.loading.val_fraction, self.loading.test_fraction
        if result.keys() == {"train"}:
            if val + test >= 1:
                raise DataError("data: val_fraction and test_fraction leave no training images.")
            result["train"], result["test"] = _part(result["train"], test)
            val /= 1 - test
        if "val" not in result:
            result["train"], result["val"] = _part(result["train"], val)
        result.setdefault("test", result["val"])
        return result

    def _train_batches(self, rank: int, world_size: int) -> TrainBatches:
        dataset = cast(AnnotatedDataset, self.dataset("train"))
        if not self.loading.aspect_grouping or self.loading.resize == "squash":
            return TrainBatches(len(dataset), self.batch_size, self.seed, rank, world_size)
        groups = aspect_groups(dataset.source.sizes)
        return GroupedBatches(groups, self.batch_size, self.seed, rank, world_size)


def _part(source: Source, fraction: float) -> tuple[Source, Source]:
    """What remains and what is held out."""
    out = held_out(source.names, [0] * len(source), fraction)
    return source.select(np.flatnonzero(~out)), source.select(np.flatnonzero(out))


def find_splits(root: Path, pattern: str) -> dict[Split, str]:
    """How the splits are called whose file, or folder, by a pattern is in ``root``.

    Args:
        root: A folder.
        pattern: Its ``{split}`` stands for the name of a split. Without it, all is training.
    """
    if "{split}" not in pattern:
        return {"train": ""} if (root / pattern).exists() else {}
    found: dict[Split, str] = {}
    for split, words in SPELLINGS.items():
        there = [word for word in words if (root / pattern.replace("{split}", word)).exists()]
        if there:
            found[split] = there[0]
    return found
