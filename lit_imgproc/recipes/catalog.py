"""Finds recipes and reads their headers. Text only: torch is never imported here."""

from pathlib import Path
from typing import Any

from lit_imgproc.errors import UserError
from lit_imgproc.recipes import text
from lit_imgproc.recipes.registry import suggest

_PACKAGE = Path(__file__).resolve().parent.parent
SUFFIXES = (".yaml", ".yml")


def folders() -> list[Path]:
    """Where recipes lie: ``./experiments`` first, then those that came with the package.

    A wheel holds them inside the package, a source checkout beside it.
    """
    candidates = [Path("experiments"), _PACKAGE / "experiments", _PACKAGE.parent / "experiments"]
    found: dict[Path, Path] = {}
    for folder in candidates:
        if folder.is_dir():
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def names() -> dict[str, Path]:
    """Name -> file of every recipe, such as ``classification/resnet20_fashion_mnist``.

    ``base/`` holds what recipes extend, not recipes. A recipe of one's own hides a packaged one
    of the same name.
    """
    found: dict[str, Path] = {}
    for folder in folders():
        for file in sorted(folder.rglob("*.yaml")):
            name = file.relative_to(folder).with_suffix("").as_posix()
            if not name.startswith("base/"):
                found.setdefault(name, file)
    return dict(sorted(found.items()))


def find(name_or_path: str | Path) -> Path:
    """The file of a recipe, given by name or as a path that ends in ``.yaml``.

    Raises:
        UserError: where there is none, with the nearest names.
    """
    given = str(name_or_path)
    if given.endswith(SUFFIXES):
        if not Path(given).is_file():
            raise UserError(f"{given}: there is no such file.")
        return Path(given)
    known = names()
    if given not in known:
        # A name without its folder is a likely slip: compare with the last parts too.
        last = {name.rpartition("/")[2]: name for name in known}
        hint = f"; did you mean {last[given]}?" if given in last else suggest(given, known)
        raise UserError(f"No recipe is called {given}{hint} `lit-imgproc list` shows them all.")
    return known[given]


def parent(file: Path, extends: str) -> Path:
    """The file that a recipe extends: relative to the recipe, or to the folders of recipes.

    So a recipe of one's own, wherever it lies, can extend ``base/classification.yaml``.
    """
    candidates = [file.parent / extends, *(folder / extends for folder in folders())]
    return next((path for path in candidates if path.is_file()), candidates[0])


def headers() -> list[dict[str, Any]]:
    """Name, system, family, paper, expects and title of every recipe, from its ``recipe:`` block.

    The family is the folder; a recipe in no folder says its own. A file that cannot be read is
    listed with the reason as its title.
    """
    read: dict[Path, dict[str, Any]] = {}
    return [_row(name, _header(file, read)) for name, file in names().items()]


def _row(name: str, header: dict[str, Any]) -> dict[str, Any]:
    row = {key: header.get(key) for key in ("system", "family", "paper", "expects", "title")}
    family = name.rpartition("/")[0] or row["family"]
    return {"name": name} | row | {"family": family, "expects": row["expects"] or {}}


def _header(file: Path, read: dict[Path, dict[str, Any]]) -> dict[str, Any]:
    """The ``recipe:`` block of a file over those of the files it extends, each read once."""
    key = file.resolve()
    if key not in read:
        read[key] = {}  # For a recipe that extends itself: `check` says so, the list goes on.
        try:
            values, _, _ = text.read(file.read_bytes(), str(file))
        except (text.RecipeError, OSError) as error:
            values = {"recipe": {"title": str(error)}}
        values = values if isinstance(values, dict) else {}
        parents = values.get("extends") or []
        for extended in [parents] if isinstance(parents, str) else parents:
            read[key] = text.merge(read[key], _header(parent(file, str(extended)), read))
        if isinstance(own := values.get("recipe"), dict):
            read[key] = text.merge(read[key], own)
    return read[key]
