from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt, Interval, Le, Lt
from pydantic import ValidationError
from torch import nn

from lit_imgproc.recipes.signature import check, convert, describe, parameters


@dataclass(frozen=True)
class Point:
    x: float


CASES = [
    (int, [1, -1], [1.0, "1", True, None, [1]], "an integer"),
    (float, [1.5, 1, float("inf")], ["1.5", True, None], "a number"),
    (bool, [True], [1, "yes", "true"], "true or false"),
    (str, ["a", ""], [1, None, True], "text"),
    (int | None, [1, None], ["1"], "an integer or null"),
    (Annotated[float, Gt(0)], [0.1], [0, -1], "a number greater than 0"),
    (Annotated[float, Ge(0), Lt(1)], [0, 0.9], [1], "a number at least 0 and less than 1"),
    (
        Annotated[int, Interval(gt=1, le=3)],
        [2, 3],
        [1, 4],
        "an integer greater than 1 and at most 3",
    ),
    (Annotated[float, Le(0.5)] | None, [0.5, None], [1], "a number at most 0.5 or null"),
    (Literal["a", "b"], ["a"], ["c", 1], 'one of "a", "b"'),
    (Literal["a"], ["a"], ["b"], '"a"'),
    (Literal["auto"] | int | None, ["auto", 3, None], ["x"], 'an integer, "auto" or null'),
    (list[int], [[], [1]], [1, ["1"], "1"], "a list (each an integer)"),
    (Sequence[float], [[1, 2.5]], ["ab", ["a"]], "a list (each a number)"),
    (list, [["a", 1]], ["a"], "a list"),
    (tuple[int, int], [[1, 2]], [[1], [1, 2, 3], 1], "a list of 2 (each an integer)"),
    (tuple[float, ...], [[], [1]], [1], "a list (each a number)"),
    (dict[str, int], [{"a": 1}], [{"a": "b"}, [1]], "a block of keys"),
    (Path | None, ["a/b", None], [1], "a Path or null"),
    (nn.Module, [], ["resnet20", 1, None], "a network {name: …}"),
    (nn.Module | str, ["file.pth"], [1], "a network {name: …} or text"),
    (Callable[..., int], [], ["f"], "a Callable"),
    (Point, [], [1], "a block of keys"),
    (Any, [1, "a", None, [1]], [], "a value"),
]


@pytest.mark.parametrize(("annotation", "right", "wrong", "words"), CASES)
def test_check_and_describe(annotation, right, wrong, words):
    for value in right:
        check(annotation, value)
    for value in wrong:
        with pytest.raises(ValidationError):
            check(annotation, value)
    assert describe(annotation) == words


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [(float, "0.1", 0.1), (int, "8", 8), (bool, "true", True), (str, "8", "8")],
)
def test_text_of_the_environment_becomes_what_is_needed(annotation, text, value):
    check(annotation, text, as_text=True)
    converted = convert(text, parameters(_taking(annotation))["value"])
    assert converted == value
    assert type(converted) is type(value)


def test_convert_to_what_the_annotation_says():
    known = parameters(_taking(tuple[int, int] | None))["value"]
    assert convert([1, 2], known) == (1, 2)
    assert convert(None, known) is None
    assert convert("a/b", parameters(_taking(Path))["value"]) == Path("a/b")
    assert convert({"x": 1}, parameters(_taking(Point | None))["value"]) == Point(1.0)


def _taking(annotation):
    def function(value):
        """Takes one value."""

    function.__annotations__ = {"value": annotation}
    return function


def test_parameters():
    def function(a: int, *rest: int, b: "str" = "x", c: nn.Module | None = None, **more: int):
        """Takes much."""

    known = parameters(function)
    assert list(known) == ["a", "b", "c"]
    assert known.open
    assert [known[name].required for name in "abc"] == [True, False, False]
    assert known["b"].annotation is str
    assert [known[name].kind for name in "abc"] == [None, None, "network"]


def test_names_for_type_checkers_alone_are_not_checked():
    def function(a: "NoSuchName", b: int = 1):  # noqa: F821
        """Cannot be evaluated."""

    assert parameters(function)["a"].annotation is Any


def test_kinds_follow_the_nearest_ancestor():
    from lightning.pytorch import Callback, LightningDataModule, LightningModule
    from lightning.pytorch.strategies import Strategy

    from lit_imgproc.optim import SGD, Schedule

    kinds = [LightningModule, nn.Linear, LightningDataModule, SGD, Schedule, Callback, Strategy]
    assert [parameters(_taking(kind | None))["value"].kind for kind in kinds] == [
        *("module", "network", "datamodule", "optimizer", "schedule", "callback", "strategy")
    ]


def test_structures():
    assert parameters(_taking(Point | None))["value"].structure is Point
    assert parameters(_taking(dict[str, Point] | None))["value"].structures is Point
    assert parameters(_taking(dict[str, int]))["value"].structures is None
