"""``lit-imgproc generate``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from lit_imgproc.cli.arguments import AsJson, RunId, Uri


def generate(
    run: RunId,
    folder: Annotated[Path, typer.Argument(help="Where to write.")],
    seeds: Annotated[str, typer.Option(help="One image each, such as 0-63 or 3,5,8.")] = "0-63",
    label: Annotated[
        str | None,
        typer.Option(help="The class of all images; without it, the classes in turn."),
    ] = None,
    truncation: Annotated[
        float, typer.Option(min=0, max=1, help="Less is more ordinary: how far from the mean.")
    ] = 1.0,
    grid: Annotated[
        bool, typer.Option("--grid", help="Write the grid alone, and no file for each image.")
    ] = False,
    interpolate: Annotated[
        int | None, typer.Option(min=1, help="So many steps from each seed to the next.")
    ] = None,
    mix: Annotated[
        str | None,
        typer.Option(
            metavar="LAYERS",
            help="StyleGAN2: give these layers, such as 0-3, the styles of other seeds.",
        ),
    ] = None,
    project: Annotated[
        Path | None, typer.Option(help="StyleGAN2: find what makes this image.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of the search of --project.")] = 1000,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files in the folder.")
    ] = False,
    uri: Uri = None,
    as_json: AsJson = False,
) -> None:
    """Make images with the best state of a GAN, the same for the same seeds on every machine.

    Without --interpolate, --mix or --project: an image for each seed, and all of them in grid.png.
    --interpolate writes a row for each two seeds that follow each other; --mix a row for each seed
    of the first half and a column for each of the second.

    Example: lit-imgproc generate ab12 samples/ --seeds 0-15 --label Sneaker
    """
    from lit_imgproc.recipes.generation import numbers
    from lit_imgproc.recipes.run import load_run

    found = load_run(run, uri=uri)
    files = found.generate(
        folder,
        seeds=numbers(seeds),
        label=label,
        truncation=truncation,
        grid=grid,
        interpolate=interpolate,
        mix=None if mix is None else numbers(mix),
        project=project,
        steps=steps,
        overwrite=overwrite,
    )
    print(f"{len(files)} files in {folder}, the last of them {files[-1].name}")
    if as_json:
        print(json.dumps({"run_id": found.id, "files": [str(file) for file in files]}))
