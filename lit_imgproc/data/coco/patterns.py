"""Files that a pattern stands for, as data sets lay out images beside masks."""

import re
from collections import defaultdict
from pathlib import Path

from lit_imgproc.data.base import Split
from lit_imgproc.data.coco.base import SPELLINGS
from lit_imgproc.data.coco.listing import list_folder

SPLIT = "{split}"
_TOKENS = re.compile(r"(\{split\}|\*\*/|\*\*|\*)")

Matches = dict[Split, dict[str, list[str]]]
"""By split and by what the wildcards stand for, the files; without ``{split}`` all is training."""


def wildcards(pattern: str) -> int:
    """How many of a pattern's parts stand for anything."""
    return sum(token.startswith("*") for token in _TOKENS.findall(pattern))


def find_matches(root: Path, pattern: str, suffixes: frozenset[str]) -> Matches:
    """The files of a folder that a pattern stands for.

    ``*`` is any name or part of one, ``**`` any folders, ``{split}`` one of :data:`SPELLINGS` in
    upper or lower case. What ``*`` at the end stands for is without suffix.

    Args:
        root: The folder.
        pattern: Relative to it.
        suffixes: Of the files, in lower case.
    """
    parts = pattern.split("/")
    fixed = next((n for n, part in enumerate(parts) if _TOKENS.search(part)), len(parts) - 1)
    expression, found = _compiled(pattern), defaultdict[Split, dict[str, list[str]]](dict)
    for name in list_folder(root, "/".join(parts[:fixed]), suffixes):
        if match := expression.fullmatch(name):
            groups = match.groupdict()
            word = (groups.pop("split", None) or "train").lower()
            split = next(split for split, words in SPELLINGS.items() if word in words)
            key = "/".join(part.strip("/") for part in groups.values() if part)
            found[split].setdefault(key, []).append(name)
    return dict(found)


def _compiled(pattern: str) -> re.Pattern[str]:
    words = "|".join(word for some in SPELLINGS.values() for word in some)
    expression, number, known = "", 0, False
    for token in _TOKENS.split(pattern):
        if token == SPLIT:
            expression += "(?P=split)" if known else f"(?P<split>(?i:{words}))"
            known = True
        elif token.startswith("*"):
            number += 1
            inside = {"*": "[^/]*", "**": ".*", "**/": "(?:[^/]+/)*"}[token]
            expression += f"(?P<w{number}>{inside})"
        else:
            expression += re.escape(token)
    return re.compile(expression + r"\.[^./]+" * pattern.endswith("*"))
