"""Window and level: from the values of a modality to [0, 1].

Formulas of DICOM PS3.3, C.11.2.1.2 and C.11.2.1.3. A window that a recipe gives is DICOM's
``LINEAR_EXACT``, which is also MONAI's ``ScaleIntensityRange`` from ``center - width / 2`` to
``center + width / 2``. One that a file gives is what the file says it is, by default ``LINEAR``:
``center - 0.5`` and ``width - 1`` take the places of ``center`` and ``width``.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lit_imgproc.data.medical.scan import Array

Window = tuple[float, float]
"""Center and width, in values of the modality, such as Hounsfield units."""


@dataclass(frozen=True)
class Voi:
    """How values are to be shown.

    Args:
        function: One of DICOM's three, or ``LUT``.
        center: Of the window.
        width: Of the window.
        table: Of a lookup table, the values in [0, 1] and the value that the first of them is for.
    """

    function: Literal["LINEAR", "LINEAR_EXACT", "SIGMOID", "LUT"]
    center: float = 0.0
    width: float = 1.0
    table: tuple[tuple[float, ...], float] | None = None

    def __call__(self, values: Array) -> NDArray[np.float32]:
        """Bring values of any shape to [0, 1]."""
        values = np.asarray(values, np.float64)
        if self.table is not None:
            entries, first = np.asarray(self.table[0]), self.table[1]
            index = np.clip(np.round(values - first), 0, len(entries) - 1).astype(np.intp)
            return entries[index].astype(np.float32)
        if self.function == "SIGMOID":
            with np.errstate(over="ignore"):
                shown = 1 / (1 + np.exp(-4 * (values - self.center) / self.width))
        elif self.function == "LINEAR":
            shown = (values - (self.center - 0.5)) / max(self.width - 1, 1e-12) + 0.5
        else:
            shown = (values - (self.center - self.width / 2)) / self.width
        return np.clip(shown, 0, 1).astype(np.float32)


def voi_of(dataset: Any, frame: int = 0) -> Voi | None:
    """The first way to be shown that a pydicom data set gives, a lookup table before a window."""
    holder = _holder(dataset, frame)
    if tables := dataset.get("VOILUTSequence"):
        count, first, bits = (int(value) for value in tables[0].LUTDescriptor)
        if int(dataset.get("PixelRepresentation", 0)) == 1 and first >= 2**15:
            first -= 2**16  # a signed number that the file's VR could not say
        entries = np.asarray(_numbers(tables[0].LUTData, bits), np.float64)[: count or 2**16]
        return Voi("LUT", table=(tuple((entries / (2**bits - 1)).tolist()), float(first)))
    center, width = (_first(holder.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if center is None or width is None or width <= 0:
        return None
    function = str(holder.get("VOILUTFunction", "") or "LINEAR").upper()
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        function = "LINEAR"
    return Voi(function, center, width)  # type: ignore[arg-type]  # it was looked up just now


def _holder(dataset: Any, frame: int) -> Any:
    """What holds the window of a frame."""
    for name, index in (
        ("PerFrameFunctionalGroupsSequence", frame),
        ("SharedFunctionalGroupsSequence", 0),
    ):
        for group in (dataset.get(name) or [])[index : index + 1]:
            if found := group.get("FrameVOILUTSequence"):
                return found[0]
    return dataset


def _numbers(data: Any, bits: int) -> Any:
    if isinstance(data, bytes):
        return np.frombuffer(data, np.uint16 if bits > 8 else np.uint8)
    return data


def _first(value: Any) -> float | None:
    if value is None or value == "":
        return None
    return (
        float(value[0])
        if isinstance(value, list | tuple) or hasattr(value, "append")
        else (float(value))
    )
