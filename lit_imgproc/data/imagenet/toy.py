"""Small drawn data sets in the real on-disk formats, always the same bytes' worth of pixels."""

import gzip
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lit_imgproc.data.imagenet.known import CIFAR_FOLDER, CIFAR_TRAIN, DIGITS_FILE, Arrays

SHAPES = ("disc", "ring", "square")


def write_idx_set(root: Path) -> None:
    """200 training and 50 test images in the four files of MNIST and Fashion-MNIST."""
    root.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for split, count in (("train", 200), ("t10k", 50)):
        images, labels = _rings(random, count, side=28, channels=1)
        _write_idx(root / f"{split}-images-idx3-ubyte.gz", images[..., 0])
        _write_idx(root / f"{split}-labels-idx1-ubyte.gz", labels.astype(np.uint8))


def write_cifar10(root: Path) -> None:
    """Five batches of 40 training images and one of 50 test images, as Python pickles."""
    folder = root / CIFAR_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for name, count in [*((name, 40) for name in CIFAR_TRAIN), ("test_batch", 50)]:
        images, labels = _rings(random, count, side=32, channels=3)
        rows = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(count, -1)
        batch = {"data": rows, "labels": labels.tolist()}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))


def write_digits(root: Path) -> None:
    """scikit-learn's first 300 digits."""
    from sklearn.datasets import load_digits

    root.mkdir(parents=True, exist_ok=True)
    table = np.column_stack(load_digits(return_X_y=True))[:300]
    lines = "".join(",".join(str(int(value)) for value in row) + "\n" for row in table)
    (root / DIGITS_FILE).write_bytes(gzip.compress(lines.encode(), mtime=0))


def write_folder(root: Path) -> None:
    """16 training, 4 validation and 8 test images of each of three shapes, 48x64 to 64x64."""
    random = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 4), ("test", 8)):
        for shape in SHAPES:
            folder = root / split / shape
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                suffix = ".png" if number % 2 else ".jpg"
                cv2.imwrite(str(folder / f"{shape}_{number}{suffix}"), _shape(random, shape))


def _rings(random: np.random.Generator, count: int, side: int, channels: int) -> Arrays:
    """Bright rings on a dark noisy ground; the radius grows with the class, mirroring keeps it."""
    labels = np.arange(count) % 10
    images = random.integers(0, 40, (count, side, side, channels), np.uint8)
    for image, label in zip(images, labels.tolist(), strict=True):
        centre = (side // 2 + random.integers(-1, 2, size=2)).tolist()
        colour = random.integers(160, 256, size=channels).tolist()
        cv2.circle(image, centre, radius=1 + label, color=colour, thickness=1)
    return Arrays(images, labels)


def _shape(random: np.random.Generator, shape: str) -> NDArray[np.uint8]:
    height = int(random.integers(48, 65))
    image = random.integers(0, 60, (height, 64, 3), np.uint8)
    x, y = (int(side / 2 + random.integers(-6, 7)) for side in (64, height))
    radius = int(random.integers(10, 18))
    colour: Any = random.integers(140, 256, size=3).tolist()
    if shape == "square":
        cv2.rectangle(image, (x - radius, y - radius), (x + radius, y + radius), colour, -1)
    else:
        cv2.circle(image, (x, y), radius, colour, thickness=3 if shape == "ring" else -1)
    return image


def _write_idx(path: Path, values: NDArray[np.uint8]) -> None:
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + values.tobytes(), mtime=0))
