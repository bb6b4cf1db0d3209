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
MAKERS = ("pix2pix", "cyclegan", "style_transfer")
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
    if "train/loss" in run.metrics:  # of networks that take no turns
        assert run.metrics["train/loss"] > 0

    again = load_run(run.id[:8], uri=store.uri)
    if module in GENERATORS:
        makes_images_of_seeds(again)
    elif module in MAKERS:
        makes_images_of_images(again)
    elif module == "adain":
        with pytest.raises(UserError, match="a network for any style needs one"):
            again.predict(first_image(again))
    else:
        names_classes(again)
    # The frozen recipe is a recipe: it validates, and it gives the same frozen recipe.
    frozen = tmp_path / "frozen.yaml"
    frozen.write_text(yaml.safe_dump(again.recipe))
    assert load_recipe(frozen).frozen == again.recipe


def makes_images_of_seeds(run):
    made = run.module.generate([0, 1])
    assert len(made) == 2
    assert 0 <= made.min() <= made.max() <= 1
    with pytest.raises(UserError, match="lit-imgproc generate"):
        run.predict(first_image(run))


def makes_images_of_images(run):
    image = first_image(run)
    (answer,) = run.predict(image)
    assert answer["image"].dtype == np.uint8
    assert answer["image"].shape[:2] == image.shape[:2]


def names_classes(run):
    known = run.recipe["model"]["class_names"]
    assert run.recipe["model"]["num_classes"] == len(known)
    (answer,) = run.predict(first_image(run))
    said = next(answer[key] for key in ("classes", "labels", "label") if key in answer)
    assert set([said] if isinstance(said, str) else said) <= set(known)


def first_image(run):
    return run.datamodule.dataset("val")[0]["image"].movedim(0, -1).numpy()
