"""Which images are held out where a data set has no splits of its own.

The choice goes by the names alone: it is the same on every machine, in every run and for every
seed, and adding images hardly moves the others.
"""

import hashlib
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray


def held_out(
    names: Sequence[str], strata: Sequence[Hashable], fraction: float
) -> NDArray[np.bool_]:
    """Hold out the same share of every stratum.

    Within a stratum the images with the smallest SHA-256 of their names are held out. A stratum of
    two or more images gives at least one.

    Returns:
        Whether each image is held out.
    """
    members: dict[Hashable, list[tuple[bytes, int]]] = {}
    for index, (name, stratum) in enumerate(zip(names, strata, strict=True)):
        members.setdefault(stratum, []).append((_rank(name), index))
    chosen = np.zeros(len(names), np.bool_)
    for ranked in members.values():
        count = max(round(fraction * len(ranked)), 1) if len(ranked) > 1 else 0
        chosen[[index for _, index in sorted(ranked)[:count]]] = True
    return chosen


def held_out_groups(groups: Sequence[str], fraction: float) -> NDArray[np.bool_]:
    """Hold out whole groups, such as patients or tiles: as many as hold ``fraction`` of the images.

    Groups are taken by the SHA-256 of their names until the share is nearest. Of two or more groups
    at least one is held out and at least one is not.

    Returns:
        Whether each image is held out.
    """
    names, members = np.unique(np.asarray(groups, str), return_inverse=True)
    sizes = np.bincount(members, minlength=len(names))
    order = sorted(range(len(names)), key=lambda group: _rank(str(names[group])))
    taken = np.concatenate([[0], np.cumsum(sizes[order])])
    count = int(np.abs(taken - fraction * len(groups)).argmin())
    if len(names) > 1:
        count = min(max(count, 1), len(names) - 1)
    return np.isin(members, order[:count])


def _rank(name: str) -> bytes:
    # A file's name need not be UTF-8.
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
