"""Looks at what a training needs, a file for each part of it."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Check:
    """What was looked at, what was found, and what to do about it.

    A ``problem`` keeps something from working; a ``warning`` may, or makes it slow. What is ``ok``
    has advice only where there is a choice.
    """

    name: str
    status: Status
    found: str
    advice: str | None = None
