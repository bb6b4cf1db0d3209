"""``lit-imgproc stylize``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lit_imgproc.cli.arguments import AsJson, Uri

if TYPE_CHECKING:
    from rich.progress import TaskID


def stylize(
    content: Annotated[list[Path], typer.Argument(help="Photographs, and folders of them.")],
    output: Annotated[Path, typer.Option(help="The folder to write to.")],
    style: Annotated[
        list[Path] | None,
        typer.Option(help="The picture whose style is wanted; a run of adain mixes several."),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(help="A run of style_transfer or adain; without it the pixels are optimised."),
    ] = None,
    steps: Annotated[
        int, typer.Option(min=1, help="Of the optimisation, at each of its resolutions.")
    ] = 100,
    size: Annotated[
        int | None,
        typer.Option(min=16, help="The longer side in pixels; else the file's, without run 512."),
    ] = None,
    keep_colours: Annotated[
        Literal["luminance", "histogram"] | None,
        typer.Option(help="Keep the colours of the photograph."),
    ] = None,
    alpha: Annotated[
        float, typer.Option(min=0, max=1, help="How strong the style of a run of adain is.")
    ] = 1.0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files in the folder.")
    ] = False,
    uri: Uri = None,
    as_json: AsJson = False,
) -> None:
    """Redraw photographs in the style of a picture: a PNG each, and a JSON of how it went.

    Example: lit-imgproc stylize photo.jpg --style painting.jpg --output stylized/
    """
    from lit_imgproc.recipes.run import load_run
    from lit_imgproc.recipes.stylization import Settings, stylize_files

    answers = []
    with _Bar() as bar:
        for answer in stylize_files(
            content,
            output,
            styles=style or [],
            run=load_run(run, uri=uri) if run else None,
            settings=Settings(steps=steps, size=size, keep_colours=keep_colours, alpha=alpha),
            overwrite=overwrite,
            progress=bar.show,
        ):
            losses = ", ".join(f"{name} {value:.4g}" for name, value in answer["losses"].items())
            bar.print(f"{answer['image']}: {losses}, {answer['seconds']:.1f} s")
            answers.append({key: value for key, value in answer.items() if key != "history"})
    if as_json:
        print(json.dumps({"images": answers}))


class _Bar:
    """Shows how far the picture at hand is."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import Progress

        console = Console()
        self._bar = Progress(console=console, transient=True, disable=not console.is_terminal)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "_Bar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, what: str, done: int, total: int) -> None:
        """Set the bar of a file."""
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what)
        self._bar.update(self._tasks[what], completed=done, total=total, visible=done < total)

    def print(self, line: str) -> None:
        """Print a line above the bar."""
        self._bar.console.print(line, soft_wrap=True, markup=False, highlight=False)
