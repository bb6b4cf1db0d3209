"""``lit-imgproc predict``."""

import json
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from lit_imgproc.cli.arguments import AsJson, RunId, Uri


def predict(
    run: RunId,
    images: Annotated[list[Path], typer.Argument(help="Image files and folders of them.")],
    output: Annotated[
        Path | None, typer.Option(help="Write the predictions to this JSON file.")
    ] = None,
    coco: Annotated[
        Path | None, typer.Option(help="Write the objects to this JSON file, as COCO does.")
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option(help="The COCO file whose ids --coco is to use.")
    ] = None,
    geojson: Annotated[
        Path | None, typer.Option(help="Write the objects of each raster to a file in this folder.")
    ] = None,
    draw: Annotated[
        Path | None, typer.Option(help="Draw the objects into copies of the images in this folder.")
    ] = None,
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="The least score of what is drawn and counted.")
    ] = 0.5,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files in these folders.")
    ] = False,
    uri: Uri = None,
    as_json: AsJson = False,
) -> None:
    """Predict images of any size with the best state of a run.

    Example: lit-imgproc predict ab12 photos/ --output predictions.json
    """
    from lit_imgproc.errors import UserError
    from lit_imgproc.recipes import predictions
    from lit_imgproc.recipes.run import load_run

    if annotations is not None and coco is None:
        raise typer.BadParameter("is of use for --coco only", param_hint="--annotations")
    found = load_run(run, uri=uri)
    files = found.files(images)
    # Before the network works for hours: what cannot be written then.
    maps = predictions.outputs(files, geojson, ".geojson", overwrite) if geojson else []
    drawings = predictions.outputs(files, draw, ".png", overwrite) if draw else []
    answers = found.predict(files)
    for answer in answers:
        print(f"{answer['id']}: {predictions.summary(answer, threshold)}")
    if output is not None:
        output.write_text(json.dumps(answers, indent=2) + "\n")
    if (coco or geojson or draw) and "boxes" not in answers[0]:
        raise UserError("--coco, --geojson and --draw are for runs that detect objects")
    names: list[str] = cast(Any, found.module).class_names
    if coco is not None:
        predictions.write_coco(coco, answers, names, annotations)
    for path, file, answer in zip(maps, files, answers, strict=False):
        predictions.write_geojson(path, file, answer)
    for path, file, answer in zip(drawings, files, answers, strict=False):
        predictions.draw(path, found.reader.open, file, answer, names, threshold)
    if as_json:
        print(json.dumps({"run_id": found.id, "predictions": answers}))
