"""Many strings at the memory of their letters."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import overload

import numpy as np

KEPT = "surrogateescape"
"""What is not UTF-8 in the name of a file is kept as it is."""


class Names(Sequence[str]):
    """Strings that cannot change, in one buffer.

    A list of them would be an object a string, and workers that are forked from this process would
    each come to hold a copy of it all: Python counts references inside the objects, and a page of
    memory that is written to is a worker's own from then on.

    Args:
        names: The strings, in order.
    """

    def __init__(self, names: Iterable[str]) -> None:
        encoded = [name.encode("utf-8", KEPT) for name in names]
        self._bytes = b"".join(encoded)
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "Names": ...
    def __getitem__(self, index: int | slice) -> "str | Names":
        if isinstance(index, slice):
            return Names(self[number] for number in range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(f"there are {len(self)} names, and no number {index}")
        index %= len(self)
        return self._bytes[self._ends[index] : self._ends[index + 1]].decode("utf-8", KEPT)

    def __iter__(self) -> Iterator[str]:
        ends = self._ends.tolist()
        for start, end in pairwise(ends):
            yield self._bytes[start:end].decode("utf-8", KEPT)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Names):
            return self._bytes == other._bytes and np.array_equal(self._ends, other._ends)
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Names({list(self[:3])}{' …' if len(self) > 3 else ''}, {len(self)} in all)"
