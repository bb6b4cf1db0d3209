import subprocess
import sys

import mlflow
import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient
from torch import nn

from lit_imgproc.inputs import InputSpec
from lit_imgproc.tracking.logger import MLflowTracker
from lit_imgproc.tracking.model import export, log_model

CLASSES = ["label", "Pêche", "T-shirt/top"]
SPEC = InputSpec(channels=3, size=(16, 12), resize="squash", interpolation="bilinear")


def make_network():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, len(CLASSES)),
        nn.Softmax(dim=1),
    )
    network(torch.rand(8, 3, 16, 12))  # batch statistics that are not the initial ones
    return network


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 20, 30, 3), dtype=np.uint8)


@pytest.fixture
def logged(store, images):
    tracker = MLflowTracker(
        experiment="x", uri=store.uri, artifacts=store.artifacts, run_name=None, tags=None
    )
    network = make_network()
    log_model(
        tracker,
        network=network,
        input_spec=SPEC,
        class_names=CLASSES,
        example=images[:2],
        register="digits",
        alias="champion",
    )
    tracker.end("FINISHED")
    return tracker, network


def test_the_model_is_in_the_run_and_in_the_registry(logged, store, images, monkeypatch):
    tracker, network = logged
    assert network.training  # it was not changed
    folder = tracker.artifact_dir / "model"
    client = MlflowClient(store.uri)
    assert "model/MLmodel" in {item.path for item in client.list_artifacts(tracker.run_id, "model")}
    version = client.get_model_version_by_alias("digits", "champion")
    assert version.run_id == tracker.run_id

    network.eval()
    prepared = np.stack([SPEC(image) for image in images])
    with torch.no_grad():
        wanted = network(torch.from_numpy(prepared).permute(0, 3, 1, 2) / 255.0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    for uri in (str(folder), f"runs:/{tracker.run_id}/model", "models:/digits@champion"):
        model = mlflow.pyfunc.load_model(uri)
        table = model.predict(images)
        assert list(table) == ["label", "score", *(f"probability/{name}" for name in CLASSES)]
        np.testing.assert_allclose(table.iloc[:, 2:].to_numpy(float), wanted, atol=1e-6)
        assert list(table["label"]) == [CLASSES[index] for index in wanted.argmax(dim=1)]
        np.testing.assert_allclose(table["score"], wanted.amax(dim=1), atol=1e-6)
        assert len(model.predict(images[:1])) == 1
        assert len(model.predict(images[:0])) == 0
        assert model.metadata.get_input_schema().inputs[0].shape == (-1, -1, -1, 3)
        np.testing.assert_array_equal(model.input_example, images[:2])
    with pytest.raises(mlflow.MlflowException, match="uint8"):
        model.predict(images.astype(np.float32))


def test_it_loads_where_the_project_is_not_and_without_lightning(logged, images, tmp_path):
    tracker, _ = logged
    script = (
        "import sys, mlflow.pyfunc, numpy as np\n"
        f"model = mlflow.pyfunc.load_model({str(tracker.artifact_dir / 'model')!r})\n"
        "table = model.predict(np.zeros((3, 9, 9, 3), np.uint8))\n"
        "assert len(table) == 3\n"
        "assert not {'lightning', 'timm', 'albumentations'} & set(sys.modules)\n"
        "import lit_imgproc\n"
        "print(lit_imgproc.__file__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().startswith(str(tracker.artifact_dir / "model/code"))


def test_an_exported_network_takes_any_batch():
    network = make_network().eval()
    module = export(network, SPEC).module()
    for batch in (1, 2, 7):
        images = torch.rand(batch, 3, 16, 12)
        torch.testing.assert_close(module(images), network(images))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet"])
def test_real_architectures_can_be_exported(name):
    import timm

    network = timm.create_model(name, num_classes=3, in_chans=1).eval()
    size = network.pretrained_cfg["input_size"][1:]
    module = export(network, InputSpec(channels=1, size=size)).module()
    for batch in (1, 3):
        images = torch.rand(batch, 1, *size)
        torch.testing.assert_close(module(images), network(images), rtol=1e-4, atol=1e-5)
