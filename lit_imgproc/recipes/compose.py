"""Recipe text to plain values: ``extends:``, overrides, the ``toy:`` block, references."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_imgproc.recipes import catalog, references, registry
from lit_imgproc.recipes.text import KeyPath, Mistake, RecipeError, dump, merge, read

ORDER = ("recipe", "seed", "model", "data", "trainer", "callbacks", "tracking")
"""The keys of a composed recipe, in the order in which they are written."""


@dataclass(frozen=True)
class Composed:
    """One recipe after composition, before validation.

    Attributes:
        values: plain data. ``${a.b}`` is replaced; ``${oc.env:NAME}`` is kept as it is written,
            so that what is recorded of a run never holds a secret.
        sources: the files it was made from, the recipe itself first.
        origins: key path -> ``"file:line"`` or ``"override"``.
        mistakes: what composition found wrong; ``schema.validate`` reports them with its own.
    """

    values: dict[str, Any]
    sources: list[Path]
    origins: dict[KeyPath, str]
    mistakes: list[Mistake]

    def text(self) -> str:
        """The values as YAML; read as a recipe again, they compose to the same values."""
        return dump(self.values)

    def line(self, mistake: Mistake) -> str:
        """One mistake as one line: file and line, key path, sentence."""
        ends = range(len(mistake.path), 0, -1)
        origins = (self.origins.get(mistake.path[:end]) for end in ends)
        origin = next(filter(None, origins), _label(self.sources[0]))
        return f"{origin}: {mistake.key}: {mistake.sentence}" if mistake.path else mistake.sentence


def compose(
    name_or_path: str | Path, overrides: Sequence[str] = (), *, toy: bool = False
) -> Composed:
    """Read a recipe, what it extends and the overrides into one `Composed`.

    Later wins: the files of ``extends:`` in their order, the recipe, its ``toy:`` block where
    ``toy`` is true, the overrides. Blocks are merged key by key, lists are replaced, and a block
    whose ``name`` changes starts afresh: arguments of one class are not handed to another.

    Args:
        name_or_path: a name as in ``catalog.names``, or a path to a YAML file.
        overrides: such as ``"model.optimizer.lr=0.1"``; the value is YAML. Their order does not
            matter unless two set the same key.
        toy: make it small, by the ``toy:`` block.

    Raises:
        UserError: there is no such recipe.
        RecipeError: a file cannot be read or extends itself. Other mistakes are collected.
    """
    reader = _Reader()
    values = reader.file(catalog.find(name_or_path))
    layer, layer_origins = reader.overrides(overrides)
    small = merge(values.pop("toy", None), layer.pop("toy", {}), ("toy",))
    if toy and isinstance(small, dict):
        values = merge(values, small)
        of_toy = {p[1:]: origin for p, origin in reader.origins.items() if p[0] == "toy" and p[1:]}
        reader.origins |= of_toy
    values = merge(values, layer)
    reader.origins |= layer_origins
    values = {key: values[key] for key in (*ORDER, *values) if key in values}
    if isinstance(values.get("callbacks"), dict):
        values["callbacks"] = reader.callbacks(values["callbacks"])
    values, mistakes = references.resolve(values, environment=False)
    return Composed(values, reader.sources, reader.origins, reader.mistakes + mistakes)


class _Reader:
    """Collects the files, the place each key came from, and what is wrong with them."""

    def __init__(self) -> None:
        self.sources: list[Path] = []
        self.origins: dict[KeyPath, str] = {}
        self.mistakes: list[Mistake] = []

    def file(self, path: Path, below: tuple[Path, ...] = (), asked_at: str = "") -> dict[str, Any]:
        """One file over what it extends; ``below`` are the files that extend it."""
        label = _label(path)
        below = (*below, path.resolve())
        if below[-1] in below[:-1]:
            circle = " -> ".join(map(_label, below[below.index(below[-1]) :]))
            raise RecipeError([f"{asked_at}: extends: a recipe cannot extend itself: {circle}"])
        if path not in self.sources:
            self.sources.append(path)
        try:
            own, lines, twice = read(path.read_bytes(), label)
        except OSError as error:
            where = f"{asked_at}: extends" if asked_at else label
            raise RecipeError([f"{where}: {label} cannot be read: {error.strerror}"]) from None
        if not isinstance(own, dict):
            raise RecipeError([f"{label}: a recipe is a block of keys, such as `model:`"])
        parents = own.pop("extends", None) or []
        parents = [parents] if isinstance(parents, str) else parents
        extends = f"{label}:{lines.get(('extends',), 1)}"
        if not (isinstance(parents, list) and all(isinstance(p, str) for p in parents)):
            raise RecipeError([f"{extends}: extends: a path or a list of paths is needed"])
        values: dict[str, Any] = {}
        for parent in parents:
            values = merge(values, self.file(catalog.parent(path, parent), below, extends))
        if isinstance(own.get("toy"), dict):
            own["toy"] = _nested(own["toy"])
        self.origins |= {_undotted(path): f"{label}:{line}" for path, line in lines.items()}
        self.mistakes += [Mistake(p, "this key is given twice in one block") for p in twice]
        merged: dict[str, Any] = merge(values, own)
        return merged

    def overrides(self, overrides: Sequence[str]) -> tuple[dict[str, Any], dict[KeyPath, str]]:
        """All overrides as one layer, so that `a.name=x` and `a.size=1` agree in any order."""
        flat: dict[str, Any] = {}
        origins: dict[KeyPath, str] = {}
        for override in overrides:
            key, equals, value = override.partition("=")
            path = tuple(key.strip().split("."))
            if not equals or not all(path):
                sentence = f"got {override}; key=value is needed, such as trainer.max_epochs=3"
                self.mistakes.append(Mistake((), f"override: {sentence}"))
                continue
            try:
                flat[key.strip()], lines, _ = read(value, "")
            except RecipeError as error:
                _, _, sentence = error.lines[0].partition(": ")
                self.mistakes.append(Mistake(path, f"got {value}; {sentence}"))
                lines = {}
            origins |= {(*path, *rest): "override" for rest in ((), *lines)}
            for end in range(1, len(path)):
                self.origins.setdefault(path[:end], "override")
        return _nested(flat), origins

    def callbacks(self, blocks: dict[str, Any]) -> dict[str, Any]:
        """The blocks with their names written out, without those that null switches off."""
        known = registry.names("callback")
        for key in (key for key, block in blocks.items() if block is None):
            was_there = any(path[:2] == ("callbacks", key) and path[2:] for path in self.origins)
            if not was_there and key not in known:
                # A slip of the pen would leave the callback on that was meant.
                hint = registry.suggest(key, known)
                sentence = f"there is no such callback to switch off{hint}"
                self.mistakes.append(Mistake(("callbacks", key), sentence))
        return {
            key: {"name": key, **block} if isinstance(block, dict) else block
            for key, block in blocks.items()
            if block is not None
        }


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    """``{"a.b": 1}`` -> ``{"a": {"b": 1}}``."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *outer, last = key.split(".")
        block = nested
        for part in outer:
            if not isinstance(block.get(part), dict):
                block[part] = {}
            block = block[part]
        block[last] = merge(block.get(last), value)
    return nested


def _undotted(path: KeyPath) -> KeyPath:
    """The path of a dotted key in a ``toy:`` block, once `_nested`."""
    if path[0] != "toy" or len(path) == 1:
        return path
    return ("toy", *str(path[1]).split("."), *path[2:])


def _label(path: Path) -> str:
    path = path.resolve()
    folder = Path.cwd()
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)
