import inspect
from typing import Annotated

import pytest
from annotated_types import Gt

from lit_imgproc.models.extended import extended
from lit_imgproc.recipes.signature import parameters

Positive = Annotated[int, Gt(0)]


class Base:
    def __init__(self, *, width: Positive, depth: Positive = 3) -> None:
        self.width, self.depth = width, depth


@extended
class More(Base):
    def __init__(self, *, depth: Positive = 4, height: Positive = 5, **options: int) -> None:
        super().__init__(depth=depth, **options)
        self.height = height


def test_recipes_see_the_parameters_of_both():
    found = parameters(More)
    assert not found.open
    assert set(found) == {"width", "depth", "height"}
    assert {name for name, one in found.items() if one.required} == {"width"}
    assert {one.annotation for one in found.values()} == {Positive}
    assert inspect.signature(More).parameters["depth"].default == 4
    assert inspect.signature(Base).parameters["depth"].default == 3


def test_arguments_reach_the_base():
    made = More(width=7)
    assert (made.width, made.depth, made.height) == (7, 4, 5)
    with pytest.raises(TypeError, match="girth"):
        More(width=7, girth=1)
