"""The command line: one file a verb, each a thin call of a function below.

Importing it imports no torch: verbs import what they need when they run.
"""

import os
import sys
from typing import Annotated

import typer

from lit_imgproc import __version__
from lit_imgproc.cli.check import check
from lit_imgproc.cli.data import app as data
from lit_imgproc.cli.doctor import doctor
from lit_imgproc.cli.explain import explain
from lit_imgproc.cli.generate import generate
from lit_imgproc.cli.list import list_recipes
from lit_imgproc.cli.predict import predict
from lit_imgproc.cli.runs import runs
from lit_imgproc.cli.schema import schema
from lit_imgproc.cli.show import show
from lit_imgproc.cli.stylize import stylize
from lit_imgproc.cli.sync import sync
from lit_imgproc.cli.test import test
from lit_imgproc.cli.train import train
from lit_imgproc.cli.ui import ui
from lit_imgproc.errors import TrainingFailed, UserError

app = typer.Typer(
    name="lit-imgproc",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # Plain help: rich would double the time it takes.
)


def _version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def lit_imgproc(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Deep-learning image processing experiments, from a recipe to an MLflow run.

    Example: lit-imgproc train quickstart trainer.max_epochs=3
    """


# One line a verb, in the order of --help.
app.command("list")(list_recipes)
app.command("show")(show)
app.command("check")(check)
app.command("train")(train)
app.command("test")(test)
app.command("predict")(predict)
app.command("explain")(explain)
app.command("generate")(generate)
app.command("stylize")(stylize)
app.add_typer(data, name="data")
app.command("runs")(runs)
app.command("sync")(sync)
app.command("ui")(ui)
app.command("doctor")(doctor)
app.command("schema")(schema)


def main() -> None:
    """Run a verb. Exit code 2 and plain sentences for what a person can mend, 130 on Ctrl-C."""
    # A recipe may name a class of a file beside it, which a console script does not look for.
    sys.path.append(os.getcwd())
    try:
        app()
    except (UserError, TrainingFailed) as error:
        print(error, file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)
