"""Recipes reach the figures that they say were measured: minutes to three quarters of an hour."""

from pathlib import Path

import pytest

from lit_imgproc import load_recipe
from lit_imgproc.recipes import catalog
from lit_imgproc.recipes.references import from_environment

MEASURED = {
    row["name"]: {
        metric: figure
        for metric, figure in row["expects"].items()
        if figure["source"] == "measured"
    }
    for row in catalog.headers()
    if any(figure["source"] == "measured" for figure in row["expects"].values())
}


def test_measured_figures_say_how_far_they_may_be_missed():
    assert {"quickstart", "classification/resnet20_fashion_mnist"} <= MEASURED.keys()
    for figures in MEASURED.values():
        for figure in figures.values():
            assert 0 < figure["tolerance"] < figure["value"]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MEASURED))
def test_a_measured_recipe_reaches_its_figure(name, store, shared_data, tmp_path, monkeypatch):
    monkeypatch.setenv("LIT_IMGPROC_DATA", str(shared_data))
    monkeypatch.chdir(tmp_path)
    experiment = load_recipe(name, f"tracking.uri={store.uri}")
    root = Path(from_environment(experiment.recipe["data"]).get("root", ""))
    if not root.is_dir():
        pytest.skip(f"{root.name} is not here: the recipe says how it is made")
    run = experiment.train()
    for metric, figure in MEASURED[name].items():
        assert run.metrics[metric] == pytest.approx(figure["value"], abs=figure["tolerance"])
