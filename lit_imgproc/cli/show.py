"""``lit-imgproc show``."""

from lit_imgproc.cli.arguments import Overrides, RecipeName, Toy


def show(recipe: RecipeName, overrides: Overrides = None, toy: Toy = False) -> None:
    """Print a recipe as it composes: with what it extends and your values. Checks no value.

    Example: lit-imgproc show quickstart model.optimizer.lr=0.05
    """
    from lit_imgproc.recipes.compose import compose
    from lit_imgproc.recipes.text import RecipeError

    composed = compose(recipe, overrides or (), toy=toy)
    if composed.mistakes:
        raise RecipeError([composed.line(mistake) for mistake in composed.mistakes])
    print(composed.text(), end="")
