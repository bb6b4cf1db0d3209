import pytest
from mlflow.utils.validation import _validate_metric_name

from lit_imgproc.tracking.names import entity_name, flatten


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("val/accuracy/T-shirt or top", "val/accuracy/T-shirt or top"),
        ("recall/50% off (new)", "recall/50_ off _new_"),
        ("recall//../Pêche", "recall/Pêche"),
        ("x" * 300, "x" * 250),
    ],
)
def test_names_become_names_that_mlflow_accepts(key, name):
    assert entity_name(key) == name
    _validate_metric_name(name)


def test_names_of_parameters_are_those_that_mlflow_takes():
    assert flatten({"model": {"lr@start": 0.1}}) == {"model.lr_start": "0.1"}
