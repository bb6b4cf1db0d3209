"""``lit-imgproc sync``."""

import json
from typing import Annotated

import typer

from lit_imgproc.cli.arguments import AsJson


def sync(
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="Only this run; its first characters do.")
    ] = None,
    uri: Annotated[
        str | None,
        typer.Option(help="The MLflow store of the runs; the one that each was logged to if not."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Deliver what runs have logged and their MLflow store has not got yet.

    While a store is away, runs keep what they log in mlruns/staging of the folder they train in,
    and deliver it themselves when the store answers again. This delivers the rest of runs that
    have ended or were killed meanwhile. Exit code 0: nothing is left. 1: something is.

    Example: lit-imgproc sync
    """
    from dataclasses import asdict

    from lit_imgproc.tracking import sync as tracking

    deliveries = tracking.sync(run, uri)
    for delivery in deliveries:
        print(delivery)
    if not deliveries:
        print("nothing waits to be delivered")
    if as_json:
        print(json.dumps([asdict(delivery) for delivery in deliveries]))
    if any(delivery.trouble for delivery in deliveries):
        raise typer.Exit(1)
