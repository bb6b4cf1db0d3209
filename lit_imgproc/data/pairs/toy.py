"""Small drawn data sets in the real on-disk formats, always the same bytes' worth of pixels."""

import json
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

SIDE = 64
COUNTS = {"train": 16, "val": 4, "test": 4}
CLASSES = {"ground": "#3C6E32", "field": "#D2BE5A", "pond": "#3264BE"}
"""Names and colours, in the order of their numbers."""
GOLDEN, RED = (60, 190, 230), (50, 40, 200)
"""Of discs, as OpenCV has them: blue, green, red."""


class Scene(NamedTuple):
    """A photograph, blue, green and red, and the classes of its pixels ``[H,W]``."""

    photo: Pixels
    classes: Pixels


def write_halves(root: Path) -> None:
    """As pix2pix's data sets: photographs on the left of a file, maps on its right, JPEG."""
    for number, split in enumerate(COUNTS):
        random = np.random.default_rng(number)
        folder = root / split
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(1, COUNTS[split] + 1):
            scene = _scene(random, SIDE, SIDE)
            halves = np.concatenate([scene.photo, _colours()[scene.classes]], axis=1)
            cv2.imwrite(str(folder / f"{index}.jpg"), halves, (cv2.IMWRITE_JPEG_QUALITY, 95))


def write_aerial(root: Path) -> None:
    """As aerial photographs: ``images``, ``masks`` of class numbers, ``classes.json``.

    There are six tiles of two images each, of several sizes, larger than the halves.
    """
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    told = {"classes": list(CLASSES), "original_mask_rgb": CLASSES}
    (root / "classes.json").write_text(json.dumps(told, indent=1))
    random = np.random.default_rng(9)
    for tile in range(1, 7):
        height, width = (int(side) for side in random.integers(2 * SIDE, 3 * SIDE, 2))
        for index in (1, 2):
            scene = _scene(random, height, width)
            name = f"t{tile}_{index:03}"
            cv2.imwrite(str(root / f"images/{name}.jpg"), scene.photo)
            cv2.imwrite(str(root / f"masks/{name}.png"), scene.classes)


def write_domains(root: Path) -> None:
    """As CycleGAN's data sets: ``trainA``, ``trainB``, ``testA``, ``testB``; targets are more."""
    for number, (letter, colour, extra) in enumerate((("A", GOLDEN, 0), ("B", RED, 4))):
        random = np.random.default_rng(number)
        for split in ("train", "test"):
            folder = root / f"{split}{letter}"
            folder.mkdir(parents=True, exist_ok=True)
            for index in range(COUNTS[split] + extra):
                image = np.full((SIDE, SIDE + 8, 3), 245, np.uint8)
                _disc(random, image, np.array(colour))
                cv2.imwrite(str(folder / f"{index:03}.jpg"), image)


def _scene(random: np.random.Generator, height: int, width: int) -> Scene:
    """Discs of fields and ponds on ground, lit from above, with noise."""
    classes = np.zeros((height, width), np.uint8)
    for index in range(max(2, height * width // SIDE**2)):
        centre = [int(random.integers(side)) for side in (width, height)]
        radius = int(random.integers(SIDE // 8, SIDE // 3))
        cv2.circle(classes, centre, radius, 1 + index % 2, thickness=cv2.FILLED)
    light = np.linspace(1.1, 0.8, height)[:, np.newaxis, np.newaxis]
    noise = random.normal(0, 6, (height, width, 3))
    photo = np.clip(_colours()[classes] * light + noise, 0, 255).astype(np.uint8)
    return Scene(photo, classes)


def _disc(random: np.random.Generator, image: Pixels, colour: NDArray[np.int64]) -> None:
    """One disc somewhere near the middle, in about this colour."""
    height, width = image.shape[:2]
    centre = [int(side / 2 + random.integers(-6, 7)) for side in (width, height)]
    shade = np.clip(colour + random.integers(-15, 16, 3), 0, 255).tolist()
    cv2.circle(image, centre, int(random.integers(16, 24)), shade, cv2.FILLED, cv2.LINE_AA)


def _colours() -> Pixels:
    """Blue, green and red of each class."""
    return np.array([list(bytes.fromhex(one[1:]))[::-1] for one in CLASSES.values()], np.uint8)
