"""The files of known data sets: where they lie, how they are read and fetched."""

import gzip
import importlib
import pickle
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from lit_imgproc.data.base import DataError

CIFAR_FOLDER = "cifar-10-batches-py"
CIFAR_TRAIN = [f"data_batch_{number}" for number in range(1, 6)]
DIGITS_FILE = "digits.csv.gz"
FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
CIFAR_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


class Arrays(NamedTuple):
    """Images uint8 ``[N,H,W,C]`` and class indices int64 ``[N]``."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def read_idx_set(root: Path, name: str) -> tuple[Arrays, Arrays]:
    """The official training and test images of MNIST or Fashion-MNIST.

    The four idx files, packed with gzip or not, are looked for in ``root``, ``root/raw`` and
    torchvision's ``root/<name>/raw``, and downloaded to ``root`` if they are in none.

    Args:
        root: The folder of the data set.
        name: ``MNIST`` or ``FashionMNIST``, torchvision's names.

    Raises:
        DataError: Files are missing and cannot be downloaded, or they are damaged.
    """
    stems = [
        f"{split}-{kind}"
        for split in ("train", "t10k")
        for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
    ]
    folders = [root, root / "raw", root / name / "raw"]
    if (found := _find_idx(folders, stems)) is None:
        with _downloading(root):
            # Another process may have fetched the files while this one waited.
            if (found := _find_idx(folders, stems)) is None:
                _download_idx(root, name, stems)
                found = _find_idx([root], stems)
    assert found is not None
    images, labels, test_images, test_labels = (_read_idx(path) for path in found)
    for part, pixels, classes in (("train", images, labels), ("t10k", test_images, test_labels)):
        if pixels.ndim != 3 or classes.ndim != 1 or len(pixels) != len(classes):
            raise DataError(
                f"{found[0].parent}: the {part} images have shape {list(pixels.shape)} and "
                f"the labels {list(classes.shape)}; they do not belong together."
            )
    return (
        Arrays(images[..., np.newaxis], labels.astype(np.int64)),
        Arrays(test_images[..., np.newaxis], test_labels.astype(np.int64)),
    )


def read_cifar10(root: Path) -> tuple[Arrays, Arrays]:
    """The official training and test images of CIFAR-10, from its Python batches.

    They are looked for in ``root`` and ``root/cifar-10-batches-py``, and downloaded if they are in
    neither. The pickles are read by a loader that can make arrays and nothing else.

    Raises:
        DataError: Files are missing and cannot be downloaded, or they are damaged.
    """
    names = [*CIFAR_TRAIN, "test_batch"]
    folders = [root, root / CIFAR_FOLDER]
    if (folder := _holding(folders, names)) is None:
        with _downloading(root):
            if (folder := _holding(folders, names)) is None:
                _download_cifar10(root)
                folder = root / CIFAR_FOLDER
    batches = [_read_cifar_batch(folder / name) for name in names]
    train = Arrays(*(np.concatenate(part) for part in zip(*batches[:-1], strict=True)))
    return train, batches[-1]


def read_digits(root: Path | None) -> Arrays:
    """scikit-learn's 1,797 handwritten digits, 8x8, grey levels 0..16 scaled to 0..255.

    Args:
        root: A folder with a ``digits.csv.gz`` in scikit-learn's format (64 grey levels and the
            label a line), or ``None`` for the file that scikit-learn brings.

    Raises:
        DataError: ``root`` has no such file, or a damaged one.
    """
    if root is None:
        from sklearn.datasets import load_digits

        table = np.column_stack(load_digits(return_X_y=True))
    else:
        try:
            table = np.loadtxt(root / DIGITS_FILE, delimiter=",", ndmin=2)
        except (OSError, ValueError) as error:
            raise DataError(f"{root / DIGITS_FILE}: cannot be read ({error}).") from error
        if table.shape[1] != 65:
            raise DataError(f"{root / DIGITS_FILE}: has {table.shape[1]} columns instead of 65.")
    pixels = np.round(table[:, :-1] * (255 / 16)).astype(np.uint8)
    return Arrays(pixels.reshape(-1, 8, 8, 1), table[:, -1].astype(np.int64))


def _holding(folders: Iterable[Path], names: Iterable[str]) -> Path | None:
    """The first folder that has all the files."""
    wanted = list(names)
    return next((f for f in folders if all((f / name).is_file() for name in wanted)), None)


def _find_idx(folders: Iterable[Path], stems: list[str]) -> list[Path] | None:
    for folder in folders:
        for suffix in ("", ".gz"):
            if _holding([folder], [stem + suffix for stem in stems]):
                return [folder / (stem + suffix) for stem in stems]
    return None


def _read_idx(path: Path) -> NDArray[np.uint8]:
    """An idx file of unsigned bytes: two zeros, type, dimensions, sizes (big-endian), values."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if data[:3] != b"\0\0\x08":
            raise ValueError("it does not begin like an idx file of bytes")
        shape = np.frombuffer(data, ">u4", count=data[3], offset=4).astype(int)
        return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape).copy()
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise DataError(f"{path}: damaged or not an idx file: {error}.") from error


class _ArraysOnly(pickle.Unpickler):
    """Unpickles what CIFAR-10's batches hold; any other object is refused before it is made."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return importlib.import_module("numpy._core.multiarray")._reconstruct
        if (module, name) in {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}:
            return getattr(importlib.import_module(module), name)
        raise pickle.UnpicklingError(f"it holds a {module}.{name}")


def _read_cifar_batch(path: Path) -> Arrays:
    try:
        with path.open("rb") as file:
            batch = _ArraysOnly(file, encoding="latin1").load()
        images = np.asarray(batch["data"], np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        labels = np.asarray(batch["labels"], np.int64)
        if len(images) != len(labels):
            raise ValueError(f"{len(images)} images and {len(labels)} labels")
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: damaged or not a CIFAR-10 batch: {error}.") from error
    return Arrays(np.ascontiguousarray(images), labels)


def _downloading(root: Path) -> FileLock:
    """Held while files are fetched, so that the processes of one machine do it once."""
    root.mkdir(parents=True, exist_ok=True)
    return FileLock(root / ".download.lock")


def _download_idx(root: Path, name: str, stems: list[str]) -> None:
    import torchvision

    source = getattr(torchvision.datasets, name)
    files = [f"{stem}.gz" for stem in stems]
    for filename, md5 in source.resources:
        if not (root / filename).is_file():
            _download([mirror + filename for mirror in source.mirrors], root, md5, files)


def _download_cifar10(root: Path) -> None:
    import torchvision

    source = torchvision.datasets.CIFAR10
    _download([source.url], root, source.tgz_md5, [source.filename])
    with tarfile.open(root / source.filename) as archive:
        archive.extractall(root, filter="data")


def _download(urls: list[str], root: Path, md5: str, wanted: list[str]) -> None:
    """Fetch one file from the first address that gives it with the right checksum."""
    from torchvision.datasets.utils import download_url

    staging = root / ".download"  # what stops half-way never lies where it would be read
    reasons = []
    for url in urls:
        filename = url.rsplit("/", 1)[-1]
        try:
            download_url(url, staging, filename, md5)
            (staging / filename).replace(root / filename)
            return
        except (OSError, RuntimeError) as error:  # the network, or the checksum
            reasons.append(f"{url}: {error}")
    raise DataError(
        f"{root}: the data set is not here and could not be downloaded ({'; '.join(reasons)}); "
        f"put {', '.join(wanted)} there, or set data.root to the folder that has them."
    )
