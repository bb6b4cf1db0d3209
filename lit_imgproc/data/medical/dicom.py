"""DICOM files, read by pydicom: values as the modality means them, and where they lie."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lit_imgproc.data.errors import DataError
from lit_imgproc.data.medical.planes import Plane, distances, stack_affine
from lit_imgproc.data.medical.scan import MAX_VALUES, Array, Header, Scan
from lit_imgproc.data.medical.voi import Voi, voi_of
from lit_imgproc.extras import require

MARKER = b"DICM"
MARKER_AT = 128
COLOURS = 3

_QUIET = threading.Lock()


@contextmanager
def quiet() -> Iterator[None]:
    """Without pydicom's warnings, which are about attributes that nothing here depends on.

    Filters of warnings are of the whole process, so one thread at a time.
    """
    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def is_dicom(path: str | Path) -> bool:
    """Whether a file begins as a DICOM file does; their names often tell nothing."""
    try:
        with open(path, "rb") as file:
            return file.read(MARKER_AT + len(MARKER))[MARKER_AT:] == MARKER
    except OSError:
        return False


def read_dicom_header(path: str | Path) -> Header:
    """Read shape and affine alone.

    Raises:
        DataError: The file is missing, damaged or no image.
    """
    dataset = load(path, pixels=False)
    planes, _ = _planes(dataset, str(path))
    channels = COLOURS if _is_colour(dataset) else 1
    return Header(
        (channels, *_frames_shape(dataset, path)), stack_affine(planes, thickness(dataset))
    )


def read_dicom(path: str | Path) -> Scan:
    """Read a DICOM file of one frame or several.

    Compressed pixels are decoded, YBR becomes RGB and a palette the RGB values that it holds.
    Rescale slope and intercept and a modality lookup table count; window and level do not, they
    are in :func:`read_voi`. Overlays are not burnt in. Frames are in the order of their positions
    where the file gives one for each, otherwise as they are stored.

    Raises:
        DataError: The file is missing, damaged, no image or of a compression that cannot be read.
    """
    return scan_of(load(path), path)


def read_voi(path: str | Path, frame: int = 0) -> Voi | None:
    """How the file wants its values to be shown, ``None`` where it does not say."""
    return voi_of(load(path, pixels=False), frame)


def load(path: str | Path, *, pixels: bool = True) -> Any:
    """A pydicom data set, with the attributes that every image has.

    Args:
        path: The file.
        pixels: Whether its pixel data are to be read and there.

    Raises:
        DataError: The file is missing, damaged or no image.
    """
    pydicom = require("pydicom", "medical")
    try:
        with quiet():
            dataset = pydicom.dcmread(path, stop_before_pixels=not pixels)
            missing = [
                name
                for name in ("Rows", "Columns", "BitsAllocated", "PhotometricInterpretation")
                if dataset.get(name) in (None, "")
            ]
            for _ in dataset.iterall():  # what is damaged, or only warned of, comes up here
                pass
            if dataset.file_meta.get("TransferSyntaxUID") is None:
                missing.append("TransferSyntaxUID")
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file.") from error
    except pydicom.errors.InvalidDicomError as error:
        raise DataError(f"{path}: not a DICOM file.") from error
    except Exception as error:  # pydicom lets everything pass that its parser runs into
        raise DataError(f"{path}: not a DICOM file that can be read ({_line(error)}).") from error
    if missing:
        raise DataError(
            f"{path}: holds no image, or is cut short: it has no {' and no '.join(missing)}."
        )
    if pixels and not any(name in dataset for name in PIXELS):
        raise DataError(f"{path}: has no pixel data, or is cut short before them.")
    return dataset


PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def scan_of(dataset: Any, path: str | Path) -> Scan:
    """The image of a loaded file.

    Raises:
        DataError: Its pixels cannot be decoded.
    """
    frames = _frames_shape(dataset, path)
    stored = _pixels(dataset, path, frames)
    planes, order = _planes(dataset, str(path))
    if order is not None:
        stored = stored[:, order]
    mirror = None
    slope, intercept = 1.0, 0.0
    if not _is_colour(dataset):
        scales = [_rescale(dataset, frame, path) for frame in range(frames[0])]
        if "ModalityLUTSequence" in dataset:
            stored = _modality_lut(dataset, stored, path)
        elif len(set(scales)) == 1:
            slope, intercept = scales[0]
        else:
            rows = np.array(scales if order is None else [scales[k] for k in order])
            slopes, intercepts = rows[:, 0, None, None], rows[:, 1, None, None]
            stored = (stored * slopes + intercepts).astype(np.float32)
        mirror = _mirror(dataset, slope, intercept)
    return Scan(
        str(path),
        stored,
        stack_affine(planes, thickness(dataset)),
        slope,
        intercept,
        mirror,
        {
            "modality": str(dataset.get("Modality", "")),
            "patient": str(dataset.get("PatientID", "")),
            "series": str(dataset.get("SeriesInstanceUID", "")),
            "order": list(range(frames[0])) if order is None else order,
            "palette": dataset.PhotometricInterpretation == "PALETTE COLOR",
        },
    )


def plane_of(dataset: Any, frame: int = 0) -> Plane | None:
    """Where a frame lies in the patient, ``None`` where the file gives no position for it."""
    position = _attribute(dataset, frame, "PlanePositionSequence", "ImagePositionPatient")
    turn = _attribute(dataset, frame, "PlaneOrientationSequence", "ImageOrientationPatient")
    if position is None or turn is None or len(position) != 3 or len(turn) != 6:
        return None
    return Plane(
        tuple(float(value) for value in position),
        tuple(float(value) for value in turn),
        *_pixel_spacing(dataset, frame),
    )


def thickness(dataset: Any) -> float:
    """Millimetres from slice to slice where positions do not say, 1 where nothing does."""
    names = ["SliceThickness", "SpacingBetweenSlices"]
    if int(dataset.get("NumberOfFrames", 1) or 1) > 1:
        names.reverse()
    for name in names:
        found = _attribute(dataset, 0, "PixelMeasuresSequence", name)
        if found not in (None, "") and abs(float(found)) > 0:
            return abs(float(found))
    return 1.0


def _planes(dataset: Any, path: str) -> tuple[list[Plane], list[int] | None]:
    """The planes of all frames in the order of their positions, and that order.

    The order is ``None`` where frames are to stay as they are: a file of several segments or times
    has frames in the same place.
    """
    count = int(dataset.get("NumberOfFrames", 1) or 1)
    several = "PerFrameFunctionalGroupsSequence" in dataset or count == 1
    found = [plane_of(dataset, frame) for frame in range(count)] if several else []
    planes = [plane for plane in found if plane is not None]
    if len(planes) == count and len({plane.orientation for plane in planes}) == 1:
        along = distances(planes)
        order = sorted(range(count), key=lambda k: along[k])
        if len({round(distance, 3) for distance in along}) == count:
            return [planes[k] for k in order], order if order != sorted(order) else None
    first = planes[0] if planes else Plane.anywhere(*_pixel_spacing(dataset, 0))
    return [first.moved(thickness(dataset) * number) for number in range(count)], None


def _pixels(dataset: Any, path: str | Path, frames: tuple[int, int, int]) -> Array:
    """``[C,D,H,W]``."""
    pixels = require("pydicom.pixels", "medical")
    try:
        with quiet():
            array = dataset.pixel_array
            if dataset.PhotometricInterpretation == "PALETTE COLOR":
                array = pixels.apply_color_lut(array, dataset)
    except Exception as error:  # each decoder has errors of its own
        name = dataset.file_meta.TransferSyntaxUID.name
        raise DataError(f"{path}: its pixels ({name}) cannot be decoded: {_line(error)}") from error
    samples = COLOURS if _is_colour(dataset) else 1
    stored: Array = np.asarray(array).reshape(*frames, -1)[..., :samples]
    return stored.transpose(3, 0, 1, 2)


def _modality_lut(dataset: Any, stored: Array, path: str | Path) -> Array:
    pixels = require("pydicom.pixels", "medical")
    try:
        with quiet():
            values: Array = pixels.apply_modality_lut(stored, dataset)
    except Exception as error:
        raise DataError(
            f"{path}: its modality lookup table cannot be used: {_line(error)}"
        ) from error
    return values


def _rescale(dataset: Any, frame: int, path: str | Path) -> tuple[float, float]:
    slope, intercept = (
        _attribute(dataset, frame, "PixelValueTransformationSequence", name)
        for name in ("RescaleSlope", "RescaleIntercept")
    )
    found = (1.0 if slope in (None, "") else float(slope), float(intercept or 0))
    if found[0] == 0 or not np.isfinite(found).all():
        raise DataError(f"{path}: its rescale slope is {found[0]}, its intercept {found[1]}.")
    return found


def _mirror(dataset: Any, slope: float, intercept: float) -> float | None:
    if dataset.PhotometricInterpretation != "MONOCHROME1":
        return None
    bits = int(dataset.get("BitsStored", dataset.BitsAllocated))
    signed = int(dataset.get("PixelRepresentation", 0)) == 1
    lowest, highest = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return float(slope * (lowest + highest) + 2 * intercept)


def _frames_shape(dataset: Any, path: str | Path) -> tuple[int, int, int]:
    count = int(dataset.get("NumberOfFrames", 1) or 1)
    shape = (count, int(dataset.Rows), int(dataset.Columns))
    if min(shape) < 1 or np.prod(shape, dtype=np.int64) > MAX_VALUES:
        raise DataError(
            f"{path}: its header says {shape[0]} frames of {shape[1]}x{shape[2]} pixels; "
            "it is damaged."
        )
    return shape


def _is_colour(dataset: Any) -> bool:
    samples = int(dataset.get("SamplesPerPixel", 1) or 1)
    return samples > 1 or dataset.PhotometricInterpretation == "PALETTE COLOR"


def _pixel_spacing(dataset: Any, frame: int) -> tuple[float, float]:
    """Millimetres from row to row and from column to column, 1 where the file does not say."""
    for name in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        found = _attribute(dataset, frame, "PixelMeasuresSequence", name)
        if found is not None and len(found) == 2 and min(map(float, found)) > 0:
            return float(found[0]), float(found[1])
    return 1.0, 1.0


def _attribute(dataset: Any, frame: int, group: str, name: str) -> Any:
    """An attribute of a frame: its own, or one of all frames, or the file's."""
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    for groups in (per_frame[frame : frame + 1], shared[:1]):
        for one in groups:
            if one.get(group):
                found = one[group].value[0].get(name)
                if found is not None:
                    return found
    return dataset.get(name)


def _line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
