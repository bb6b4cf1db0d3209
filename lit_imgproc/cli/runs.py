"""``lit-imgproc runs``."""

import json
from typing import Annotated

import typer

from lit_imgproc.cli.arguments import AsJson, Uri


def runs(
    experiment: Annotated[str | None, typer.Option(help="Only of this MLflow experiment.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 20,
    uri: Uri = None,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first, with their status and test metrics.

    Example: lit-imgproc runs --experiment fashion-mnist --limit 5
    """
    from rich.console import Console
    from rich.table import Table

    from lit_imgproc.recipes.run import default_store
    from lit_imgproc.tracking.records import list_runs

    rows = list_runs(uri or default_store(), experiment, limit)
    if as_json:
        print(json.dumps(rows))
        return
    table = Table("run", "experiment", "recipe", "status", "started", "took", "test")
    for row in rows:
        tested = {k: v for k, v in row["metrics"].items() if k.startswith("test/")}
        metric = "test/accuracy" if "test/accuracy" in tested else next(iter(tested), None)
        headline = f"{metric.removeprefix('test/')} {tested[metric]:.4f}" if metric else ""
        took = f"{row['seconds']:.0f} s" if row["seconds"] is not None else ""
        table.add_row(
            row["run_id"][:8],
            row["experiment"],
            row["recipe"] or row["name"],
            row["status"],
            row["start"].replace("T", " "),
            took,
            headline,
        )
    console = Console(soft_wrap=True)
    if not console.is_terminal:
        console.width = 1000  # a line a run, whole, for what reads the pipe
    console.print(table)
