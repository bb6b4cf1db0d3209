"""What a run logs as plain data: one write, one line of JSON in its spool."""

import json
from collections import Counter
from typing import Any

Op = dict[str, Any]
"""One write, as plain data: ``op`` says which, ``time`` when, in milliseconds since 1970."""


def points(op: Op) -> dict[str, int]:
    """How many points of each key a write holds. Images count under ``image:KEY``."""
    match op["op"]:
        case "metrics":
            return dict.fromkeys(op["values"], 1)
        case "image":
            return {f"image:{op['key']}": 1}
        case "dropped":
            return dict(op["points"])
    return {}


def described(writes: Counter[str]) -> str:
    """Counted writes in words: ``1,204 points, 2 images, 1 artifact, 3 other writes``."""
    kinds = {"metrics": "point", "image": "image", "artifact": "artifact"}
    counted = [(writes[kind], word) for kind, word in kinds.items()]
    counted.append((sum(n for kind, n in writes.items() if kind not in kinds), "other write"))
    parts = [f"{n:,} {word}{'s' * (n != 1)}" for n, word in counted if n]
    return ", ".join(parts) or "nothing"


def weight(op: Op) -> int:
    """What a write counts in :attr:`Spool.waiting`."""
    return len(op["values"]) if op["op"] == "metrics" else 1


def parse(line: bytes) -> Op:
    """A line of a journal; ``damaged`` where a power cut left something else."""
    try:
        op = json.loads(line)
    except ValueError:
        op = None
    return op if isinstance(op, dict) and "op" in op else {"op": "damaged"}
