"""A bar that shows how far a verb is."""

from collections.abc import Iterable
from typing import Any


def progress(values: Iterable[Any], what: str, total: int | None) -> Iterable[Any]:
    """Pass values on, and count them on the terminal: of ``total``, where that is known."""
    from rich.progress import track

    return track(values, f"{what:>8}", total, transient=True)
