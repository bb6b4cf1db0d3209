"""``lit-imgproc schema``."""

import json
from pathlib import Path
from typing import Annotated

import typer


def schema(
    output: Annotated[
        Path | None, typer.Option(help="Write to this file instead of printing.")
    ] = None,
) -> None:
    """Print the JSON schema of recipes, for completion and checks in an editor.

    With the YAML extension of VS Code, write it to a file and begin a recipe with the line
    "# yaml-language-server: $schema=recipe.schema.json".

    Example: lit-imgproc schema --output recipe.schema.json
    """
    from lit_imgproc.recipes.json_schema import json_schema

    text = json.dumps(json_schema(), indent=2)
    if output is None:
        print(text)
    else:
        output.write_text(text + "\n")
