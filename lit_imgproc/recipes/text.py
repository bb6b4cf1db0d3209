"""The text of recipes: YAML 1.2, the line of every key, one text over another, mistakes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from yaml import CSafeLoader

from lit_imgproc.errors import UserError

KeyPath = tuple[str | int, ...]


class RecipeError(UserError):
    """Everything that is wrong with a recipe, one line for each mistake."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = list(lines)
        super().__init__("\n".join(self.lines))


@dataclass(frozen=True)
class Mistake:
    """One thing that is wrong, and the key path where."""

    path: KeyPath
    sentence: str

    @property
    def key(self) -> str:
        """The path as it is written in an override."""
        return ".".join(map(str, self.path))


class _Loader(CSafeLoader):
    """Reads scalars as YAML 1.2 does: ``1e-4`` is a number, ``no`` and ``12:30`` are text."""

    yaml_implicit_resolvers = {}  # noqa: RUF012  (PyYAML's own class attribute)


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or YAML 1.2 would read as something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
for _tag, _pattern, _first in (
    ("null", re.compile(r"~|null|Null|NULL|"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"true|True|TRUE|false|False|FALSE"), list("tTfF")),
    ("int", re.compile(r"[-+]?[0-9]+|0x[0-9a-fA-F]+"), list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
):
    # The resolver matches from the start; the end must be said.
    _whole = re.compile(f"(?:{_pattern.pattern})$")
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _whole, _first)
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _whole, _first)
_Loader.add_constructor(
    "tag:yaml.org,2002:int",
    lambda loader, node: int(node.value, 16 if "x" in node.value else 10),
)


def read(source: bytes | str, label: str) -> tuple[Any, dict[KeyPath, int], list[KeyPath]]:
    """Parse one YAML document.

    Returns:
        The plain value, the line (from 1) of every key and list item, and the keys given twice.

    Raises:
        RecipeError: where the text is not YAML; the sentence begins with ``label`` and the line.
    """
    lines: dict[KeyPath, int] = {}
    twice: list[KeyPath] = []

    def construct(node: yaml.Node, path: KeyPath) -> Any:
        if len(path) > 50:
            raise yaml.YAMLError("nested too deep: does an anchor contain itself?")
        if isinstance(node, yaml.MappingNode):
            mapping: dict[str, Any] = {}
            for key_node, value_node in node.value:
                if not isinstance(key_node, yaml.ScalarNode):
                    raise yaml.MarkedYAMLError(
                        problem="a key must be text", problem_mark=key_node.start_mark
                    )
                key = key_node.value
                here = (*path, key)
                if key in mapping:
                    twice.append(here)
                lines[here] = key_node.start_mark.line + 1
                mapping[key] = construct(value_node, here)
            return mapping
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                lines[(*path, index)] = item.start_mark.line + 1
            return [construct(item, (*path, index)) for index, item in enumerate(node.value)]
        return loader.construct_object(node, deep=True)

    try:
        loader = _Loader(source)
        root = loader.get_single_node()
        return (None if root is None else construct(root, ())), lines, twice
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{label}:{mark.line + 1}" if mark else label
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise RecipeError([f"{where}: this is not valid YAML: {problem}"]) from None


def dump(value: Any) -> str:
    """Write plain data as YAML, in the order of its keys; `read` gives the same data back."""
    return yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, default_flow_style=None, allow_unicode=True,
        width=96,
    )  # fmt: skip


def merge(base: Any, top: Any, path: KeyPath = ()) -> Any:
    """``top`` over ``base``: blocks key by key, anything else replaced."""
    if not (isinstance(base, dict) and isinstance(top, dict)) or _renamed(base, top, path):
        return top
    return base | {key: merge(base.get(key), value, (*path, key)) for key, value in top.items()}


def _renamed(base: dict[str, Any], top: dict[str, Any], path: KeyPath) -> bool:
    path = path[1:] if path[:1] == ("toy",) else path
    if not path or path[0] in ("recipe", "tracking"):
        return False  # A `name` in there is a key like any other.
    old = base.get("name", path[1] if path[0] == "callbacks" and len(path) == 2 else None)
    return old is not None and top.get("name", old) != old
