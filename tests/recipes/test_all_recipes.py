"""The contract of every recipe: it composes, it validates, and its toy runs from end to end."""

import pytest
import yaml

from lit_imgproc import load_recipe, load_run
from lit_imgproc.recipes import catalog

HEADLINES = {
    "classifier": ("test/accuracy", 0),
    "detector": ("test/map", -1),
    "region_detector": ("test/map", -1),
    "rcnn": ("test/map", -1),
    "segmenter": ("test/iou", 0),
    "instance_segmenter": ("test/iou", 0),
}
"""What a test of each module always says, and the least that it can be: COCO has -1 for nothing."""

RECIPES = sorted(catalog.names())


@pytest.mark.parametrize("name", RECIPES)
def test_says_what_it_is(name):
    header = yaml.safe_load(catalog.find(name).read_text())["recipe"]
    assert header["title"]
    rows = {row["name"]: row for row in catalog.headers()}
    assert rows[name]["system"]
    for figure in (rows[name]["expects"] or {}).values():
        assert figure["source"] in ("measured", "published")


@pytest.mark.parametrize("name", RECIPES)
def test_validates(name):
    load_recipe(name)


@pytest.mark.parametrize("name", RECIPES)
def test_toy_runs_from_end_to_end(name, store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    where = (f"tracking.uri={store.uri}", f"tracking.artifacts={store.artifacts}")
    run = load_recipe(name, *where, toy=True).train()
    assert run.status == "FINISHED"
    headline, least = HEADLINES[run.recipe["model"]["name"]]
    assert least <= run.metrics[headline] <= 1
    assert run.metrics["train/loss"] > 0

    again = load_run(run.id[:8], uri=store.uri)
    assert again.recipe["model"]["num_classes"] == len(again.recipe["model"]["class_names"])
    image = again.datamodule.dataset("val")[0]["image"].movedim(0, -1).numpy()
    (answer,) = again.predict(image)
    said = next(answer[key] for key in ("classes", "labels", "label") if key in answer)
    said = [said] if isinstance(said, str) else said
    assert set(said) <= set(again.recipe["model"]["class_names"])
    # The frozen recipe is a recipe: it validates, and it gives the same frozen recipe.
    frozen = tmp_path / "frozen.yaml"
    frozen.write_text(yaml.safe_dump(again.recipe))
    assert load_recipe(frozen).frozen == again.recipe
