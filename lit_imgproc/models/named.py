"""Builders that differ in one name only."""

import inspect
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec

from torch import nn

P = ParamSpec("P")


def named(
    family: Callable[Concatenate[str, P], nn.Module], model: str, summary: str
) -> Callable[P, nn.Module]:
    """Return ``family`` with its first parameter set: a function with the rest of its signature."""

    def network(*args: P.args, **kwargs: P.kwargs) -> nn.Module:
        return family(model, *args, **kwargs)

    _, *parameters = inspect.signature(family).parameters.values()
    made: Any = network
    made.__signature__ = inspect.Signature(parameters, return_annotation=nn.Module)
    made.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": nn.Module}
    made.__doc__ = f"{summary}\n\n{inspect.getdoc(family)}"
    return network
