"""YOLO's text files: a line an object, in shares of the image's sides."""

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray

from lit_imgproc.data.base import BatchSize, DataError, NumWorkers, Split
from lit_imgproc.data.coco import toy
from lit_imgproc.data.coco.base import (
    SPELLINGS,
    AnnotatedData,
    Defects,
    Empty,
    Fit,
    Found,
    Fraction,
    Loading,
    ProposalCount,
    Side,
    Sides,
)
from lit_imgproc.data.coco.listing import Draft, list_folder
from lit_imgproc.data.coco.shapes import Size
from lit_imgproc.data.decode import IMAGE_SUFFIXES
from lit_imgproc.data.readable import OnError
from lit_imgproc.data.transforms import AugmentChoice


class YoloData(AnnotatedData):
    """YOLO's text files: a line is a class and a box, or a class and a polygon.

    A box is ``class x y width height`` with its centre, a polygon ``class x1 y1 x2 y2 …``; all are
    shares of the image's width and height. Labels lie where the images do, with the last folder
    ``images`` of their path being ``labels``. An image without a file of labels has no objects.

    ``config`` names the folders, or lists of files, of ``train``, ``val`` and ``test`` and the
    ``names`` of the classes, as Ultralytics has it. Without such a file, folders ``images/train``,
    ``images/val``, … are looked for, or ``train/images``, …; or ``images``, all of it.

    Example:
        >>> data = YoloData(root="data/cells", class_names=["RBC", "WBC", "Platelets"])

    Args:
        root: The folder of the data set.
        config: The YAML file in it.
        class_names: The names of the classes; ``None`` takes those of ``config``.
        target: See :class:`~lit_imgproc.data.coco.coco_json.CocoData`, as for the other arguments;
            ``instances`` and ``semantic`` are for polygons, and there are no ``captions``.
        image_size: Shorter side of the images that networks see, in pixels, or several.
        max_size: What the longer side must not exceed.
        resize: ``fit``, ``squash`` or ``none``.
        in_channels: 3 for RGB, 1 for grey.
        aspect_grouping: Whether a training batch is of images of like aspect ratio.
        defects: ``repair`` boxes that cannot be used as they are, or ``refuse`` them.
        empty: Whether training images without objects are kept, or dropped.
        val_fraction: Share of the images to hold out for validation where that is not given.
        test_fraction: Share of the images to hold out for testing where that is not given.
        proposals: How many boxes of selective search an image gets, for R-CNN and Fast R-CNN.
        augment: What training does, for example ``{"train": "flip"}``.
        batch_size: Images in a batch of one process.
        num_workers: Processes that load images; ``None`` goes by the CPUs of this rank.
        on_error: What happens to images that cannot be used: ``stop``, or ``skip`` them.
        seed: Seed of the order of the images and of their augmentations.

    Raises:
        DataError: When it is prepared, with one line for everything that is wrong.
    """

    def __init__(
        self,
        *,
        root: str,
        config: str = "data.yaml",
        class_names: list[str] | None = None,
        target: Literal["boxes", "instances", "semantic"] = "boxes",
        image_size: Sides = 640,
        max_size: Side = 1333,
        resize: Fit = "fit",
        in_channels: Literal[1, 3] = 3,
        aspect_grouping: bool = True,
        defects: Defects = "repair",
        empty: Empty = "keep",
        val_fraction: Fraction = 0.15,
        test_fraction: Fraction = 0.15,
        proposals: ProposalCount = None,
        augment: AugmentChoice = None,
        batch_size: BatchSize = 8,
        num_workers: NumWorkers = None,
        on_error: OnError = "stop",
        seed: int = 0,
    ) -> None:
        super().__init__(
            root=root,
            target=target,
            loading=Loading(
                image_size,
                max_size,
                resize,
                in_channels,
                aspect_grouping,
                defects,
                empty,
                val_fraction,
                test_fraction,
            ),
            proposals=proposals,
            augment=augment,
            batch_size=batch_size,
            num_workers=num_workers,
            on_error=on_error,
            seed=seed,
        )
        self.config, self.class_names = config, class_names

    def find(self) -> Found:
        """Read the configuration and the labels of all images."""
        path = self.root / self.config
        config = _load(path) if path.is_file() else {}
        names = self.class_names or _names(path, config)
        places = _given_places(self.root, config) if config else _usual_places(self.root)
        if "train" not in places:
            raise DataError(
                f"{self.root}: has neither {self.config} with `train` nor a folder images, "
                "images/train or train/images (data.config)."
            )
        drafts = {
            split: self._draft(_images(self.root, some, path), names)
            for split, some in places.items()
        }
        return Found(names, drafts)

    def _draft(self, images: list[str], names: list[str]) -> Draft:
        draft = Draft(self.root, shaped=self.target != "boxes")
        for name in images:
            draft.add_image(name)
        draft.probe()
        folders = {Path(name).parent.as_posix(): _label_folder(name) for name in images}
        labels = {
            Path(folder, path.stem).as_posix(): path
            for folder, place in folders.items()
            for path in sorted((self.root / place).glob("*.txt"))
        }
        for image, name in enumerate(images):
            path, size = labels.pop(Path(name).with_suffix("").as_posix(), None), draft.sizes[image]
            if path is not None and size is not None:
                self._add(draft, image, size, path, len(names))
        if labels:  # they may be of another split's images, which lie in the same folder
            files = [
                file
                for folder in folders
                for file in list_folder(self.root, folder, IMAGE_SUFFIXES)
            ]
            there = {Path(file).with_suffix("").as_posix() for file in files}
            draft.remarks += [
                f"{path}: there is no image of its name."
                for stem, path in labels.items()
                if stem not in there and path.name != "classes.txt"
            ]
        return draft

    def _add(self, draft: Draft, image: int, size: Size, path: Path, classes: int) -> None:
        try:
            lines = path.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            draft.problems[image].append(f"{path}: cannot be read ({error}).")
            return
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                label, points = _read_line(line, classes)
                if draft.shaped and len(points) == 2:
                    raise ValueError("is a box, and masks need polygons (data.target).")
            except ValueError as error:
                draft.problems[image].append(f"{path}:{number}: {error}")
                continue
            pixels = points * [size[1], size[0]]
            # Of a box, as they are told: a negative width stays one.
            corners = pixels if len(points) == 2 else np.stack([pixels.min(0), pixels.max(0)])
            left, top, right, bottom = corners.ravel().tolist()
            shape = [pixels.tobytes()]
            draft.add_object(
                image, (left, top, right, bottom), label, f"{path}:{number}", shape=shape
            )

    @classmethod
    def write_toy(cls, root: Path) -> None:
        """Discs and squares as polygons, in ``images`` and ``labels``, with ``data.yaml``."""
        toy.write_yolo(root)


def _read_line(line: str, classes: int) -> tuple[int, NDArray[np.float64]]:
    """The class and the points ``[P,2]`` of a line: two corners, or those of a polygon.

    Raises:
        ValueError: With the rest of a sentence.
    """
    words = line.split()
    try:
        label, values = int(words[0]), np.array([float(word) for word in words[1:]])
    except ValueError:
        raise ValueError(f"is no class and numbers: {line.strip()[:60]!r}.") from None
    if not 0 <= label < classes:
        raise ValueError(f"class {label} is none of the {classes} classes.")
    if not all(map(math.isfinite, values.tolist())):
        raise ValueError("has numbers that are not finite.")
    if len(values) == 4:
        centre, sides = values[:2], values[2:]
        return label, np.stack([centre - sides / 2, centre + sides / 2])
    if len(values) < 6 or len(values) % 2:
        raise ValueError(
            f"has {len(values)} numbers after the class; 4 are a box, 6, 8, … a polygon."
        )
    return label, values.reshape(-1, 2)


def _load(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(
            f"{path}: cannot be read as YAML ({str(error).splitlines()[0]})."
        ) from error
    if not isinstance(config, dict):
        raise DataError(f"{path}: must hold `train`, `val` and `names`.")
    return config


def _names(path: Path, config: dict[str, Any]) -> list[str]:
    """``names`` as a list or by number."""
    names = config.get("names")
    if isinstance(names, dict) and sorted(names) == list(range(len(names))):
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DataError(f"{path}: has no list of `names` of classes (data.class_names).")
    return [str(name) for name in names]


def _given_places(root: Path, config: dict[str, Any]) -> dict[Split, list[str]]:
    """The folders and lists that a configuration names, relative to the root."""
    base = str(config.get("path") or ".")
    # What the file says was true where it was written; here the folders lie beside it.
    base = base if not Path(base).is_absolute() and (root / base).is_dir() else "."
    found: dict[Split, list[str]] = {}
    for split, words in SPELLINGS.items():
        value = next((config[word] for word in words if config.get(word)), None)
        if value is not None:
            some = value if isinstance(value, list) else [value]
            # Roboflow writes ../train/images for the folder beside the file.
            found[split] = [Path(base, str(one).removeprefix("../")).as_posix() for one in some]
    return found


def _usual_places(root: Path) -> dict[Split, list[str]]:
    found: dict[Split, list[str]] = {}
    for split, words in SPELLINGS.items():
        places = [place for word in words for place in (f"images/{word}", f"{word}/images")]
        there = [place for place in places if (root / place).is_dir()]
        if there:
            found[split] = there
    if not found and (root / "images").is_dir():
        found["train"] = ["images"]
    return found


def _images(root: Path, places: list[str], config: Path) -> list[str]:
    """The images in folders, or in lists of files."""
    found: list[str] = []
    for place in places:
        path = root / place
        if path.is_dir():
            found += list_folder(root, place, IMAGE_SUFFIXES)
        elif path.is_file():
            try:
                lines = path.read_text("utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise DataError(f"{path}: cannot be read ({error}).") from error
            found += [Path(place).parent.joinpath(line).as_posix() for line in lines if line]
        else:
            raise DataError(f"{config}: there is no {path}.")
    if not found:
        raise DataError(f"{root}: there are no images in {', '.join(places)}.")
    return list(dict.fromkeys(found))


def _label_folder(image: str) -> str:
    """Where the labels of an image lie."""
    parts = list(Path(image).parent.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts).as_posix()
