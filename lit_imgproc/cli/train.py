"""``lit-imgproc train``."""

import json
import sys
from contextlib import suppress
from typing import Annotated, Any

import typer

from lit_imgproc.cli.arguments import AsJson, Overrides, Toy, complete_recipe


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="[RECIPE]",
            help="A name from `list`, or a YAML file; with --resume the run's own.",
            autocompletion=complete_recipe,
        ),
    ] = None,
    overrides: Overrides = None,
    toy: Toy = False,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Go on with this run from its last whole checkpoint; a checkpoint file does too.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a recipe, test its best state, and leave an MLflow run.

    Exit code 0: finished. 1: failed; the run holds the traceback. 2: something needs mending, and
    a sentence says what. 130, 138, 143: ended by Ctrl-C, SIGUSR1, SIGTERM after a checkpoint; go
    on with --resume. 75: the same, and SLURM starts the job again.

    Example: lit-imgproc train classification/resnet20_fashion_mnist trainer.max_epochs=3
    """
    from lit_imgproc.errors import UserError
    from lit_imgproc.recipes.experiment import Undelivered, load_recipe, resume_run
    from lit_imgproc.recipes.ranks import RankFailed
    from lit_imgproc.recipes.run import default_store

    values = list(overrides or ())
    if resume is not None and (recipe is None or "=" in recipe):
        values = [recipe, *values] if recipe is not None else values
        store = [value.partition("=")[2] for value in values if value.startswith("tracking.uri=")]
        experiment = resume_run(resume, *values, uri=store[-1] if store else None)
        resume = None
    elif recipe is None:
        raise UserError("a recipe is needed: see `lit-imgproc list`; or --resume RUN")
    else:
        experiment = load_recipe(recipe, *values, toy=toy)
    try:
        run = experiment.train(resume=resume)
    except Undelivered as error:  # the training itself is done
        print(error, file=sys.stderr)
        print(f"run {experiment.run_id} FINISHED")
        if as_json:
            print(json.dumps({"run_id": experiment.run_id, "status": "FINISHED", "metrics": {}}))
        return
    except BaseException as error:
        if as_json and experiment.run_id is not None:
            with suppress(Undelivered):
                print(json.dumps(_result(experiment.result())))
        if isinstance(error, RankFailed):
            print(error, file=sys.stderr)
            raise typer.Exit(2 if error.code == 2 else 1) from None
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
