"""``lit-imgproc check``."""

from pathlib import Path
from typing import Annotated

import typer

from lit_imgproc.cli.arguments import Overrides, RecipeName, Toy


def check(
    recipe: RecipeName,
    overrides: Overrides = None,
    toy: Toy = False,
    frozen: Annotated[
        Path | None,
        typer.Option(
            help="Read the data too, and write the frozen recipe that every rank can run."
        ),
    ] = None,
) -> None:
    """Check every value of a recipe without touching data or devices; list all mistakes.

    Example: lit-imgproc check my_recipe.yaml trainer.devices=2
    """
    from lit_imgproc.recipes.compose import compose
    from lit_imgproc.recipes.schema import validate

    validate(compose(recipe, overrides or (), toy=toy))
    if frozen is not None:
        from lit_imgproc.recipes.experiment import load_recipe
        from lit_imgproc.recipes.text import dump

        frozen.write_text(dump(load_recipe(recipe, *(overrides or ()), toy=toy).frozen))
    print("ok")
