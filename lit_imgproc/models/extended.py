"""Constructors that take what those of their base class take, and more."""

import inspect
from typing import Any, TypeVar

C = TypeVar("C", bound=type[Any])


def extended(cls: C) -> C:
    """Write into the signature of a class the parameters that it hands on to its base.

    The constructor ends in ``**options`` and gives them to its base. Whoever reads the signature,
    as recipes do, sees the parameters of both in their place, with their types and defaults.
    """
    init, base = (vars(one)["__init__"] for one in (cls, cls.__base__))
    own = inspect.signature(init).parameters
    handed_on = {name for name, p in own.items() if p.kind is p.VAR_KEYWORD}
    merged = {**inspect.signature(base).parameters, **own}
    kept = {name: p for name, p in merged.items() if name not in handed_on}
    init.__signature__ = inspect.Signature(list(kept.values()))
    init.__annotations__ = {
        **base.__annotations__,
        **{name: a for name, a in init.__annotations__.items() if name not in handed_on},
    }
    return cls
