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
    uri: Uri = None,
    as_json: AsJson = False,
) -> None:
    """Predict images of any size with the best state of a run.

    Example: lit-imgproc predict ab12 photos/ --output predictions.json
    """
    from lit_imgproc.recipes.run import load_run

    found = load_run(run, uri=uri)
    predictions = found.predict(images)
    for answer in predictions:
        label, score = answer["label"], answer["score"]
        said = ", ".join(label) if isinstance(label, list) else f"{label} {score:.3f}"
        print(f"{answer['id']}: {said}")
    if output is not None:
        output.write_text(json.dumps(predictions, indent=2) + "\n")
    if as_json:
        print(json.dumps({"run_id": found.id, "predictions": predictions}))
