"""``lit-imgproc explain``."""

import json
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from lit_imgproc.cli.arguments import AsJson, RunId, Uri
from lit_imgproc.cli.progress import progress


def explain(
    run: RunId,
    images: Annotated[
        list[Path] | None,
        typer.Argument(help="Image files and folders of them; without any, validation images."),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="A method such as grad_cam or kernel_shap; can be given several times."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="The class to explain; without it, what the network answers."),
    ] = None,
    box: Annotated[
        str | None,
        typer.Option(help="Where to explain it, in pixels: LEFT,TOP,RIGHT,BOTTOM."),
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option(help="A COCO file with boxes of the images, to point at.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="How many validation images.")] = 8,
    measure: Annotated[
        bool, typer.Option(help="Measure how faithful the maps are: several times as long.")
    ] = True,
    features: Annotated[
        bool, typer.Option("--features", help="Add what the network has learned.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(help="The folder to write to; else explanations/RUN-TIME."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the files in this folder.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of what is drawn at random.")] = 0,
    uri: Uri = None,
    as_json: AsJson = False,
) -> None:
    """Explain what a run answers: a page with maps and how faithful they are, also in MLflow.

    Example: lit-imgproc explain ab12 photos/ --method grad_cam --method kernel_shap --target cat
    """
    from lit_imgproc.recipes import explanations
    from lit_imgproc.recipes.run import load_run

    found = load_run(run, uri=uri)
    folder = output or Path("explanations", f"{found.id[:8]}-{datetime.now():%Y%m%d-%H%M%S}")
    explanations.check_free(folder, overwrite=overwrite)
    report = found.explain(
        list(images) if images else None,
        methods=method,
        target=target,
        box=_corners(box),
        annotations=annotations,
        count=count,
        measure=measure,
        seed=seed,
        progress=progress,
    )
    page = found.write_explanations(report, folder, features=features, overwrite=overwrite)
    for one in report.explanations:
        print(f"{one.id}: {one.target_name or 'nothing found'}")
    for name, means in report.means.items():
        shown = ", ".join(f"{key} {value:.3f}" for key, value in means.items())
        failed = "  FAILS the sanity check" if name in report.failed else ""
        print(f"{name}: {shown}{failed}")
    print(f"page: {page}")
    if as_json:
        print(json.dumps({"run_id": found.id, "page": str(page), **explanations.numbers(report)}))


def _corners(box: str | None) -> tuple[float, float, float, float] | None:
    """Four numbers from their text."""
    if box is None:
        return None
    with suppress(ValueError):
        left, top, right, bottom = map(float, box.split(","))
        if left < right and top < bottom:
            return left, top, right, bottom
    raise typer.BadParameter(
        f"{box!r} is not LEFT,TOP,RIGHT,BOTTOM with LEFT < RIGHT and TOP < BOTTOM",
        param_hint="--box",
    )
