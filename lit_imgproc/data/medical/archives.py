"""The archives of MedMNIST v2: where they lie, their classes, and how they are read."""

import zipfile
import zlib
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lit_imgproc.data.base import Split
from lit_imgproc.data.errors import DataError
from lit_imgproc.data.imagenet.datasets import Labels

Kind = Literal["2d", "3d"]

URL = "https://zenodo.org/records/10519652/files/{name}.npz?download=1"

_ORGANS = (
    *("bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right", "liver"),
    *("lung-left", "lung-right", "pancreas", "spleen"),
)

CLASSES: dict[Kind, dict[str, tuple[str, ...]]] = {
    "2d": {
        "pathmnist": (
            *("adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle"),
            *("normal colon mucosa", "cancer-associated stroma"),
            "colorectal adenocarcinoma epithelium",
        ),
        "chestmnist": (
            *("atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule"),
            *("pneumonia", "pneumothorax", "consolidation", "edema", "emphysema", "fibrosis"),
            *("pleural", "hernia"),
        ),
        "dermamnist": (
            *("actinic keratoses and intraepithelial carcinoma", "basal cell carcinoma"),
            *("benign keratosis-like lesions", "dermatofibroma", "melanoma"),
            *("melanocytic nevi", "vascular lesions"),
        ),
        "octmnist": (
            *("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
        ),
        "pneumoniamnist": ("normal", "pneumonia"),
        "retinamnist": tuple("01234"),
        "breastmnist": ("malignant", "normal, benign"),
        "bloodmnist": (
            *("basophil", "eosinophil", "erythroblast"),
            "immature granulocytes(myelocytes, metamyelocytes and promyelocytes)",
            *("lymphocyte", "monocyte", "neutrophil", "platelet"),
        ),
        "tissuemnist": (
            *("Collecting Duct, Connecting Tubule", "Distal Convoluted Tubule"),
            *("Glomerular endothelial cells", "Interstitial endothelial cells", "Leukocytes"),
            *("Podocytes", "Proximal Tubule Segments", "Thick Ascending Limb"),
        ),
        "organamnist": _ORGANS,
        "organcmnist": _ORGANS,
        "organsmnist": _ORGANS,
    },
    "3d": {
        "organmnist3d": (
            *("liver", "kidney-right", "kidney-left", "femur-right", "femur-left", "bladder"),
            *("heart", "lung-right", "lung-left", "spleen", "pancreas"),
        ),
        "nodulemnist3d": ("benign", "malignant"),
        "adrenalmnist3d": ("normal", "hyperplasia"),
        "fracturemnist3d": (
            *("buckle rib fracture", "nondisplaced rib fracture", "displaced rib fracture"),
        ),
        "vesselmnist3d": ("vessel", "aneurysm"),
        "synapsemnist3d": ("inhibitory synapse", "excitatory synapse"),
    },
}
"""In the order of the labels."""

SPLITS: tuple[Split, ...] = ("train", "val", "test")
DAMAGED = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)


class Part(NamedTuple):
    """One split of an archive.

    Attributes:
        images: uint8 ``[N,H,W,C]``, or ``[N,D,H,W]`` of volumes.
        labels: int64 ``[N]``, or float32 ``[N,K]``.
        numbers: Where they stand in the archive.
    """

    images: NDArray[np.uint8]
    labels: Labels
    numbers: NDArray[np.intp]


class Archive(NamedTuple):
    """What an archive holds.

    Attributes:
        parts: Its splits.
        class_names: In the order of the labels.
    """

    parts: dict[Split, Part]
    class_names: list[str]


def read_archive(root: Path, dataset: str, size: int, kind: Kind) -> Archive:
    """Read ``<dataset>.npz`` or, of another size than 28, ``<dataset>_<size>.npz``.

    Args:
        root: Its folder.
        dataset: A set of MedMNIST, or a name of one's own.
        size: Side of its images.
        kind: ``2d`` or ``3d``.

    Raises:
        DataError: The file is missing, damaged or not of this form.
    """
    name = dataset if size == 28 else f"{dataset}_{size}"
    path = root / f"{name}.npz"
    if not path.is_file():
        where = f"download {URL.format(name=name)} to there" if dataset in CLASSES[kind] else ""
        known = ", ".join(CLASSES[kind])
        raise DataError(
            f"{path}: there is no such file; {where}."
            if where
            else f"{path}: there is no such file, and MedMNIST's {kind} sets are {known}."
        )
    try:
        with path.open("rb") as raw, np.load(raw) as file:
            keys = [f"{split}_{what}" for split in SPLITS for what in ("images", "labels")]
            if missing := [key for key in keys if key not in file.files]:
                raise DataError(f"{path}: has no {', no '.join(missing)}; it has {file.files}.")
            arrays = {key: file[key] for key in keys}
            written = file["class_names"].tolist() if "class_names" in file.files else None
    except DAMAGED as error:
        raise DataError(f"{path}: not an archive that can be read ({error}).") from error
    parts = {
        split: _part(arrays[f"{split}_images"], arrays[f"{split}_labels"], f"{path}: {split}", kind)
        for split in SPLITS
    }
    return Archive(parts, _class_names(parts, CLASSES[kind].get(dataset) or written, path))


def _part(images: Any, labels: Any, where: str, kind: Kind) -> Part:
    shaped = images
    if kind == "2d" and images.ndim == 3:
        shaped = images[..., np.newaxis]
    if images.dtype != np.uint8 or shaped.ndim != 4 or 0 in shaped.shape:
        raise DataError(
            f"{where}_images is {images.dtype} of shape {list(images.shape)}; 8-bit "
            f"{'volumes [N,D,H,W]' if kind == '3d' else 'images [N,H,W] or [N,H,W,3]'} are needed."
        )
    if kind == "2d" and shaped.shape[3] not in (1, 3):
        raise DataError(
            f"{where}_images has the shape {list(images.shape)}; volumes are for medmnist_3d."
        )
    if labels.ndim not in (1, 2) or len(labels) != len(images) or labels.dtype.kind not in "iub":
        raise DataError(
            f"{where}_labels is {labels.dtype} of shape {list(labels.shape)} for "
            f"{len(images)} images; integers [N,1] or [N,K] are needed."
        )
    several = labels.ndim == 2 and labels.shape[1] > 1
    numbers = np.arange(len(labels))
    if several:
        if labels.min() < 0 or labels.max() > 1:
            raise DataError(f"{where}_labels has several values a row that are not 0 or 1.")
        return Part(shaped, labels.astype(np.float32), numbers)
    return Part(shaped, labels.reshape(-1).astype(np.int64), numbers)


def _class_names(parts: dict[Split, Part], names: Any, path: Path) -> list[str]:
    """Of the set, of the archive, or the numbers of the training labels."""
    several = parts["train"].labels.ndim == 2
    if several:
        counts = {part.labels.shape[1:] for part in parts.values()}
        if len(counts) > 1:
            raise DataError(f"{path}: its splits have different numbers of labels.")
        highest = int(parts["train"].labels.shape[1])
    else:
        if any(part.labels.ndim == 2 for part in parts.values()):
            raise DataError(f"{path}: its splits have different numbers of labels.")
        highest = max(int(part.labels.max()) for part in parts.values()) + 1
    if names is None:
        names = [str(number) for number in range(highest)]
    if (several and len(names) != highest) or highest > len(names):
        raise DataError(f"{path}: has {highest} classes where {len(names)} are named.")
    return [str(name) for name in names]
