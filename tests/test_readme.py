"""What the README shows is what the commands print."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from lit_imgproc.recipes import catalog
from lit_imgproc.recipes.compose import compose

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_the_table_of_recipes_is_that_of_the_command():
    """`make docs` writes it anew."""
    script = Path(sys.executable).parent / "lit-imgproc"
    table = subprocess.run(
        [script, "list", "--markdown"], check=True, capture_output=True, text=True, cwd=ROOT
    ).stdout
    assert f"<!-- recipes -->\n{table}<!-- /recipes -->" in README


def test_the_recipe_shown_is_the_recipe():
    shown = re.search(r"```yaml\n# (experiments/\S+)\n(.*?)```", README, re.S)
    text = (ROOT / shown[1]).read_text()
    without_comments = "".join(
        line for line in text.splitlines(keepends=True) if not line.startswith("#")
    )
    assert shown[2] == without_comments


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([\w./-]+)\)", README))))
def test_links_lead_to_files(path):
    assert (ROOT / path).exists()


def test_recipes_named_are_there():
    for name in set(re.findall(r"`?(classification/\w+)", README)):
        compose(catalog.find(name))
