from pathlib import Path

import pytest

from lit_imgproc.recipes.compose import compose
from lit_imgproc.recipes.text import RecipeError


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(name, text):
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return name

    return write


def lines(composed):
    return [composed.line(mistake) for mistake in composed.mistakes]


def test_extends_later_wins(write):
    write("base/a.yaml", "seed: 1\nmodel: {name: m, x: 1, y: 1, z: 1}\n")
    write("base/b.yaml", "model: {y: 2, z: 2, items: [1, 2]}\n")
    write("r.yaml", "extends: [base/a.yaml, base/b.yaml]\nmodel: {z: 3, items: [9]}\n")
    composed = compose("r.yaml")
    assert composed.values == {
        "seed": 1,
        "model": {"name": "m", "x": 1, "y": 2, "z": 3, "items": [9]},
    }
    assert [str(path) for path in composed.sources] == ["r.yaml", "base/a.yaml", "base/b.yaml"]
    places = {".".join(map(str, path)): place for path, place in composed.origins.items()}
    assert places["seed"] == "base/a.yaml:1"
    assert places["model.y"] == "base/b.yaml:1"
    assert places["model.z"] == "r.yaml:2"


def test_one_base_may_be_reached_twice(write):
    write("a.yaml", "seed: 1")
    write("b.yaml", "extends: a.yaml\nmodel: {name: b}")
    write("r.yaml", "extends: [a.yaml, b.yaml]")
    assert compose("r.yaml").values == {"seed": 1, "model": {"name": "b"}}


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (
            {"a.yaml": "seed: 1\nextends: b.yaml", "b.yaml": "extends: a.yaml"},
            "b.yaml:1: extends: a recipe cannot extend itself: a.yaml -> b.yaml -> a.yaml",
        ),
        ({"a.yaml": "extends: a.yaml"}, "a.yaml:1: extends: a recipe cannot extend itself: "),
        (
            {"a.yaml": "\nextends: c.yaml"},
            "a.yaml:2: extends: c.yaml cannot be read: No such file or directory",
        ),
        ({"a.yaml": "extends: 3"}, "a.yaml:1: extends: a path or a list of paths is needed"),
        ({"a.yaml": "- 1"}, "a.yaml: a recipe is a block of keys, such as `model:`"),
        ({"a.yaml": ""}, "a.yaml: a recipe is a block of keys, such as `model:`"),
        ({"a.yaml": "a: 1\nb: [", "b.yaml": ""}, "a.yaml:3: this is not valid YAML: "),
    ],
)
def test_files_that_cannot_be_composed(write, files, sentence):
    for name, text in files.items():
        write(name, text)
    with pytest.raises(RecipeError) as error:
        compose("a.yaml")
    (line,) = error.value.lines
    assert line.startswith(sentence)


RECIPE = """
model:
  name: m
  network: {name: net, depth: 3}
  rate: 0.1
callbacks: {ema: {decay: 0.9}, explain: {}}
toy:
  model.network.name: small
  model.rate: 0.2
  data: {batch_size: 2}
"""


def test_overrides_in_any_order(write):
    write("r.yaml", RECIPE)
    overrides = ["model.network.width=2", "model.network.name=other", "model.rate=1e-4", "seed=3"]
    for given in (overrides, overrides[::-1]):
        values = compose("r.yaml", given).values
        assert values["model"]["network"] == {"name": "other", "width": 2}
        assert values["model"]["rate"] == 1e-4
        assert values["seed"] == 3
    assert list(values) == ["seed", "model", "callbacks"]


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("model.rate=null", None),
        ("model.rate=", None),
        ("model.rate=[1, a]", [1, "a"]),
        ("model.rate={a: 1}", {"a": 1}),
        ("model.rate='1'", "1"),
        ("model.rate=a=b", "a=b"),
        ("model.rate=${model.network.depth}", 3),
    ],
)
def test_override_values_are_yaml(write, override, value):
    write("r.yaml", RECIPE)
    composed = compose("r.yaml", [override])
    assert composed.values["model"]["rate"] == value
    assert composed.origins["model", "rate"] == "override"
    assert composed.origins["model",] == "r.yaml:2"


def test_overrides_that_are_none(write):
    write("r.yaml", RECIPE)
    composed = compose("r.yaml", ["model.rate", "=3", "a..b=1", "model.rate=[1"])
    assert lines(composed)[:3] == [
        f"override: got {given}; key=value is needed, such as trainer.max_epochs=3"
        for given in ("model.rate", "=3", "a..b=1")
    ]
    assert lines(composed)[3].startswith("override: model.rate: got [1; this is not valid YAML")


def test_callbacks_have_names_and_null_switches_off(write):
    write("r.yaml", RECIPE)
    overrides = ["callbacks.ema=null", "callbacks.checkpoint=null", "callbacks.mine={name: 'a:B'}"]
    composed = compose("r.yaml", overrides)
    assert composed.values["callbacks"] == {"explain": {"name": "explain"}, "mine": {"name": "a:B"}}
    assert composed.mistakes == []


def test_a_slip_does_not_pass_for_switching_off(write):
    write("r.yaml", RECIPE)
    composed = compose("r.yaml", ["callbacks.explian=null"])
    (line,) = lines(composed)
    sentence = "there is no such callback to switch off; did you mean explain?"
    assert line == f"override: callbacks.explian: {sentence}"


def test_toy(write):
    write("r.yaml", RECIPE)
    write("child.yaml", "extends: r.yaml\ntoy: {model.network.width: 7, data.batch_size: 4}")
    assert "toy" not in compose("child.yaml").values
    composed = compose("child.yaml", ["model.rate=0.3"], toy=True)
    assert composed.values["model"] == {
        "name": "m",
        "network": {"name": "small", "width": 7},
        "rate": 0.3,
    }
    assert composed.values["data"] == {"batch_size": 4}
    assert composed.origins["model", "network", "name"] == "r.yaml:8"
    assert composed.origins["model", "rate"] == "override"
    changed = compose("child.yaml", ["toy.model.network.name=tiny"], toy=True)
    assert changed.values["model"]["network"] == {"name": "tiny"}


def test_keys_given_twice(write):
    write("r.yaml", "seed: 1\nmodel:\n  rate: 1\n  rate: 2\n")
    assert lines(compose("r.yaml")) == [
        "r.yaml:4: model.rate: this key is given twice in one block"
    ]


def test_the_record_keeps_references_to_the_environment(write, monkeypatch):
    monkeypatch.setenv("TOKEN", "hunter2")
    write("r.yaml", "tracking: {uri: 'http://${oc.env:TOKEN}@h', tags: {u: '${tracking.uri}'}}")
    composed = compose("r.yaml")
    assert "hunter2" not in str(composed)
    write("frozen.yaml", composed.text())
    assert compose("frozen.yaml").values == composed.values


@pytest.mark.parametrize("toy", [False, True])
def test_a_composed_recipe_is_a_recipe(write, toy):
    write("r.yaml", RECIPE)
    composed = compose("r.yaml", ["model.rate=1e-7"], toy=toy)
    write("frozen.yaml", composed.text())
    assert compose("frozen.yaml").values == composed.values


def test_a_place_outside_the_working_folder_is_a_whole_path(write, tmp_path, monkeypatch):
    write("r.yaml", "seed: 1\nseed: 2")
    write("elsewhere/x", "")
    monkeypatch.chdir("elsewhere")
    assert lines(compose("../r.yaml")) == [
        f"{tmp_path}/r.yaml:2: seed: this key is given twice in one block"
    ]


def test_a_recipe_of_ones_own_extends_a_packaged_one_wherever_it_lies(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("extends: base/classification.yaml\nmodel: {label_smoothing: 0.2}\n")
    values = compose(recipe).values
    assert values["model"]["name"] == "classifier"
    assert values["model"]["label_smoothing"] == 0.2
