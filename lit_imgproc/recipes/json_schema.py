"""The JSON schema of recipes: completion and checks in editors that know YAML language servers."""

import inspect
import re
from typing import Any, get_args

from pydantic.errors import PydanticInvalidForJsonSchema

from lit_imgproc.recipes.registry import TABLES, kind_of, names, resolve
from lit_imgproc.recipes.schema import Recipe, trainer_parameters
from lit_imgproc.recipes.signature import Parameter, Parameters, adapter, members, parameters

_REFERENCE = {"type": "string", "pattern": r"\$\{"}


def json_schema() -> dict[str, Any]:
    """The schema of a recipe file, from the signatures of everything in the registry.

    Nothing is required, because a file may extend another one; `schema.validate` requires.
    """
    definitions: dict[str, Any] = {}
    for kind in TABLES:
        for name in names(kind):
            target = resolve(kind, name)
            block = _block(parameters(target), _documented(target))
            block["properties"] = {"name": {"const": name}, **block["properties"]}
            definitions[f"{kind}.{name}"] = block
        own = {"type": "object", "properties": {"name": {"type": "string", "pattern": ":"}}}
        own |= {"required": ["name"]}
        short = [{"$ref": f"#/$defs/{kind}.{name}"} for name in names(kind)]
        definitions[kind] = {"anyOf": [*short, own]}
    top = _block(parameters(Recipe), {})
    top["properties"] |= {
        "model": {"$ref": "#/$defs/module"},
        "data": {"$ref": "#/$defs/datamodule"},
        "trainer": _block(trainer_parameters(), {}),
        "callbacks": {
            "type": "object",
            "properties": {
                name: {"anyOf": [{"$ref": f"#/$defs/callback.{name}"}, {"type": "null"}]}
                for name in names("callback")
            },
            "additionalProperties": {"anyOf": [{"$ref": "#/$defs/callback"}, {"type": "null"}]},
        },
    }
    heading = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A lit_imgproc recipe",
    }
    return heading | top | {"$defs": definitions}


def _block(known: Parameters, documented: dict[str, str]) -> dict[str, Any]:
    properties = {name: _value(parameter) for name, parameter in known.items()}
    for name in documented.keys() & properties.keys():
        properties[name] = properties[name] | {"description": documented[name]}
    block: dict[str, Any] = {"type": "object", "properties": properties}
    if "" in documented:
        block["description"] = documented[""]
    return block | {"additionalProperties": known.open}


def _value(parameter: Parameter) -> dict[str, Any]:
    choices: list[dict[str, Any]] = []
    if parameter.kind:
        choices.append({"$ref": f"#/$defs/{parameter.kind}"})
    if parameter.structure:
        choices.append(_block(parameters(parameter.structure), {}))
    if parameter.structures:
        inner = _block(parameters(parameter.structures), {})
        choices.append({"type": "object", "additionalProperties": inner})
    built = (parameter.structure, parameter.structures)
    for member in members(parameter.annotation):
        if kind_of(member) or any(b and b in (member, *get_args(member)) for b in built):
            continue
        try:
            choices.append(adapter(member).json_schema())
        except PydanticInvalidForJsonSchema:
            continue  # An object that only Python can give.
    return {} if {} in choices else {"anyOf": [*choices, _REFERENCE]}


def _documented(target: Any) -> dict[str, str]:
    """The first line of a docstring under ``""``, and what its ``Args:`` say of each parameter.

    What a class hands on to its base is told there.
    """
    found: dict[str, str] = {}
    for one in reversed(inspect.getmro(target) if isinstance(target, type) else [target]):
        text = inspect.cleandoc(one.__doc__ or "")
        found[""] = text.partition("\n")[0]
        section = re.search(r"^(?:Args|Attributes):\n((?:[ \t]+.*\n?|\n)+)", text, re.MULTILINE)
        for entry in re.split(r"^ {4}(?=\S)", section[1] if section else "", flags=re.MULTILINE)[
            1:
        ]:
            name, _, words = entry.partition(":")
            found[name.partition(" ")[0]] = " ".join(words.split())
    return found
