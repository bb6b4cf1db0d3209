"""``lit-imgproc predict``."""

import json
from pathlib import Path
from typing import Annotated

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
    masks: Annotated[
        Path | None, typer.Option(help="Write the classes of all pixels to files in this folder.")
    ] = None,
    draw: Annotated[
        Path | None, typer.Option(help="Draw what is found into copies of the images, in a folder.")
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="Write the pictures that it makes, in a folder.")
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

    Of a run that segments, --masks writes PNG images of class numbers, for rasters GeoTIFFs and for
    volumes NIfTI files. Of a run that makes an image of an image, --pictures writes it.

    Example: lit-imgproc predict ab12 photos/ --output predictions.json
    """
    from lit_imgproc.errors import UserError
    from lit_imgproc.recipes import predictions
    from lit_imgproc.recipes.run import load_run

    if annotations is not None and coco is None:
        raise typer.BadParameter("is of use for --coco only", param_hint="--annotations")
    found = load_run(run, uri=uri)
    predictor = found.predictor()
    files = predictor.files(images)
    # Before the network works for hours: what cannot be written then.
    maps = predictions.outputs(files, geojson, ".geojson", overwrite) if geojson else []
    drawings = predictions.outputs(files, draw, ".png", overwrite) if draw else []
    made = predictions.outputs(files, pictures, ".png", overwrite) if pictures else []
    written = predictor.mask_paths(files, masks, overwrite=overwrite) if masks else []
    names = getattr(found.module, "class_names", [])
    answers = []
    for number, answer in enumerate(
        predictor.stream_masks(files, written) if masks else predictor.stream(files)
    ):
        print(f"{answer['id']}: {predictions.summary(answer, threshold)}")
        if (coco or geojson) and "boxes" not in answer:
            raise UserError("--coco and --geojson are for runs that detect objects")
        if draw and ("label" in answer or "image" in answer):
            raise UserError("--draw and --masks are for runs that detect objects or segment")
        if geojson:
            predictions.write_geojson(maps[number], files[number], answer)
        if draw:
            read = found.reader.open
            predictions.draw(drawings[number], read, files[number], answer, names, threshold)
        if pictures:
            predictions.write_picture(made[number], answer)
        answers.append(predictions.without_arrays(answer))
    if output is not None:
        output.write_text(json.dumps(answers, indent=2) + "\n")
    if coco is not None:
        predictions.write_coco(coco, answers, names, annotations)
    if as_json:
        print(json.dumps({"run_id": found.id, "predictions": answers}))
