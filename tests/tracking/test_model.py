import io
import json
import subprocess
import sys

import mlflow
import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient
from torch import nn

from lit_imgproc.errors import UserError
from lit_imgproc.inputs import InputSpec
from lit_imgproc.models.base import Normalization
from lit_imgproc.models.exported import ImageToImage
from lit_imgproc.models.segmentation.exported import ProbabilityMap
from lit_imgproc.models.segmentation.module import Segmenter
from lit_imgproc.models.segmentation.networks import (
    deeplabv3_mobilenet_v3_large,
    deeplabv3_plus,
    unet,
)
from lit_imgproc.optim import SGD
from lit_imgproc.tracking import pyfunc
from lit_imgproc.tracking.logger import MLflowTracker
from lit_imgproc.tracking.model import export, log_model
from lit_imgproc.tracking.pyfunc import DESCRIPTION, NETWORK

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


# Segmenters --------------------------------------------------------------------------------------

NAMES = ["background", "Tür", "window"]


def make_segmenter(network=None):
    torch.manual_seed(0)
    if network is None:
        network = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.ConvTranspose2d(8, len(NAMES), 2, stride=2),
        )
        network(torch.rand(8, 3, 16, 12))
        network.divisor = 2
    return ProbabilityMap(Normalization([0.4, 0.5, 0.6], [0.2, 0.25, 0.3]), network)


def masks_by_hand(network, spec, images):
    """What the network answers, at the size of the images."""
    prepared = torch.from_numpy(np.stack([spec(image) for image in images]))
    with torch.no_grad():
        found = network.eval()(prepared.permute(0, 3, 1, 2) / 255.0)
    size = images.shape[1:3]
    if found.shape[2:] != size:
        found = nn.functional.interpolate(found, size, mode="bilinear", align_corners=False)
    return found.argmax(1).to(torch.uint8).numpy()


SPECS = {
    "squash": InputSpec(3, (17, 12), "squash"),
    "fit": InputSpec(3, (15, 40), "fit"),
    "none": InputSpec(3, (15, 40), "none"),
}


@pytest.fixture(params=SPECS)
def logged_segmenter(request, store, images):
    tracker = MLflowTracker(
        experiment="x", uri=store.uri, artifacts=store.artifacts, run_name=None, tags=None
    )
    network, spec = make_segmenter(), SPECS[request.param]
    log_model(
        tracker,
        network=network,
        input_spec=spec,
        class_names=NAMES,
        example=images[:1],
        register=None,
        alias=None,
    )
    tracker.end("FINISHED")
    return tracker.artifact_dir / "model", network, spec


def test_a_segmenter_gives_masks_at_the_size_of_the_images(logged_segmenter):
    folder, network, spec = logged_segmenter
    model = mlflow.pyfunc.load_model(str(folder))
    random = np.random.default_rng(1)
    for shape in ((5, 20, 30, 3), (1, 31, 17, 3), (1, 2, 3, 3), (0, 8, 8, 3)):
        images = random.integers(0, 256, shape, dtype=np.uint8)
        masks = model.predict(images)
        assert masks.shape == shape[:3]
        assert masks.dtype == np.uint8
        if len(images):
            np.testing.assert_array_equal(masks, masks_by_hand(network, spec, images))
            assert len(np.unique(masks)) > 1
    signature = model.metadata.signature
    assert signature.inputs.inputs[0].shape == (-1, -1, -1, 3)
    assert signature.outputs.inputs[0].shape == (-1, -1, -1)
    assert signature.outputs.inputs[0].type == np.uint8
    description = json.loads((folder / "data" / "data" / "description.json").read_text("utf-8"))
    assert description["task"] == "segmentation"
    assert description["class_names"] == NAMES
    with pytest.raises(mlflow.MlflowException, match="uint8"):
        model.predict(np.zeros((1, 8, 8, 3), np.float32))


@pytest.mark.parametrize("logged_segmenter", ["none"], indirect=True)
def test_a_segmenter_loads_where_the_project_is_not_and_without_lightning(
    logged_segmenter, tmp_path
):
    folder, *_ = logged_segmenter
    script = (
        "import sys, mlflow.pyfunc, numpy as np\n"
        f"model = mlflow.pyfunc.load_model({str(folder)!r})\n"
        "assert model.predict(np.zeros((2, 9, 7, 3), np.uint8)).shape == (2, 9, 7)\n"
        "assert not {'lightning', 'timm', 'segmentation_models_pytorch', 'albumentations'}"
        " & set(sys.modules)\n"
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
    assert done.stdout.strip().startswith(str(folder / "code"))


def test_a_segmenter_of_cropped_images_is_refused_in_one_sentence(store, images):
    tracker = MLflowTracker(
        experiment="x", uri=store.uri, artifacts=store.artifacts, run_name=None, tags=None
    )
    with pytest.raises(UserError, match="squash, fit or none"):
        log_model(
            tracker,
            network=make_segmenter(),
            input_spec=InputSpec(3, (16, 12), "crop"),
            class_names=NAMES,
            example=images[:1],
            register=None,
            alias=None,
        )
    tracker.end("FINISHED")
    assert not (tracker.artifact_dir / "model").exists()


SEGMENTERS = {
    "unet": lambda: unet("resnet10t", 3),
    "deeplabv3_plus": lambda: deeplabv3_plus("resnet10t", 3, output_stride=8),
    "torchvision": lambda: deeplabv3_mobilenet_v3_large(3),
    "tensorflow": lambda: unet(
        "tf_mobilenetv3_small_minimal_100", 3
    ),  # its padding depends on sizes
}


@pytest.mark.parametrize("name", SEGMENTERS)
def test_real_segmenters_can_be_exported_for_images_of_any_size(name):
    network = make_segmenter(SEGMENTERS[name]()).eval()
    stored = io.BytesIO()
    torch.export.save(export(network, InputSpec(3, (64, 96), "none")), stored)
    stored.seek(0)
    module = torch.export.load(stored).module()
    for size in ((64, 96), (32, 32), (32, 160)):  # one step of the network is 32, 8 or 1
        images = torch.rand(size[0] // 32, 3, *size)
        with torch.no_grad():
            torch.testing.assert_close(module(images), network(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["unet", "deeplabv3_plus"])
def test_real_segmenters_can_be_exported_for_one_size_that_they_do_not_take(name):
    network = make_segmenter(SEGMENTERS[name]()).eval()
    module = export(network, InputSpec(3, (45, 60), "squash")).module()
    for batch in (1, 3):
        images = torch.rand(batch, 3, 45, 60)
        with torch.no_grad():
            torch.testing.assert_close(module(images), network(images), rtol=1e-4, atol=1e-5)


def test_a_probability_map_is_what_the_segmenter_says():
    network = unet("resnet10t", 3)
    module = Segmenter(
        network=network, num_classes=3, mean=[0.5] * 3, std=[0.25] * 3, optimizer=SGD(lr=0.1)
    ).eval()
    exported = module.export_network()
    assert isinstance(exported, ProbabilityMap)
    assert exported.divisor == 32
    images = torch.rand(2, 3, 45, 70)
    with torch.no_grad():
        torch.testing.assert_close(exported(images), module.scores(images))


@pytest.mark.parametrize("resize", ["none", "squash"])
def test_a_translator_gives_images_of_the_size_that_it_was_given(tmp_path, images, resize):
    """The identity of images in [-1, 1], which is that of pixels."""
    same = nn.Conv2d(3, 3, 1, bias=False)
    nn.init.dirac_(same.weight)
    network = ImageToImage(Normalization([0.5] * 3, [0.5] * 3), same)
    spec = InputSpec(3, images.shape[1:3], resize, interpolation="bilinear")
    torch.export.save(export(network, spec), tmp_path / NETWORK)
    description = {"task": "translation", "input_spec": spec.to_dict(), "class_names": []}
    (tmp_path / DESCRIPTION).write_text(json.dumps(description | {"divisor": 1}))
    model = pyfunc._load_pyfunc(str(tmp_path))
    assert np.array_equal(model.predict(images), images)
    larger = np.full((1, 37, 41, 3), 77, np.uint8)
    assert np.array_equal(model.predict(larger), larger)


def test_what_is_cropped_is_not_translated(store, images):
    network = ImageToImage(Normalization([0.5] * 3, [0.5] * 3), nn.Identity())
    tracker = MLflowTracker(
        experiment="x", uri=store.uri, artifacts=store.artifacts, run_name=None, tags=None
    )
    spec = InputSpec(channels=3, size=(8, 8), resize="crop", interpolation="bilinear")
    with pytest.raises(UserError, match="cut off"):
        log_model(
            tracker, network=network, input_spec=spec, class_names=[], example=images[:1],
            register=None, alias=None,
        )  # fmt: skip
    tracker.end("FINISHED")
