"""Augmentation: albumentations pipelines, by preset or spelled out, a function of a seed.

Albumentations keeps random generators of its own that repeat themselves in every worker and every
epoch. Here they are set before each call from the sample's seed (:mod:`lit_imgproc.data.order`).
"""

import difflib
import inspect
import random
from collections.abc import Callable
from typing import Annotated, Any, Literal

import albumentations as A
import numpy as np
from annotated_types import Predicate
from numpy.typing import NDArray

from lit_imgproc.data.crops import AveragedCrop, CropFirst
from lit_imgproc.data.decode import Encoded
from lit_imgproc.data.errors import DataError

Pixels = NDArray[Any]
Pipeline = list[A.BasicTransform | A.BaseCompose]

TRIES = 16
"""Seeds that a pipeline is tried with: a transform may be left to chance."""

IGNORE = 255
"""In a mask: what no class is asked of, such as what comes from outside the image."""


def _none(size: int, channels: int) -> Pipeline:
    """Nothing."""
    return []


def _flip(size: int, channels: int) -> Pipeline:
    """Mirror half of the images left to right."""
    return [A.HorizontalFlip(p=0.5)]


def _crop_flip(size: int, channels: int) -> Pipeline:
    """Pad with black by an eighth (4 pixels of 32), crop at random, mirror: arXiv:1512.03385."""
    return [
        A.Pad(round(size / 8), fill_mask=IGNORE),
        A.RandomCrop(size, size),
        A.HorizontalFlip(p=0.5),
    ]


def _crop_flip_erase(size: int, channels: int) -> Pipeline:
    """``crop_flip``, and random erasing of half of the images: arXiv:1708.04896."""
    return [*_crop_flip(size, channels), A.Erasing(scale=(0.02, 0.33), fill="random", p=0.5)]


def _random_resized_crop(size: int, channels: int) -> Pipeline:
    """8 to 100 % of the image at 3:4 to 4:3, and mirror, as on ImageNet: arXiv:1409.4842."""
    return [AveragedCrop((size, size), scale=(0.08, 1.0)), A.HorizontalFlip(p=0.5)]


def _shift(size: int, channels: int) -> Pipeline:
    """``crop_flip`` without mirroring: for digits and letters."""
    return [A.Pad(round(size / 8), fill_mask=IGNORE), A.RandomCrop(size, size)]


def _dihedral(size: int, channels: int) -> Pipeline:
    """One of the eight symmetries of the square: for what has no up and down, seen from above."""
    return [A.HorizontalFlip(p=0.5), A.RandomRotate90(p=1.0)]


def _strong(size: int, channels: int) -> Pipeline:
    """``crop_flip``, and one of many operations of random strength: TrivialAugment, 2103.10158."""
    operations = [
        A.NoOp(),
        A.Affine(shear={"x": (-30, 30)}, fill_mask=IGNORE, p=1.0),
        A.Affine(shear={"y": (-30, 30)}, fill_mask=IGNORE, p=1.0),
        A.Affine(translate_percent={"x": (-0.3, 0.3)}, fill_mask=IGNORE, p=1.0),
        A.Affine(translate_percent={"y": (-0.3, 0.3)}, fill_mask=IGNORE, p=1.0),
        A.Affine(rotate=(-60, 60), fill_mask=IGNORE, p=1.0),
        A.RandomBrightnessContrast((-0.6, 0.6), 0, p=1.0),
        A.RandomBrightnessContrast(0, (-0.6, 0.6), p=1.0),
        A.Posterize((2, 8), p=1.0),
        A.Solarize((0.3, 1.0), p=1.0),
        A.Sharpen(p=1.0),
        A.AutoContrast(p=1.0),
        A.Equalize(p=1.0),
    ]
    if channels == 3:
        operations.append(A.HueSaturationValue(0, (-100, 100), 0, p=1.0))
    return [*_crop_flip(size, channels), A.OneOf(operations, p=1.0)]


PRESETS: dict[str, Callable[[int, int], Pipeline]] = {
    "none": _none,
    "flip": _flip,
    "crop_flip": _crop_flip,
    "crop_flip_erase": _crop_flip_erase,
    "random_resized_crop": _random_resized_crop,
    "shift": _shift,
    "dihedral": _dihedral,
    "strong": _strong,
}

# A pipeline that begins with one of these chooses what part of the image it sees and how large.
RESIZERS = (
    A.RandomResizedCrop,
    A.RandomSizedCrop,
    A.RandomScale,
    A.Resize,
    A.SmallestMaxSize,
    A.LongestMaxSize,
)


class Augment:
    """A pipeline for images of one size and number of channels, seeded per call.

    Args:
        choice: The name of a preset, or a list of ``{name: <albumentations class>, **arguments}``.
            Compositions (``OneOf``, ``SomeOf``, …) take such a list as ``transforms``.
        size: Side of the images, in pixels.
        channels: Of the images.
        dtype: The images' sample type.
        highest: Value of a pixel, in images of floats.

    Raises:
        DataError: With one line for each mistake in ``choice``; or it cannot be used on such
            images. Many of albumentations' transforms cut floats to [0, 1] without a word.

    Attributes:
        resizes: Whether the pipeline wants the image as it was decoded, since it begins with a
            transform that crops or scales by itself; otherwise it wants it at ``size``.
    """

    def __init__(
        self,
        choice: str | list[dict[str, Any]],
        size: int,
        channels: int,
        dtype: type[np.generic] = np.uint8,
        highest: float = 1.0,
    ) -> None:
        if problems := check_augment({"train": choice}):
            raise DataError("\n".join(problems))
        if isinstance(choice, str):
            steps = PRESETS[choice](size, channels)
        else:
            steps = [_build(step) for step in choice]
        self.resizes = bool(steps) and isinstance(steps[0], RESIZERS)
        self._bits = np.random.PCG64(0)
        self._bits_state: Any = self._bits.state
        self._python = random.Random()
        self._steps = steps
        self._compose = A.Compose(steps)
        # One pair of generators for all steps, so that seeding a call is seeding two of them.
        self._compose.set_random_state(np.random.Generator(self._bits), self._python)
        self._crop_first = CropFirst(steps, self._python) if CropFirst.leads(steps) else None
        self._try(size, channels, np.dtype(dtype))
        if np.dtype(dtype).kind == "f" and highest > 1:
            self._try_values(np.full((size, size, channels), highest, dtype))

    def __call__(self, image: Pixels | Encoded, sample_seed: int) -> Pixels:
        """Augment one image ``[H,W,C]``, decoded or not yet, as ``sample_seed`` says."""
        self._seed(sample_seed)
        if self._crop_first is not None:
            return self._crop_first(image)
        if isinstance(image, Encoded):
            image = image.decode()
        result: Pixels = self._compose(image=image)["image"]
        return result

    def sample(
        self,
        sample_seed: int,
        *,
        image: Pixels,
        mask: NDArray[Any] | None = None,
        boxes: NDArray[np.float32] | None = None,
        masks: NDArray[np.uint8] | None = None,
    ) -> dict[str, Any]:
        """Augment an image and what belongs to its pixels together.

        Args:
            sample_seed: What to do, as for an image alone.
            image: ``[H,W,C]``.
            mask: Integers ``[H,W]``. The presets give 255, the class to ignore, to what comes from
                outside the image.
            boxes: ``[N,4]``, xyxy in pixels. They are cut at the edges of the image.
            masks: ``[N,H,W]`` of 0 and 1, one a box.

        Returns:
            What was given and, with boxes, ``kept``: int64, which of them are still in the image.
            ``boxes`` and ``masks`` hold those.
        """
        given: dict[str, Any] = {"image": image}
        if mask is not None:
            given["mask"] = mask
        if masks is not None and len(masks):
            given["masks"] = masks
        if boxes is not None:
            shares = boxes / _sides(image)
            given["bboxes"] = np.column_stack([shares, np.arange(len(boxes))]).astype(np.float32)
        self._seed(sample_seed)
        self._python.random()  # Compose draws whether to do anything at all
        # Without Compose, whose checks and conversions take longer than many a transform.
        for step in self._steps:
            given = step(**given)
            if boxes is not None:
                given["bboxes"] = _within(given["bboxes"], given["image"])
        found: dict[str, Any] = {"image": given["image"]}
        if mask is not None:
            found["mask"] = given["mask"].astype(mask.dtype, copy=False)
        if boxes is not None:
            found["kept"] = kept = given["bboxes"][:, 4].astype(np.int64)
            found["boxes"] = given["bboxes"][:, :4] * _sides(given["image"])
        if masks is not None:
            height, width = given["image"].shape[:2]
            moved = np.asarray(given.get("masks", ()), np.uint8).reshape(-1, height, width)
            moved = moved if boxes is None or len(kept) == len(moved) else moved[kept]
            found["masks"] = (moved == 1).view(np.uint8)
        return found

    def _seed(self, sample_seed: int) -> None:
        self._python.seed(sample_seed)
        # Setting the state costs a microsecond, a new generator seven.
        self._bits_state["state"]["state"] = sample_seed
        self._bits.state = self._bits_state

    def _try(self, size: int, channels: int, dtype: np.dtype[Any]) -> None:
        """Run once, so that what cannot work fails before training does."""
        image = np.zeros((size, size, channels), dtype)
        try:
            result = self(image, 0)
        except Exception as error:
            raise DataError(
                f"augment.train: fails on an image of {dtype} of shape {list(image.shape)}: {error}"
            ) from error
        if result.dtype != dtype or result.ndim != 3:
            raise DataError(
                f"augment.train: gives {result.dtype} of shape {list(result.shape)} where {dtype} "
                "[H,W,C] is needed; normalization and tensors belong to the module and the loader."
            )

    def _try_values(self, image: Pixels) -> None:
        """Look whether any of some seeds cuts all values of an image to [0, 1]."""
        if any(self(image, seed).max() <= 1 for seed in range(TRIES)):
            raise DataError(
                f"augment.train: cuts values to [0, 1], and those of these images reach "
                f"{image.max():g}: use transforms that move pixels, such as the presets flip, "
                "crop_flip, random_resized_crop and dihedral."
            )


def _sides(image: Pixels) -> NDArray[np.float32]:
    height, width = image.shape[:2]
    return np.array([width, height, width, height], np.float32)


def _within(boxes: Any, image: Pixels) -> NDArray[np.float32]:
    """Boxes ``[N,5]``, shares of the sides and a number, cut at the edges; if a pixel is left."""
    rows = np.asarray(boxes, np.float32).reshape(-1, 5)
    rows[:, :4] = rows[:, :4].clip(0, 1)
    extents = (rows[:, 2:4] - rows[:, :2]) * _sides(image)[:2]
    return rows[(extents >= 1).all(1)]


def check_augment(value: dict[str, Any]) -> list[str]:
    """Every mistake in an ``augment`` setting, one sentence each; none if it is right."""
    choice = value.get("train", "none")
    problems = [f"augment.{key}: unknown key; allowed: train." for key in value if key != "train"]
    if isinstance(choice, str):
        if choice not in PRESETS:
            hint = _nearest(choice, PRESETS)
            allowed = ", ".join(PRESETS)
            problems.append(f"augment.train: {choice!r} is no preset{hint}; allowed: {allowed}.")
    elif isinstance(choice, list):
        for number, step in enumerate(choice):
            problems += _check_step(step, f"augment.train[{number}]")
    else:
        problems.append(f"augment.train: got {choice!r}; a preset or a list of transforms.")
    return problems


def _is_valid(value: dict[str, Any] | None) -> bool:
    """A predicate that says what is wrong, so that a schema can pass it on."""
    if value is not None and (problems := check_augment(value)):
        raise ValueError(" ".join(problems))
    return True


AugmentChoice = Annotated[
    dict[Literal["train"], str | list[dict[str, Any]]] | None, Predicate(_is_valid)
]


def _check_step(step: Any, where: str) -> list[str]:
    if not isinstance(step, dict) or not isinstance(step.get("name"), str):
        return [f"{where}: got {step!r}; a mapping with the `name` of a transform is needed."]
    name = step["name"]
    kinds = _transforms()
    if name not in kinds:
        return [f"{where}: albumentations has no transform {name!r}{_nearest(name, kinds)}."]
    allowed = set(inspect.signature(kinds[name]).parameters)
    problems = [
        f"{where}.{key}: {name} has no argument {key!r}{_nearest(key, allowed)}; "
        f"allowed: {', '.join(sorted(allowed))}."
        for key in step
        if key != "name" and key not in allowed
    ]
    inner = step.get("transforms", [])
    if not isinstance(inner, list):
        return [*problems, f"{where}.transforms: got {inner!r}; a list of transforms is needed."]
    for number, child in enumerate(inner):
        problems += _check_step(child, f"{where}.transforms[{number}]")
    if problems:
        return problems
    try:
        _build(step)
    except (TypeError, ValueError) as error:  # pydantic's ValidationError is a ValueError
        problems.append(f"{where}: {name}: {_sentence(error)}")
    return problems


def _build(step: dict[str, Any]) -> A.BasicTransform | A.BaseCompose:
    arguments = {key: value for key, value in step.items() if key != "name"}
    if "transforms" in arguments:
        arguments["transforms"] = [_build(child) for child in arguments["transforms"]]
    return _transforms()[step["name"]](**arguments)


def _transforms() -> dict[str, Any]:
    """What a recipe may name: albumentations' transforms and compositions of them."""
    return {
        name: kind
        for name, kind in vars(A).items()
        if inspect.isclass(kind)
        and issubclass(kind, A.BasicTransform | A.BaseCompose)
        and not inspect.isabstract(kind)
    }


def _nearest(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _sentence(error: Exception) -> str:
    """An error of pydantic's in one line without its web address, any other as it is."""
    errors = getattr(error.__cause__ or error, "errors", None)
    if errors is None:
        return str(error)
    return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in errors())
