"""Constructors' signatures as data: what a block may hold, how to check it, how to say it."""

import inspect
import json
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import annotated_types as at
from pydantic import ConfigDict, TypeAdapter
from pydantic.errors import PydanticUserError

from lit_imgproc.recipes.registry import kind_of


@dataclass(frozen=True)
class Parameter:
    """One parameter of a constructor."""

    annotation: Any
    required: bool

    @property
    def kind(self) -> str | None:
        """The kind of block it takes: ``network`` for an ``nn.Module``."""
        return next(filter(None, map(kind_of, members(self.annotation))), None)

    @property
    def structure(self) -> Any:
        """The dataclass it takes as a block without a name, if any."""
        return next(
            (m for m in members(self.annotation) if is_dataclass(m) and not kind_of(m)), None
        )

    @property
    def structures(self) -> Any:
        """The dataclass of which it takes a mapping by free keys, if any."""
        mappings = (m for m in members(self.annotation) if get_origin(m) in (dict, Mapping))
        return next((get_args(m)[1] for m in mappings if is_dataclass(get_args(m)[1])), None)


class Parameters(dict[str, Parameter]):
    """The parameters of a constructor by name; ``open`` where it also takes any other keyword."""

    open = False


@cache
def parameters(target: Any) -> Parameters:
    """Read the signature of a class or function."""
    function = getattr(target, "__init__") if isinstance(target, type) else target  # noqa: B009
    signature = inspect.signature(target)
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError:  # A name for type checkers alone: such parameters are not checked.
        annotations = {name: p.annotation for name, p in signature.parameters.items()}
        hints = {name: a for name, a in annotations.items() if not isinstance(a, str)}
    found = Parameters()
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            found.open = True
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            found[name] = Parameter(hints.get(name, Any), parameter.default is parameter.empty)
    return found


@cache
def adapter(annotation: Any) -> TypeAdapter[Any]:
    """The pydantic validator of an annotation; classes it does not know are checked by instance."""
    try:
        return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError:
        try:
            return TypeAdapter(annotation)  # A TypedDict or dataclass takes no outer config.
        except PydanticUserError:
            return TypeAdapter(Any)  # A forward reference of another library.


def check(annotation: Any, value: Any, *, as_text: bool = False) -> None:
    """Check plain data; ``as_text`` for what came from the environment, where ``"8"`` may be 8.

    Raises:
        pydantic.ValidationError: it does not fit.
    """
    if as_text:
        adapter(annotation).validate_python(value)
    else:
        # As JSON, pydantic takes a list for a tuple and text for a path, and yet neither text for
        # a number nor a number for a switch.
        adapter(annotation).validate_json(json.dumps(value, default=str), strict=True)


def convert(value: Any, parameter: Parameter | None) -> Any:
    """A checked plain value as the constructor wants it: tuples, paths, numbers from text."""
    if parameter is None:
        return value
    if isinstance(value, dict) and parameter.structure:
        return construct(parameter.structure, value)
    return adapter(parameter.annotation).validate_python(value)


def construct(target: Any, block: dict[str, Any]) -> Any:
    """Call a constructor with the checked plain arguments of a block."""
    known = parameters(target)
    return target(**{key: convert(v, known.get(key)) for key, v in block.items() if key != "name"})


def describe(annotation: Any) -> str:
    """An annotation in words: ``Annotated[float, Gt(0)]`` -> ``a number greater than 0``."""
    if get_origin(annotation) is Annotated:
        inner, *constraints = get_args(annotation)
        return " ".join([describe(inner), " and ".join(_bounds(constraints))]).strip()
    alternatives = list(members(annotation))
    if len(alternatives) > 1:
        words = [describe(member) for member in alternatives if get_origin(member) is not Literal]
        words = [word for word in dict.fromkeys(words) if word != "null"]
        words += map(json.dumps, choices(annotation))
        words += ["null"] if types.NoneType in alternatives else []
        return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]
    origin, arguments = get_origin(annotation) or annotation, get_args(annotation)
    if origin is Literal:
        return ("one of " if len(arguments) > 1 else "") + ", ".join(map(json.dumps, arguments))
    if kind := kind_of(annotation):
        return f"a {kind} {{name: …}}"
    if origin in _WORDS:
        return _WORDS[origin]
    if origin is tuple and arguments and arguments[-1] is not ...:
        return f"a list of {len(arguments)} (each {describe(arguments[0])})"
    if is_dataclass(origin) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return "a block of keys"
    if hasattr(origin, "__iter__"):
        return f"a list (each {describe(arguments[0])})" if arguments else "a list"
    return f"a {getattr(origin, '__name__', origin)}"


_WORDS: dict[Any, str] = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "text",
    types.NoneType: "null",
    Any: "a value",
    object: "a value",
}


def choices(annotation: Any) -> list[Any]:
    """The values that the literals of an annotation allow."""
    literals = (member for member in members(annotation) if get_origin(member) is Literal)
    return [choice for literal in literals for choice in get_args(literal)]


def _bounds(constraints: list[Any]) -> Iterator[str]:
    words = {at.Gt: "greater than", at.Ge: "at least", at.Lt: "less than", at.Le: "at most"}
    for constraint in constraints:
        if isinstance(constraint, at.GroupedMetadata):
            yield from _bounds(list(constraint))
        for kind, word in words.items():
            if isinstance(constraint, kind):
                yield f"{word} {getattr(constraint, kind.__name__.lower()):g}"


def members(annotation: Any) -> Iterator[Any]:
    """The alternatives of a union, however nested, or the annotation alone."""
    if get_origin(annotation) in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from members(member)
    else:
        yield annotation
