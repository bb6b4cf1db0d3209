"""``${a.b}`` and ``${oc.env:NAME,default}`` in recipes, by OmegaConf."""

import os
import re
from collections.abc import Callable
from typing import Any

from lit_imgproc.recipes.text import KeyPath, Mistake, RecipeError

_RESOLVER = re.compile(r"\$\{\s*([\w.]+)\s*:")
_ENV = re.compile(r"\$\{\s*oc\.env\s*:")
_PLAIN_ENV = re.compile(r"\$\{oc\.env:\w+(,[\w./:@-]*)?\}")


def resolve(values: Any, *, environment: bool) -> tuple[Any, list[Mistake]]:
    """Replace ``${a.b}``, and ``${oc.env:NAME,default}`` only where ``environment`` is true.

    Otherwise a reference to the environment stays a reference, also through chains: with
    ``a: x${b}`` and ``b: ${oc.env:KEY}``, ``a`` becomes ``x${oc.env:KEY}``.

    Returns:
        New values, and what could not be replaced; that stays as it was written.
    """
    text_of_all = str(values)
    if "${" not in (text_of_all if environment else _PLAIN_ENV.sub("", text_of_all)):
        return values, []  # OmegaConf takes longer to import than all else takes to do.
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    mistakes: dict[KeyPath, Mistake] = {}

    def refuse(path: KeyPath, text: str, sentence: str) -> str:
        mistakes[path] = Mistake(path, f"got {text}; {sentence}")
        return text

    def check(path: KeyPath, text: str) -> str:
        """The text for OmegaConf, with a resolver of ours in the place of its ``oc.env``."""
        text_for_tree = _ENV.sub("${lit_imgproc.env:", text)
        try:
            OmegaConf.create({"text": text_for_tree})
        except OmegaConfBaseException:
            refuse(path, text, "a reference is written ${a.b} or ${oc.env:NAME,default}")
        # Other resolvers could turn a reference to the environment into its value.
        if set(_RESOLVER.findall(text)) - {"oc.env"}:
            refuse(path, text, "only ${a.b} and ${oc.env:NAME,default} can be used")
        return "" if path in mistakes else text_for_tree

    def replace(path: KeyPath, text: str) -> Any:
        if "${" not in text or path in mistakes:
            return text
        try:
            node = tree
            for key in path:
                node = node[key]
            return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
        except (OmegaConfBaseException, RecursionError) as error:
            if unset := re.search(r"variable (\S+) is not set", str(error)):
                return refuse(path, text, f"the environment variable {unset[1]} is not set")
            circle = "ecursi" in str(error)
            return refuse(path, text, "it leads back to itself" if circle else "no such key")

    resolver = _variable if environment else _kept
    OmegaConf.register_resolver("lit_imgproc.env", resolver, replace=True)
    tree: Any = OmegaConf.create(_mapped(values, check))
    return _mapped(values, replace), list(mistakes.values())


def from_environment(values: Any) -> Any:
    """Fill in ``${oc.env:…}``: for use, never for a record.

    Raises:
        RecipeError: where a variable that has no default is not set.
    """
    result, mistakes = resolve(values, environment=True)
    if mistakes:
        raise RecipeError([f"{mistake.key}: {mistake.sentence}" for mistake in mistakes])
    return result


def _mapped(value: Any, change: Callable[[KeyPath, str], Any], path: KeyPath = ()) -> Any:
    """A copy with ``change`` applied to every string."""
    if isinstance(value, dict):
        return {key: _mapped(item, change, (*path, key)) for key, item in value.items()}
    if isinstance(value, list):
        return [_mapped(item, change, (*path, index)) for index, item in enumerate(value)]
    return change(path, value) if isinstance(value, str) else value


def _variable(name: str, default: Any = ...) -> str | None:
    value = os.environ.get(name, default)
    if value is ...:
        raise ValueError(f"variable {name} is not set")
    return None if value is None else str(value)


def _kept(name: str, default: Any = ...) -> str:
    if default is ...:
        return f"${{oc.env:{name}}}"
    plain = default is None or re.fullmatch(r"[\w./:@-]+", str(default))
    escaped = str(default).replace('"', '\\"')
    text = ("null" if default is None else str(default)) if plain else f'"{escaped}"'
    return f"${{oc.env:{name},{text}}}"
