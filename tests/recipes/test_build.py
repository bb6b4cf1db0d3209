import pytest
from stand_ins import Crop, Data, Learner, Net, Quiet

from lit_imgproc.optim import SGD
from lit_imgproc.recipes.build import build, fill
from lit_imgproc.recipes.text import RecipeError

NETWORK = {"name": "stand_ins:Net", "depth": 5}
MODEL = {"name": "stand_ins:Learner", "network": NETWORK, "rate": 0.1}
FACTS = {"num_classes": 7, "in_channels": 1, "mean": [0.5], "std": [0.2], "class_names": ["a"]}


def test_innermost_first():
    optimizer = {"name": "sgd", "lr": 1, "momentum": 0.5}
    block = MODEL | {"num_classes": 7, "optimizer": optimizer, "betas": [0.1, 0.2]}
    block |= {"network": NETWORK | {"num_classes": 7}, "crop": {"size": 3, "scale": [1, 2]}}
    module = build(block, "module")
    assert type(module) is Learner
    assert type(module.network) is Net
    assert (module.network.num_classes, module.network.depth) == (7, 5)
    assert module.optimizer == SGD(lr=1.0, momentum=0.5)
    assert module.betas == (0.1, 0.2)
    assert module.crop == Crop(3, (1.0, 2.0))


def test_the_environment_is_read_when_it_is_built(monkeypatch):
    monkeypatch.setenv("WHERE", "there")
    monkeypatch.setenv("SIZE", "8")
    block = {"name": "stand_ins:Data", "root": "a/${oc.env:WHERE}", "batch_size": "${oc.env:SIZE}"}
    data = build(block, "datamodule")
    assert type(data) is Data
    assert (data.root, data.batch_size) == ("a/there", 8)
    monkeypatch.delenv("WHERE")
    with pytest.raises(RecipeError, match=r"root: .* WHERE is not set"):
        build(block, "datamodule")


def test_callbacks():
    assert build({"name": "stand_ins:Quiet", "every": 3}, "callback").every == 3
    assert isinstance(build({"name": "stand_ins:Quiet"}, "callback"), Quiet)


def test_facts_fill_what_is_unset():
    filled = fill(MODEL, "module", FACTS)
    assert filled == MODEL | {
        "num_classes": 7,
        "mean": [0.5],
        "std": [0.2],
        "network": NETWORK | {"num_classes": 7, "in_channels": 1},
    }
    assert "num_classes" not in MODEL
    assert fill(filled, "module", {"num_classes": 3}) == filled


def test_weights_bring_their_own_normalization():
    filled = fill(MODEL | {"weights": "pretrained"}, "module", FACTS)
    assert "mean" not in filled
    assert "std" not in filled
    assert filled["num_classes"] == 7
    assert "mean" in fill(MODEL | {"weights": None}, "module", FACTS)


def test_the_seed_is_a_fact_of_the_recipe():
    block = {"name": "stand_ins:Data", "root": "x"}
    assert fill(block, "datamodule", {"seed": 3}) == block | {"seed": 3}
    assert fill(block | {"seed": 1}, "datamodule", {"seed": 3})["seed"] == 1
