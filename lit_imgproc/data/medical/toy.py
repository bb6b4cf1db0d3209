"""Small drawn medical data sets in the real on-disk formats, always the same values."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_imgproc.extras import require

CASES = 12
ORIENTATIONS = ("RAS", "LPS", "ARI", "SLP")
SPACINGS = ((1.0, 1.0, 1.0), (0.8, 1.0, 1.5))


def write_volumes(root: Path) -> None:
    """12 volumes of 24 to 32 voxels a side, in the layout of the Medical Segmentation Decathlon.

    A bright ellipsoid (class 1) holds a brighter one (class 2), in values like Hounsfield units,
    stored in several orientations and spacings, in files that are packed and not.
    """
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    training = []
    for number in range(CASES):
        image, label = _ellipsoids(random)
        name = f"toy_{number:03d}.nii" + (".gz" if number % 3 else "")
        _write(root / "imagesTr" / name, image, number)
        _write(root / "labelsTr" / name, label, number)
        training.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    content = {
        "name": "Toy",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "shell", "2": "core"},
        "numTraining": CASES,
        "training": training,
    }
    (root / "dataset.json").write_text(json.dumps(content, indent=1), "utf-8")


def write_images(root: Path) -> None:
    """48 DICOM images of 24 patients, 48x40 pixels, with or without a bright disc."""
    root.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    lines = ["path,label,patient"]
    for number in range(48):
        label = ("clear", "nodule")[number // 2 % 2]
        values = random.normal(-700, 60, (48, 40))
        if label == "nodule":
            y, x = random.integers(10, 30, 2).tolist()
            values[_far(48, 40, y, x) < 6] += 600
        patient, name = f"patient{number // 2:02d}", f"image{number:02d}.dcm"
        image = dicom_slice(values.astype(np.int16), [0.0, 0.0, 0.0], "1.2.3", patient)
        image.save_as(root / name, enforce_file_format=True)
        lines.append(f"{name},{label},{patient}")
    (root / "index.csv").write_text("\n".join(lines) + "\n", "utf-8")


def dicom_slice(values: NDArray[np.int16], position: list[float], series: str, patient: str) -> Any:
    """A pydicom data set of one CT slice: 12 bits, rescaled by -1024, 0.5 mm pixels."""
    pydicom = require("pydicom", "medical")
    uid = require("pydicom.uid", "medical")
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID = uid.CTImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dataset = pydicom.Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID, dataset.SOPInstanceUID = uid.CTImageStorage, "1.2.3.4"
    dataset.Modality, dataset.PatientID, dataset.SeriesInstanceUID = "CT", patient, series
    dataset.ImagePositionPatient = position
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness = [0.5, 0.5], 2.5
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.WindowCenter, dataset.WindowWidth = 40, 400
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.Rows, dataset.Columns = values.shape
    dataset.PixelData = (values.astype(np.int32) + 1024).clip(0, 4095).astype("<u2").tobytes()
    return dataset


def write_archive(
    path: Path,
    *,
    classes: int = 3,
    side: int = 28,
    channels: int = 1,
    depth: int = 0,
    several: bool = False,
) -> None:
    """A MedMNIST archive of drawn rings, a radius a class: 66, 22 and 22 images.

    Args:
        path: Of the ``.npz`` file.
        classes: How many.
        side: Height and width.
        channels: 1 for grey, 3 for RGB.
        depth: Of volumes, 0 for images.
        several: Whether an image has a column for each class.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    around = _far(side, side, side / 2 - 0.5, side / 2 - 0.5)
    arrays: dict[str, Any] = {}
    for split, count in (("train", 66), ("val", 22), ("test", 22)):
        labels = np.arange(count) % classes
        shape = (count, *((depth,) if depth else ()), side, side)
        images = random.integers(0, 60, shape).astype(np.uint8)
        for image, label in zip(images, labels.tolist(), strict=True):
            radius = 2 + (side / 2 - 4) * label / max(classes - 1, 1)
            image[..., np.abs(around - radius) < 0.8] = 220
        arrays[f"{split}_images"] = images if channels == 1 else np.stack([images] * channels, -1)
        columns = np.eye(classes)[labels] if several else labels[:, np.newaxis]
        arrays[f"{split}_labels"] = columns.astype(np.uint8)
    np.savez_compressed(path, **arrays)


def _far(height: int, width: int, y: float, x: float) -> NDArray[np.float64]:
    """How far each pixel is from a point."""
    return np.asarray(np.hypot(np.arange(height)[:, None] - y, np.arange(width) - x))


def _ellipsoids(
    random: np.random.Generator,
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    shape = tuple(random.integers(24, 33, 3).tolist())
    place = np.indices(shape).reshape(3, -1).T
    centre = np.divide(shape, 2) + random.uniform(-2, 2, 3)
    axes = random.uniform(6, 9, 3)
    far = np.linalg.norm((place - centre) / axes, axis=1).reshape(shape)
    label = ((far < 1).astype(np.uint8) + (far < 0.5)).astype(np.uint8)
    levels = np.array([-200.0, 60.0, 260.0])
    image = levels[label] + random.normal(0, 30, shape)
    return image.astype(np.int16), label


def _write(path: Path, values: NDArray[Any], number: int) -> None:
    """Store voxels whose axes run to right, front and top in another order."""
    nib = require("nibabel", "medical")
    affine = np.diag([*SPACINGS[number % len(SPACINGS)], 1.0])
    affine[:3, 3] = [-20, 5, 11]
    image = nib.Nifti1Image(values, affine)
    wanted = nib.orientations.axcodes2ornt(ORIENTATIONS[number % len(ORIENTATIONS)])
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), wanted)
    nib.save(image.as_reoriented(turn), path)
