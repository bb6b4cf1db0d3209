import pytest

from lit_imgproc.errors import UserError
from lit_imgproc.recipes import catalog


@pytest.fixture
def experiments(tmp_path, monkeypatch):
    """A folder of recipes of one's own, as the working folder has it."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "experiments"
    (folder / "base").mkdir(parents=True)
    (folder / "seg").mkdir()
    (folder / "base" / "b.yaml").write_text("seed: 1\n")
    (folder / "seg" / "unet_cells.yaml").write_text(
        "recipe:\n  title: T\n  system: U-Net\n  paper: P\n"
        "  expects: {test/dice: {value: 9e-1, tolerance: 0.01, source: measured}}\n"
    )
    (folder / "broken.yaml").write_text("a: [1\n")
    (folder / "quickstart.yaml").write_text("recipe: {title: Mine, system: X, family: seg}\n")
    return folder


def test_names_of_both_folders(experiments):
    names = catalog.names()
    assert {"seg/unet_cells", "quickstart", "classification/resnet20_fashion_mnist"} <= set(names)
    assert not any(name.startswith("base/") for name in names)
    assert list(names) == sorted(names)


def test_ones_own_recipe_hides_a_packaged_one(experiments):
    assert catalog.find("quickstart").resolve() == experiments / "quickstart.yaml"


def test_find_by_path(experiments):
    assert catalog.find("experiments/base/b.yaml").is_file()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("seg/unet_cell", "did you mean seg/unet_cells?"),
        ("unet_cells", "did you mean seg/unet_cells?"),
        ("xyz", "lit-imgproc list"),
        ("seg/none.yaml", "seg/none.yaml: there is no such file"),
    ],
)
def test_unknown_recipe(experiments, name, hint):
    with pytest.raises(UserError) as error:
        catalog.find(name)
    assert hint in str(error.value)


def test_headers(experiments):
    rows = {row["name"]: row for row in catalog.headers()}
    assert rows["seg/unet_cells"] == {
        "name": "seg/unet_cells",
        "system": "U-Net",
        "family": "seg",
        "paper": "P",
        "expects": {"test/dice": {"value": 0.9, "tolerance": 0.01, "source": "measured"}},
        "title": "T",
    }
    assert rows["quickstart"]["family"] == "seg"
    assert "not valid YAML" in rows["broken"]["title"]


def test_headers_follow_extends(experiments):
    (experiments / "seg" / "wide.yaml").write_text("extends: unet_cells.yaml\nrecipe: {title: W}\n")
    (experiments / "circle.yaml").write_text("extends: circle.yaml\nrecipe: {title: C}\n")
    (experiments / "lost.yaml").write_text("extends: [no.yaml, 3]\nrecipe: {title: L}\n")
    rows = {row["name"]: row for row in catalog.headers()}
    assert rows["seg/wide"] == rows["seg/unet_cells"] | {"name": "seg/wide", "title": "W"}
    assert [rows[name]["title"] for name in ("circle", "lost")] == ["C", "L"]
