"""What is made of the bands of a raster: a choice of them, and spectral indices."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lit_imgproc.data.errors import DataError

Band = int | str
Index = Literal["ndvi", "ndwi", "mndwi", "ndbi", "ndmi", "nbr", "ndsi"]
Complex = Literal["refuse", "magnitude"]

# Normalized differences (a - b) / (a + b).
INDICES: dict[str, tuple[str, str]] = {
    "ndvi": ("nir", "red"),  # vegetation: Rouse et al., NASA SP-351, 1974
    "ndwi": ("green", "nir"),  # open water: McFeeters, Int. J. Remote Sensing 17(7), 1996
    "mndwi": ("green", "swir1"),  # open water: Xu, Int. J. Remote Sensing 27(14), 2006
    "ndbi": ("swir1", "nir"),  # built-up land: Zha et al., Int. J. Remote Sensing 24(3), 2003
    "ndmi": ("nir", "swir1"),  # water in leaves: Gao, Remote Sensing of Environment 58(3), 1996
    "nbr": ("nir", "swir2"),  # burnt ground: Key and Benson, USDA RMRS-GTR-164, 2006
    "ndsi": ("green", "swir1"),  # snow: Hall et al., Remote Sensing of Environment 54(2), 1995
}

SENTINEL_2 = {
    "blue": "b02",
    "green": "b03",
    "red": "b04",
    "nir": "b08",
    "swir1": "b11",
    "swir2": "b12",
}
"""What Sentinel-2 calls them; other bands are known by their own names only."""


@dataclass(frozen=True)
class Selection:
    """What is made of the bands of every raster of a data set.

    Args:
        bands: Numbers, from 1, or names of the bands to take, in this order; ``None`` takes all
            but an alpha channel.
        band_names: The names of the bands of the files, in their order, where the files themselves
            do not say.
        indices: Spectral indices that follow the bands; see :data:`INDICES`. They need bands of
            the names in the table or of Sentinel-2's, among those of the file.
        complex_values: Whether complex values, such as those of radar, are refused or their
            magnitude is taken.
    """

    bands: tuple[Band, ...] | None = None
    band_names: tuple[str, ...] | None = None
    indices: tuple[Index, ...] = ()
    complex_values: Complex = "refuse"

    @classmethod
    def of(
        cls,
        bands: Sequence[Band] | None,
        band_names: Sequence[str] | None,
        indices: Sequence[Index],
        complex_values: Complex = "refuse",
    ) -> "Selection":
        """One of lists, as recipes have them."""
        return cls(
            None if bands is None else tuple(bands),
            None if band_names is None else tuple(band_names),
            tuple(indices),
            complex_values,
        )

    def resolve(
        self, path: str, descriptions: Sequence[str | None], alpha: int | None
    ) -> tuple[list[int], list[str], list[tuple[int, int]]]:
        """What to read of a file.

        Args:
            path: For messages.
            descriptions: What the file says of each band.
            alpha: The number of its alpha channel, if it has one.

        Returns:
            The numbers of the bands to read; the names of the bands that are wanted, indices last
            (the first ``len(names) - len(indices)`` of the bands read are these, any others are
            for indices only); and for each index where its two bands are among those read.

        Raises:
            DataError: The file has no such band.
        """
        usable = [number + 1 for number in range(len(descriptions)) if number + 1 != alpha]
        names = [descriptions[number - 1] or f"band {number}" for number in usable]
        if self.band_names is not None:
            if len(self.band_names) != len(usable):
                raise DataError(
                    f"{path}: has {len(usable)} bands where data.band_names names "
                    f"{len(self.band_names)}."
                )
            names = list(self.band_names)
        known = {name.lower(): number for name, number in zip(names, usable, strict=True)}
        chosen = usable if self.bands is None else [_number(path, b, known) for b in self.bands]
        named = dict(zip(usable, names, strict=True))
        read, pairs = list(chosen), []
        for index in self.indices:
            pair = [_role(path, index, role, known) for role in INDICES[index]]
            read += [number for number in pair if number not in read]
            pairs.append((read.index(pair[0]), read.index(pair[1])))
        return read, [named[number] for number in chosen] + list(self.indices), pairs


EVERYTHING = Selection()


def normalized_difference(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float32]:
    """``(a - b) / (a + b)`` as float32, 0 where that is a division by zero."""
    a, b = a.astype(np.float32), b.astype(np.float32)
    total = a + b
    return np.asarray(np.divide(a - b, total, out=np.zeros_like(total), where=total != 0))


def _number(path: str, band: Band, known: dict[str, int]) -> int:
    if isinstance(band, str) and band.lower() in known:
        return known[band.lower()]
    if band in known.values():
        return int(band)
    have = ", ".join(known)
    raise DataError(f"{path}: has no band {band!r} (data.bands); it has {len(known)}: {have}.")


def _role(path: str, index: str, role: str, known: dict[str, int]) -> int:
    for name in (role, SENTINEL_2[role]):
        if name in known:
            return known[name]
    raise DataError(
        f"{path}: {index} needs a band named {role} or {SENTINEL_2[role]}; its bands are "
        f"{', '.join(known)}. Name them with data.band_names."
    )
