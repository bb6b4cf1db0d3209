"""Arguments that several verbs share."""

from typing import Annotated

import typer


def complete_recipe(incomplete: str) -> list[str]:
    """The names of recipes that begin with what has been typed."""
    from lit_imgproc.recipes.catalog import names

    return [name for name in names() if name.startswith(incomplete)]


RecipeName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE", help="A name from `list`, or a YAML file.", autocompletion=complete_recipe
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Values of your own: model.optimizer.lr=0.05"),
]
Toy = Annotated[bool, typer.Option("--toy", help="Small: the recipe's toy block, generated data.")]
AsJson = Annotated[bool, typer.Option("--json", help="End with one line of JSON.")]
RunId = Annotated[
    str, typer.Argument(metavar="RUN", help="A run id, or its first characters: see `runs`.")
]
Uri = Annotated[
    str | None,
    typer.Option(help="The MLflow store; MLFLOW_TRACKING_URI or the local one if not given."),
]
