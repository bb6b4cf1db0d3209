import json

import pytest

from lit_imgproc.recipes.catalog import names
from lit_imgproc.recipes.json_schema import _documented, json_schema
from lit_imgproc.recipes.registry import TABLES
from lit_imgproc.recipes.text import read

jsonschema = pytest.importorskip("jsonschema")


@pytest.fixture(scope="module")
def validator():
    schema = json_schema()
    json.dumps(schema)
    kind = jsonschema.validators.validator_for(schema)
    kind.check_schema(schema)
    return kind(schema)


@pytest.mark.parametrize("name", names())
def test_recipe_files_are_valid(validator, name):
    values, _, _ = read(names()[name].read_bytes(), name)
    assert [error.message for error in validator.iter_errors(values)] == []


@pytest.mark.parametrize(
    ("recipe", "valid"),
    [
        ({"model": {"optimizer": {"name": "sgd", "lr": 0.1}}}, True),
        ({"model": {"optimizer": {"lr": 0.1}}}, True),
        ({"model": {"optimizer": {"lr": "${seed}"}}}, True),
        ({"model": {"optimizer": {"lr": "fast"}}}, False),
        ({"model": {"optimizer": {"lr": -1}}}, False),
        ({"model": {"optimizer": {"name": "sgdd"}}}, False),
        ({"model": {"optimizer": {"name": "sgd", "betas": [0, 1]}}}, False),
        ({"model": {"network": {"name": "mine:Net", "anything": 1}}}, True),
        ({"model": {"network": "resnet20"}}, False),
        ({"callbacks": {"ema": None, "explain": {}}}, True),
        ({"callbacks": {"ema": {"decy": 1}}}, False),
        ({"callbacks": {"mine": {"name": "mine:Callback"}}}, True),
        ({"trainer": {"max_epochs": 3, "precision": "bf16-mixed"}}, True),
        ({"trainer": {"precision": "bf16mixed"}}, False),
        ({"trainer": {"logger": True}}, False),
        ({"recipe": {"expects": {"test/accuracy": {"value": 1, "source": "measured"}}}}, True),
        ({"recipe": {"expects": {"test/accuracy": {"value": 1, "source": "seen"}}}}, False),
        ({"extends": ["a.yaml"], "toy": {"model.x": 1}}, True),
        ({"models": {}}, False),
    ],
)
def test_pieces(validator, recipe, valid):
    assert validator.is_valid(recipe) is valid


def test_every_name_is_offered(validator):
    offered = set(validator.schema["$defs"])
    assert {f"{kind}.{name}" for kind, table in TABLES.items() for name in table} <= offered


def test_docstrings_become_descriptions():
    from stand_ins import Learner

    assert _documented(Learner) == {
        "": "Learns nothing.",
        "network": "what computes.",
        "rate": "how fast, over two lines.",
    }
