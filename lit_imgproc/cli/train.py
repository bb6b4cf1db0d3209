"""``lit-imgproc train``."""

import json
import sys
from typing import Any

import typer

from lit_imgproc.cli.arguments import AsJson, Overrides, RecipeName, Toy


def train(
    recipe: RecipeName, overrides: Overrides = None, toy: Toy = False, as_json: AsJson = False
) -> None:
    """Train a recipe, test its best state, and leave an MLflow run.

    Exit code 0: finished. 1: failed; the run holds the traceback. 2: the recipe or the data need
    mending. 130, 143: ended by Ctrl-C, by SIGTERM.

    Example: lit-imgproc train classification/resnet20_fashion_mnist trainer.max_epochs=3
    """
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    from lit_imgproc.recipes.experiment import load_recipe
    from lit_imgproc.recipes.ranks import RankFailed
    from lit_imgproc.recipes.run import default_store

    experiment = load_recipe(recipe, *(overrides or ()), toy=toy)
    try:
        run = experiment.train()
    except BaseException as error:
        if as_json and experiment.run_id is not None:
            print(json.dumps(_result(experiment.result())))
        if isinstance(error, SIGTERMException):
            raise typer.Exit(143) from None
        if isinstance(error, RankFailed):
            print(error, file=sys.stderr)
            raise typer.Exit(error.code if error.code in (2, 130, 143) else 1) from None
        raise
    for name, value in run.metrics.items():
        if name.startswith("test/") and name.count("/") == 1:
            print(f"{name} {value:.4f}")
    print(f"run {run.id} {run.status}")
    elsewhere = "" if run.uri == default_store() else f" --uri {run.uri}"
    print(f"see it: {sys.argv[0]} ui {run.id[:8]}{elsewhere}")
    if as_json:
        print(json.dumps(_result(run)))


def _result(run: Any) -> dict[str, Any]:
    return {"run_id": run.id, "status": run.status, "metrics": run.metrics}
