"""Blocks of a recipe to objects, innermost first; and the facts of the data filled in."""

from typing import Any

from lit_imgproc.recipes.references import from_environment
from lit_imgproc.recipes.registry import resolve
from lit_imgproc.recipes.schema import FACTS
from lit_imgproc.recipes.signature import convert, parameters

STARTS = ("weights", "trunk_weights")
"""What a module calls the weights that it starts from."""


def build(block: dict[str, Any], kind: str) -> Any:
    """Make what a block describes: a module with its network, a callback, an optimizer, ….

    Args:
        block: a checked block with its ``name``. References to the environment are filled in here
            and nowhere earlier.
        kind: a key of ``registry.TABLES``.
    """
    block = from_environment(block)
    target = resolve(kind, block["name"])
    known = parameters(target)
    arguments: dict[str, Any] = {}
    for key, value in block.items():
        inner = known[key].kind if key in known else None
        if inner and isinstance(value, dict):
            arguments[key] = build(value, inner)
        elif key != "name":
            arguments[key] = convert(value, known.get(key))
    return target(**arguments)


def fill(block: dict[str, Any], kind: str, facts: dict[str, Any]) -> dict[str, Any]:
    """The block with parameters that it leaves unset filled with the facts of their names.

    Blocks within it are filled too. What a recipe sets stays; and where it sets ``weights`` or
    ``trunk_weights``, mean and std stay open, since those bring the normalization they were trained
    with.
    """
    known = parameters(resolve(kind, block["name"]))
    own = {"mean", "std"} if any(block.get(key) is not None for key in STARTS) else set()
    open_ = [k for k in known if k in FACTS and k in facts and k not in block and k not in own]
    filled = {
        key: fill(value, inner, facts)
        if isinstance(value, dict) and key in known and (inner := known[key].kind)
        else value
        for key, value in block.items()
    }
    return filled | {key: facts[key] for key in open_}


def untrained(block: dict[str, Any]) -> dict[str, Any]:
    """The block of a module without the weights that it starts from."""
    return block | {key: None for key in STARTS if key in block}
