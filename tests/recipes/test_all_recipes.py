"""The contract of every recipe: it composes, it validates, and its toy runs from end to end."""

import math

import numpy as np
import pytest
import yaml

from lit_imgproc import load_recipe, load_run
from lit_imgproc.errors import UserError
from lit_imgproc.recipes import catalog

HEADLINES = {
    "classifier": ("test/accuracy", 0, 1),
    "detector": ("test/map", -1, 1),
    "region_detector": ("test/map", -1, 1),
    "rcnn": ("test/map", -1, 1),
    "segmenter": ("test/iou", 0, 1),
    "instance_segmenter": ("test/iou", 0, 1),
    "gan": ("test/precision_pixels", -1, 1),
    "stylegan2": ("test/precision_pixels", -1, 1),
    "pix2pix": ("test/ssim", -1, 1),
    "cyclegan": ("test/cycle_error", 0, 1),
    "style_transfer": ("test/content_loss", 0, float("inf")),
    "adain": ("test/content_loss", 0, float("inf")),
}
"""What a test of each module always says, the least and the most that it can be: -1 for nothing."""
MAKERS = ("pix2pix", "cyclegan", "style_transfer", "adain")
"""Modules that make an image of an image."""
GENERATORS = ("gan", "stylegan2")
"""Modules that make an image of a seed."""

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
    module = run.recipe["model"]["name"]
    headline, least, most = HEADLINES[module]
    assert least <= run.metrics[headline] <= most
    losses = [name for name in run.metrics if name.startswith("train/") and name.endswith("loss")]
    assert losses
    assert all(math.isfinite(run.metrics[name]) for name in losses)

    again = load_run(run.id[:8], uri=store.uri)
    if module in GENERATORS:
        made = again.module.generate([0, 1])
        assert len(made) == 2
        assert 0 <= made.min() <= made.max() <= 1
    else:
        image = again.datamodule.dataset("val")[0]["image"].movedim(0, -1).numpy()
        if module == "adain":
            with pytest.raises(UserError, match="style"):
                again.predict(image)
        else:
            (answer,) = again.predict(image)
            if module in MAKERS:
                assert answer["image"].dtype == np.uint8
                assert answer["image"].shape[:2] == image.shape[:2]
            else:
                known = again.recipe["model"]["class_names"]
                assert again.recipe["model"]["num_classes"] == len(known)
                said = next(answer[key] for key in ("classes", "labels", "label") if key in answer)
                assert set([said] if isinstance(said, str) else said) <= set(known)
    # The frozen recipe is a recipe: it validates, and it gives the same frozen recipe.
    frozen = tmp_path / "frozen.yaml"
    frozen.write_text(yaml.safe_dump(again.recipe))
    assert load_recipe(frozen).frozen == again.recipe
