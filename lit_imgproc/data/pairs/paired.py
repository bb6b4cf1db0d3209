"""Two pictures of the same scene, of which one is to be made of the other."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast, get_args

from numpy.typing import NDArray

from lit_imgproc.data.base import BatchSize, ImageDataset, NumWorkers, Split, raise_all
from lit_imgproc.data.coco.patterns import SPLIT, wildcards
from lit_imgproc.data.errors import DataError
from lit_imgproc.data.pairs import toy
from lit_imgproc.data.pairs.base import Fraction, PairData, Side, decode
from lit_imgproc.data.pairs.derived import Derived, seed_of
from lit_imgproc.data.pairs.files import (
    Dealing,
    Pair,
    Patterns,
    find_files,
    look,
    pairs,
    singles,
)
from lit_imgproc.data.pairs.framing import Framing, Sizing, colour_transforms
from lit_imgproc.data.pairs.paired_dataset import PairedDataset, Sized, geometry, hole_seed
from lit_imgproc.data.pairs.palette import Paint, Palette
from lit_imgproc.data.pairs.reading import Origin, Reading
from lit_imgproc.data.pairs.reading import Side as PictureSide
from lit_imgproc.data.readable import OnError
from lit_imgproc.data.transforms import Augment, AugmentChoice
from lit_imgproc.errors import UserError

OWN: tuple[str, ...] = ("left", "right", *get_args(Derived))


class PairedImages(PairData[list[Sized]]):
    """A source and a target of the same scene, for translation as of pix2pix, arXiv:1611.07004.

    Patterns say where files lie. ``{split}`` stands for ``train``, ``val`` or ``test`` (also
    ``training``, ``valid``, ``validation``), ``*`` for any name or part of one, and ``**`` for any
    folders. A source is

    - the ``left`` or ``right`` half of the target's file, whose other half is the target: as the
      authors publish facades, maps, edges2shoes and night2day. ``left`` is their direction AtoB,
      ``right`` is BtoA;
    - a file of its own, of another pattern: what the wildcards stand for is the same for both;
    - made of the target: its ``edges``, black lines on white; ``grey``, without its colours; or
      ``erased``, with a rectangle missing, anywhere in training and always the same in evaluation.
      An erased source has one channel more, 255 where the picture is missing.

    Files of class numbers are painted in the colours of a palette. All files are of 8 bits, and
    both pictures of a pair of one size. They are scaled, cut and augmented together.

    Without a test split, the validation images are the test images; without validation images,
    these are held out of the training images; and where there is one list only, both are held out
    of it: always the same images, whatever the seed.

    A file that is predicted is the source itself, or what the source is made of; what is
    transparent in it is what is missing, if the source is ``erased``.

    Example:
        Facades from their labels, as the authors publish them:

        >>> data = PairedImages(root="data/facades", source="right", load_size=286,
        ...                     augment={"train": "flip"})

        Aerial photographs from maps of classes, in crops of 256 pixels as they are stored:

        >>> data = PairedImages(
        ...     root="data/dubai_aerial",
        ...     source="masks/*.png",
        ...     target="images/*.jpg",
        ...     source_palette="classes.json",
        ...     splits={"train": ["t[1235]_*"], "val": ["t4_*"], "test": ["t6_*"]},
        ...     resize="none",
        ... )

        One's own photographs from their edges:

        >>> data = PairedImages(root="photos", source="edges", target="**/*", in_channels=1)

    Args:
        root: The folder of the data set.
        source: ``left``, ``right``, ``edges``, ``grey`` or ``erased``, or the pattern of files.
        target: The pattern of the files of targets, or of both halves.
        source_palette: The colours of the class numbers that source files hold: ``#RRGGBB`` of
            each from 0; or a JSON file in ``root`` with such a list, or with colours by name, whose
            numbers are their order, or that of a list ``classes`` beside. 255 is black.
        target_palette: The same for target files.
        splits: Patterns of what the wildcards stand for, such as ``t1_*``, by split, where the
            patterns have no ``{split}``; other files are not used.
        index: A CSV file in ``root`` with the columns ``id``, what the wildcards stand for joined
            by ``/``, and ``split``, instead.
        image_size: Height and width of what networks see, in pixels.
        load_size: Training scales to this and cuts ``image_size`` out of it at random: 286 for 256
            in the paper; ``None`` scales to ``image_size``.
        resize: ``squash`` scales to a square. ``crop`` keeps the shape: the longer side is cut, in
            the middle in evaluation and anywhere in training. ``none`` does not scale: training
            cuts squares out anywhere, and evaluation sees each image in tiles.
        in_channels: Of the source: 3 for RGB, 1 for grey; an erased one has one more.
        out_channels: Of the target: 3 for RGB, 1 for grey.
        val_fraction: Share of the images to hold out for validation where that is not given.
        test_fraction: Share of the images to hold out for testing where that is not given.
        augment: What training does with both alike, for example ``{"train": "flip"}``: transforms
            that move pixels.
        batch_size: Images in a batch of one process; 1 in the paper.
        num_workers: Processes that load images; ``None`` goes by the CPUs of this rank.
        on_error: What happens to images that cannot be used: ``stop``, or ``skip`` them.
        seed: Seed of the order of the images and of their augmentations.

    Raises:
        UserError: Arguments do not fit together.
        DataError: When it is prepared, with one line for everything that is wrong.
    """

    def __init__(
        self,
        *,
        root: str,
        source: Literal["left", "right", "edges", "grey", "erased"] | str = "left",
        target: str = "{split}/*",
        source_palette: Palette = None,
        target_palette: Palette = None,
        splits: Patterns | None = None,
        index: str | None = None,
        image_size: Side = 256,
        load_size: Side | None = None,
        resize: Sizing = "squash",
        in_channels: Literal[1, 3] = 3,
        out_channels: Literal[1, 3] = 3,
        val_fraction: Fraction = 0.15,
        test_fraction: Fraction = 0.15,
        augment: AugmentChoice = None,
        batch_size: BatchSize = 1,
        num_workers: NumWorkers = None,
        on_error: OnError = "stop",
        seed: int = 0,
    ) -> None:
        self.origin = cast(Origin, source if source in OWN else "file")
        super().__init__(
            root=root,
            framing=Framing(image_size, load_size, resize),
            in_channels=in_channels + (self.origin == "erased"),
            out_channels=out_channels,
            augment=augment,
            batch_size=batch_size,
            num_workers=num_workers,
            on_error=on_error,
            seed=seed,
        )
        self.source, self.target = source, target
        self.palettes = (source_palette, target_palette)
        self.colours = (in_channels, out_channels)
        self.dealing = Dealing(splits, index, val_fraction, test_fraction)
        self._check()

    @cached_property
    def reading(self) -> Reading:
        """How files are read."""
        sides = []
        for what, palette, channels in zip(
            ("source", "target"), self.palettes, self.colours, strict=True
        ):
            setting = f"data.{what}_palette"
            paint = None if palette is None else Paint.of(palette, self.root, setting)
            sides.append(PictureSide(channels, paint))
        return Reading(self.root, self.origin, *sides)

    def open(self, path: Path) -> NDArray[Any]:
        """A source as it is stored: a file of its own, or what the source is made of."""
        return self.reading.source_alone(self.reading.alone(path), seed_of(path.name))

    def parts(self, path: Path) -> Iterator[tuple[NDArray[Any], dict[str, Any] | None]]:
        """A source as evaluation sees it: whole, or a tile after another.

        Raises:
            DataError: The file cannot be read, or is smaller than a tile.
        """
        layers = self.reading.alone(path)
        height, width = layers[0].shape[:2]
        if problem := self.framing.problem(height, width):
            raise DataError(f"{path}: {problem}")
        for corner in self.framing.corners(height, width):
            seen = self.framing.evaluated(layers, corner)
            image = self.reading.source_alone(seen, hole_seed(path.name, corner))
            yield image, geometry(str(path), (height, width), self.framing, corner)

    def find(self) -> tuple[dict[Split, list[Sized]], list[str]]:
        """Pair the files, look at all headers, and deal them to splits."""
        targets = find_files(self.root, self.target, "target")
        problems: list[str] = []
        if self.origin == "file":
            sources = find_files(self.root, self.source, "source")
            found, problems = pairs(self.root, sources, targets)
            if not found.get("train"):
                raise_all(problems)
        else:
            found = {
                split: {key: Pair(name, name) for key, name in files.items()}
                for split, files in singles(targets).items()
            }
        dealt = self.dealing.deal(self.root, found)
        every = list(dict.fromkeys(pair for some in dealt.values() for pair in some))
        sizes = self._sizes(every, problems)
        kept: dict[Split, list[Sized]] = {}
        for split, some in dealt.items():
            same = split == "test" and some is dealt["val"]
            kept[split] = (
                kept["val"] if same else [(pair, sizes[pair]) for pair in some if pair in sizes]
            )
        return kept, problems

    def decoded(self, files: list[Sized]) -> tuple[list[Sized], list[str]]:
        """Read some pairs of a split."""
        return decode(lambda sized: self.reading.layers(sized[0]), files)

    def make(self, split: Split, files: list[Sized]) -> ImageDataset:
        """The data set of a split; that of training is augmented."""
        augment = None
        if split == "train" and self.augment["train"] != "none":
            size, channels = self.framing.image_size, sum(self.colours)
            augment = Augment(self.augment["train"], size, channels)
        return PairedDataset(self.reading, self.framing, files, augment)

    @classmethod
    def write_toy(cls, root: Path) -> None:
        """Photographs of discs and maps of them: halves of a file, and files of class numbers."""
        toy.write_halves(root)
        toy.write_aerial(root)

    def _check(self) -> None:
        patterns = {"target": self.target}
        if self.origin == "file":
            if not wildcards(self.source):
                raise UserError(
                    f"data.source={self.source} is neither one of {', '.join(OWN)} nor a pattern "
                    "of files: write * where their names differ"
                )
            patterns["source"] = self.source
            if wildcards(self.source) != wildcards(self.target) or (
                (SPLIT in self.source) != (SPLIT in self.target)
            ):
                raise UserError(
                    f"data.source={self.source} and data.target={self.target} need as many "
                    "wildcards each, and {split} both or none: a pair is told by what these stand "
                    "for"
                )
        elif self.palettes != (None, None):
            raise UserError(
                "data.source_palette and data.target_palette are for files of class numbers, and "
                f"with data.source={self.source} there are none"
            )
        self.dealing.check(patterns)
        if colours := colour_transforms(self.augment["train"]):
            raise UserError(
                f"data.augment.train: {', '.join(colours)} would change colours, and what a pair "
                "has to learn with them: use transforms that move pixels, such as the presets flip "
                "and dihedral"
            )

    def _sizes(self, found: list[Pair], problems: list[str]) -> dict[Pair, tuple[int, int]]:
        """Height and width of each pair that can be used."""
        names = list(dict.fromkeys(name for pair in found for name in pair))
        looks = dict(zip(names, look(self.root, names), strict=True))
        problems += [one for one in looks.values() if isinstance(one, str)]
        result: dict[Pair, tuple[int, int]] = {}
        for pair in found:
            source, target = (looks[name] for name in pair)
            if isinstance(source, str) or isinstance(target, str):
                continue
            size = (target.height, target.width)
            if self.origin in ("left", "right"):
                size = (target.height, target.width // 2)
            if (source.height, source.width) != (target.height, target.width):
                problems.append(
                    f"{self.root / pair.source}: is {source.height}x{source.width}, and its target "
                    f"{pair.target} {target.height}x{target.width}."
                )
            elif problem := self.framing.problem(*size):
                problems.append(f"{self.root / pair.target}: {problem}")
            else:
                result[pair] = size
        return result
