import json

from mlflow.tracking import MlflowClient

from lit_imgproc.tracking.dataset import log_dataset
from lit_imgproc.tracking.logger import MLflowTracker


def test_the_data_set_is_an_input_of_the_run(store):
    tracker = MLflowTracker(
        experiment="x", uri=store.uri, artifacts=store.artifacts, run_name=None, tags=None
    )
    digest = "0123456789abcdef" * 4
    facts = {"image_size": [28, 28], "in_channels": 1, "class_names": ["a", "b"], "mean": [0.3]}
    log_dataset(
        tracker,
        name="fashion_mnist",
        source="data/fashion_mnist",
        digest=digest,
        facts=facts,
        splits={"train": 55000, "val": 5000, "test": 10000},
    )
    tracker.end("FINISHED")
    [logged] = MlflowClient(store.uri).get_run(tracker.run_id).inputs.dataset_inputs
    assert logged.dataset.name == "fashion_mnist"
    assert logged.dataset.digest == digest[:36]
    assert json.loads(logged.dataset.source) == {"uri": "data/fashion_mnist"}
    profile = json.loads(logged.dataset.profile)
    assert profile["sha256"] == digest
    assert profile["splits"] == {"train": 55000, "val": 5000, "test": 10000}
    assert profile["class_names"] == ["a", "b"]
    features = json.loads(json.loads(logged.dataset.schema)["mlflow_tensorspec"]["features"])
    assert features[0]["tensor-spec"] == {"dtype": "uint8", "shape": [-1, 28, 28, 1]}
    assert {tag.key: tag.value for tag in logged.tags} == {"mlflow.data.context": "training"}
