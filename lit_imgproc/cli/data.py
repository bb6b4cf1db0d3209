"""``lit-imgproc data``: prepare, verify, measure and show the data of a recipe, and fit anchors."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lit_imgproc.cli.arguments import AsJson, Overrides, RecipeName, Toy
from lit_imgproc.cli.progress import progress

if TYPE_CHECKING:
    from lit_imgproc.data.base import ImageDataModule

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def data() -> None:
    """Prepare, verify, measure and show the data of a recipe, and fit anchors to its boxes.

    Example: lit-imgproc data show classification/resnet20_fashion_mnist
    """


@app.command()
def prepare(
    recipe: RecipeName,
    overrides: Overrides = None,
    toy: Toy = False,
    shards: Annotated[
        Path | None,
        typer.Option(help="Write them as shards for an object store, too, into this folder."),
    ] = None,
) -> None:
    """Make what a recipe's data.cache or data.proposals asks for, or what is missing of it.

    It may be stopped and goes on where it was; others of the same server use what it made.

    Example: lit-imgproc data prepare classification/resnet50_imagenet data.cache=jpeg
    """
    data = _datamodule(recipe, overrides, toy)
    if shards is None:
        print(f"prepared {data.prepare_cache(progress)}")
        return
    from lit_imgproc.data.imagenet.image_folder import ImageFolder
    from lit_imgproc.data.shards import write_shards

    if not isinstance(data, ImageFolder):
        raise typer.BadParameter(
            "only of an image_folder can shards be made", param_hint="--shards"
        )
    write_shards(data, shards, progress)
    print(f"prepared {shards}")


@app.command()
def verify(
    recipe: RecipeName, overrides: Overrides = None, toy: Toy = False, as_json: AsJson = False
) -> None:
    """Decode every image, check its annotations, and look for leaks between the splits.

    Exit code 1 where something is wrong.

    Example: lit-imgproc data verify my_recipe.yaml
    """
    from dataclasses import asdict

    from lit_imgproc.data.verify import verify

    report = verify(_datamodule(recipe, overrides, toy), progress)
    for remark in report.remarks:
        print(f"remark: {remark}")
    for problem in report.problems:
        print(f"problem: {problem}")
    counted = ", ".join(f"{count} {split}" for split, count in report.images.items())
    print(
        f"{counted or 'no'} images: {len(report.problems)} problems, {len(report.remarks)} remarks"
    )
    if report.fingerprint:
        print(f"fingerprint {report.fingerprint}")
    if as_json:
        print(json.dumps(asdict(report)))
    raise typer.Exit(1 if report.problems else 0)


@app.command()
def stats(
    recipe: RecipeName,
    overrides: Overrides = None,
    toy: Toy = False,
    figure: Annotated[
        Path | None, typer.Option(help="Draw class balance and channels into this PNG file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Count images, sizes and classes, and measure the channels.

    Example: lit-imgproc data stats my_recipe.yaml --figure balance.png
    """
    from rich.console import Console
    from rich.table import Table

    from lit_imgproc.data import stats as statistics

    found = statistics.stats(_datamodule(recipe, overrides, toy), progress)
    splits = Table("", *found, box=None)
    for name, row in statistics.rows(found):
        splits.add_row(name, *row)
    Console().print(splits)
    if figure is not None:
        statistics.figure(found).savefig(figure, dpi=100)
        print(f"wrote {figure}")
    if as_json:
        print(json.dumps({split: one.to_dict() for split, one in found.items()}))


@app.command()
def anchors(
    recipe: RecipeName,
    overrides: Overrides = None,
    toy: Toy = False,
    levels: Annotated[int, typer.Option(min=1, help="Of the network's feature pyramid.")] = 5,
    stride: Annotated[int, typer.Option(min=1, help="Of its finest level, in pixels.")] = 4,
    as_json: AsJson = False,
) -> None:
    """Fit the anchors of a detector to the training boxes, as training sees them.

    Prints what to put into the recipe. Each level's stride is twice that of the level before.

    Example: lit-imgproc data anchors my_recipe.yaml --stride 8 --levels 4
    """
    from rich.console import Console
    from rich.table import Table

    from lit_imgproc.data.anchors import fit, rows, training_boxes

    boxes = training_boxes(_datamodule(recipe, overrides, toy), progress)
    found = fit(boxes, [stride * 2**level for level in range(levels)])
    table = Table(f"of {found.boxes} boxes", "fitted", "by default", box=None)
    for row in rows(found):
        table.add_row(*row)
    Console().print(table)
    print(f"levels that the boxes need: of stride {', '.join(map(str, found.needed))}")
    print(f"model.network.anchor_sizes: {[[size] for size in found.anchors.sizes]}")
    print(f"model.network.aspect_ratios: {found.anchors.ratios}")
    if as_json:
        print(json.dumps(found.to_dict()))


@app.command()
def show(
    recipe: RecipeName,
    overrides: Overrides = None,
    toy: Toy = False,
    split: Annotated[Literal["train", "val", "test"], typer.Option(help="Whose images.")] = "train",
    images: Annotated[int, typer.Option(min=1, help="How many images.")] = 16,
    epoch: Annotated[
        int, typer.Option(min=0, help="The epoch whose first training images are shown.")
    ] = 0,
    plain: Annotated[bool, typer.Option("--plain", help="Without augmentation.")] = False,
    output: Annotated[Path, typer.Option(help="The PNG file to write.")] = Path("samples.png"),
) -> None:
    """Draw what training sees: augmented images with their labels, boxes or masks.

    Example: lit-imgproc data show quickstart --images 32 --output digits.png
    """
    import cv2

    from lit_imgproc.data.show import contact_sheet

    found = _datamodule(recipe, overrides, toy)
    augmented = split == "train" and not plain
    sheet = contact_sheet(found, split, images, augmented=augmented, epoch=epoch)
    if not cv2.imwrite(str(output), sheet[:, :, ::-1]):
        raise typer.BadParameter(f"{output} cannot be written", param_hint="--output")
    print(f"wrote {output}")


def _datamodule(recipe: str, overrides: list[str] | None, toy: bool) -> "ImageDataModule":
    """The data of a recipe, not read yet."""
    from lit_imgproc.recipes.experiment import load_data

    return load_data(recipe, *(overrides or ()), toy=toy)
