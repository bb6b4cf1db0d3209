"""Sample types of rasters, and what fits into them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def as_stored(value: float, dtype: np.dtype[Any]) -> Any:
    """A nodata value as the file's sample type has it."""
    if dtype.kind in "iu":
        return value  # a value that the type does not have is nowhere
    # What a header writes down in decimal may lie a hair beyond the type's range.
    limits = np.finfo(dtype)
    return dtype.type(min(max(value, float(limits.min)), float(limits.max)))


def sample_type(name: str) -> np.dtype[Any]:
    """Numpy's type for one of rasterio's."""
    # Radar's integers in pairs have no type of numpy's.
    return np.dtype("complex64" if name == "complex_int16" else name)


def rounded(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Floating point values in a sample type; integers are the nearest that it has."""
    if dtype.kind not in "iu":
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    return np.asarray(np.rint(values).clip(limits.min, limits.max), dtype)


def holds(dtype: np.dtype[Any], value: float) -> bool:
    """Whether a sample type has a value."""
    if dtype.kind == "f":
        return True
    limits = np.iinfo(dtype)
    return float(value).is_integer() and limits.min <= value <= limits.max
