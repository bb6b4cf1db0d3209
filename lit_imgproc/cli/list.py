"""``lit-imgproc list``."""

import json
from typing import Annotated, Any

import typer

from lit_imgproc.cli.arguments import AsJson


def list_recipes(
    as_json: AsJson = False,
    markdown: Annotated[bool, typer.Option(help="A table for a document.")] = False,
) -> None:
    """List the recipes: those under ./experiments and those that came with the package.

    Example: lit-imgproc list --json
    """
    from lit_imgproc.recipes.catalog import headers

    rows = headers()
    if as_json:
        print(json.dumps(rows))
        return
    if markdown:
        print("| recipe | system | paper | expects |\n| --- | --- | --- | --- |")
        for row in rows:
            paper = f"[paper]({row['paper']})" if row["paper"] else ""
            print(f"| `{row['name']}` | {row['system']} | {paper} | {_expects(row['expects'])} |")
        return
    table = [("recipe", "system", "expects")]
    table += [(row["name"], str(row["system"] or "-"), _expects(row["expects"])) for row in rows]
    name_width, system_width = (max(len(row[column]) for row in table) for column in (0, 1))
    for name, system, expects in table:
        print(f"{name:{name_width}}  {system:{system_width}}  {expects}".rstrip())


def _expects(expects: Any) -> str:
    """``test/accuracy 0.935 ± 0.004 (measured)`` for each figure; text as it is where it is not."""
    if not isinstance(expects, dict):
        return str(expects)
    return ", ".join(
        f"{metric} {figure.get('value')}"
        + (f" ± {figure['tolerance']}" if figure.get("tolerance") is not None else "")
        + f" ({figure.get('source')})"
        for metric, figure in expects.items()
        if isinstance(figure, dict)
    )
