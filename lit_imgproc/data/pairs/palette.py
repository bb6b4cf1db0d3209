"""Images of class numbers, painted in colours."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lit_imgproc.data.coco.labels import read_numbers
from lit_imgproc.data.errors import DataError
from lit_imgproc.data.transforms import IGNORE

_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")

Palette = str | list[str] | None
"""A JSON file, or ``#RRGGBB`` of each class number from 0."""


@dataclass(frozen=True)
class Paint:
    """The colour of each class number.

    Attributes:
        colours: uint8 ``[256,3]``; black where there is none.
        count: So many numbers, from 0, have one.
        setting: What told them, such as ``data.source_palette``.
    """

    colours: NDArray[np.uint8]
    count: int
    setting: str

    @classmethod
    def of(cls, palette: str | list[str], root: Path, setting: str) -> Self:
        """From a list of colours, or from a JSON file that has one.

        Raises:
            DataError: It has no colours.
        """
        told = palette if isinstance(palette, list) else _read(root / palette)
        if not 0 < len(told) < IGNORE or not all(
            isinstance(one, str) and _COLOUR.fullmatch(one) for one in told
        ):
            raise DataError(
                f"{setting}={palette}: a list of colours #RRGGBB is needed, one for each number "
                "from 0, or a JSON file in data.root that has one: see PairedImages."
            )
        colours = np.zeros((256, 3), np.uint8)
        colours[: len(told)] = [list(bytes.fromhex(one[1:])) for one in told]
        return cls(colours, len(told), setting)

    def read(self, path: str) -> NDArray[np.uint8]:
        """The class numbers of a file, ``[H,W]``; 255 is of no class.

        Raises:
            DataError: It cannot be read, or has numbers without colours.
        """
        numbers = read_numbers(path)
        there = np.flatnonzero(np.bincount(numbers.ravel())).tolist()
        if unknown := sorted({*there} - {*range(self.count), IGNORE}):
            raise DataError(
                f"{path}: has pixels of the values {unknown[:9]}, and {self.setting} has "
                f"{self.count} colours, of 0 to {self.count - 1}."
            )
        return numbers.astype(np.uint8)

    def __call__(self, numbers: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Paint numbers ``[H,W]``: RGB ``[H,W,3]``."""
        painted: NDArray[np.uint8] = self.colours[numbers]
        return painted


def _read(path: Path) -> list[Any]:
    """A list; or the colours by name, in the order of ``classes`` or else of the file."""
    try:
        told = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}).") from error
    if isinstance(told, dict):
        names = told.get("classes")
        tables = [told, *(one for one in told.values() if isinstance(one, dict))]
        for table in tables:
            if isinstance(names, list) and {*map(str, names)} <= table.keys():
                return [table[str(name)] for name in names]
        return [] if names is not None else list(told.values())
    return told if isinstance(told, list) else []
