"""The record of a run: one short training, and every item of it read back through MLflow."""

import hashlib
import importlib.metadata
import io
import json
import math
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import cv2
import mlflow
import numpy as np
import psutil
import pytest
import torch
import yaml
from mlflow.tracking import MlflowClient

from lit_imgproc import load_recipe, load_run
from lit_imgproc.data.imagenet.datamodule import Digits

SECRET = "s3cr3t-tr0ub4dor"
LONG_LIST = [{"name": "HorizontalFlip", "p": 0.0}] * 30  # over 500 characters, MLflow's old limit
EPOCHS, BATCH = 2, 32
PICTURE = re.compile(r"images/(\w+)~(\w+)\+step\+(\d+)\+timestamp\+\d+\+[\w-]+\.png")

RECIPE = f"""\
extends: quickstart.yaml
recipe: {{title: What is recorded}}
seed: 7
model: {{optimizer: {{lr: 0.003}}}}
data:
  root: ${{oc.env:LIT_IMGPROC_TEST_ROOT}}
  batch_size: {BATCH}
  num_workers: 0
  augment: {{train: {json.dumps(LONG_LIST)}}}
trainer: {{accelerator: cpu, max_epochs: {EPOCHS}, log_every_n_steps: 1}}
tracking:
  experiment: record
  run_name: to be read back
  tags: {{who: nobody, token: "${{oc.env:LIT_IMGPROC_TEST_TOKEN}}"}}
  register: digits
  alias: champion
"""


def git(folder, *arguments):
    done = subprocess.run(
        ["git", "-c", "user.name=T", "-c", "user.email=t@example.org", *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def trained(empty_store, tmp_path_factory):
    """One run of a recipe in a repository with a changed and an untracked file.

    We stand outside the repository, and the environment holds a secret that the recipe refers to.
    """
    top = tmp_path_factory.mktemp("record")
    repository, elsewhere, data = top / "work", top / "elsewhere", top / SECRET
    for folder in (repository, elsewhere):
        folder.mkdir()
    Digits.write_toy(data)
    git(repository, "init", "-b", "trunk")
    (repository / "code.py").write_text("x = 1\n")
    recipe = repository / "mine.yaml"
    recipe.write_text(RECIPE)
    git(repository, "add", ".")
    git(repository, "commit", "-m", "first")
    (repository / "code.py").write_text("x = 2\n")
    (repository / "new.py").write_text("y = 3\n")
    shutil.copy(empty_store, top / "mlflow.db")
    uri, artifacts = f"sqlite:///{top}/mlflow.db", top / "artifacts"
    overrides = (f"tracking.uri={uri}", f"tracking.artifacts={artifacts}")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(elsewhere)
        patch.setenv("XDG_CACHE_HOME", str(top / "cache"))
        patch.setenv("LIT_IMGPROC_TEST_TOKEN", SECRET)
        patch.setenv("LIT_IMGPROC_TEST_ROOT", str(data))
        patch.setattr(sys, "argv", ["/usr/bin/lit-imgproc", "train", str(recipe), *overrides])
        run = load_recipe(recipe, *overrides).train()
    client = MlflowClient(uri)
    return SimpleNamespace(
        top=top, repository=repository, data=data, recipe=recipe, overrides=overrides, uri=uri,
        artifacts=artifacts, run=run, client=client, record=client.get_run(run.id),
    )  # fmt: skip


@pytest.fixture
def read(trained, tmp_path):
    """An artifact as text, fetched as any MLflow client would."""

    def read(path):
        return Path(trained.client.download_artifacts(trained.run.id, path, str(tmp_path)))

    return lambda path: read(path).read_text("utf-8")


@pytest.fixture
def secret_known(trained, monkeypatch):
    """The environment of the training: what needs the data again needs its place again."""
    monkeypatch.setenv("LIT_IMGPROC_TEST_TOKEN", SECRET)
    monkeypatch.setenv("LIT_IMGPROC_TEST_ROOT", str(trained.data))


def files(trained, folder=""):
    """Every artifact of the run, as the client lists them."""
    found = []
    for item in trained.client.list_artifacts(trained.run.id, folder):
        found += files(trained, item.path) if item.is_dir else [item.path]
    return found


def leaves(tree, prefix=""):
    """Dotted names of what is in nested blocks, and its values."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def test_the_status_is_finished_and_the_names_are_those_asked_for(trained):
    info = trained.record.info
    assert info.status == trained.run.status == "FINISHED"
    assert info.end_time > info.start_time
    assert info.run_name == "to be read back"
    assert trained.client.get_experiment(info.experiment_id).name == "record"
    assert info.artifact_uri.startswith(str(trained.artifacts))
    tags = trained.record.data.tags
    assert (tags["recipe"], tags["system"], tags["who"]) == ("What is recorded", "CNN", "nobody")


def test_parameters_are_the_whole_recipe_flattened_and_untruncated(trained, read):
    params = trained.record.data.params
    recipe = yaml.safe_load(read("recipe.yaml"))
    # Names and places are tags and the like, not parameters.
    blocks = {key: recipe[key] for key in recipe if key not in ("recipe", "tracking")}
    recorded = dict(leaves(blocks))
    assert set(params) == set(recorded)
    for key, value in recorded.items():
        assert params[key] == (json.dumps(value) if isinstance(value, list) else str(value)), key
    assert len(params["data.augment.train"]) > 1000
    assert json.loads(params["data.augment.train"]) == LONG_LIST
    assert params["model.optimizer.lr"] == "0.003"
    assert json.loads(params["model.class_names"]) == list("0123456789")
    assert params["seed"] == params["data.seed"] == "7"


def test_the_resolved_recipe_is_a_recipe_that_gives_itself(trained, read, tmp_path, secret_known):
    text = read("recipe.yaml")
    recipe = yaml.safe_load(text)
    assert "extends" not in recipe
    assert "toy" not in recipe
    assert recipe["model"]["network"] == {"name": "convnet", "num_classes": 10, "in_channels": 1}
    assert recipe["callbacks"]["checkpoint"]["name"] == "checkpoint"
    again = tmp_path / "again.yaml"
    again.write_text(text)
    assert load_recipe(again).frozen == recipe


def test_command_line(trained, read):
    command = trained.record.data.tags["command"]
    assert command.split() == ["lit-imgproc", "train", str(trained.recipe), *trained.overrides]
    assert read("provenance/command.txt").strip() == command
    assert trained.record.data.tags["mlflow.source.name"] == str(trained.recipe)


def test_code(trained, read, tmp_path):
    tags = trained.record.data.tags
    commit = git(trained.repository, "rev-parse", "HEAD")
    assert tags["mlflow.source.git.commit"] == commit
    assert tags["mlflow.source.git.branch"] == "trunk"
    assert tags["git.dirty"] == "true"
    state = json.loads(read("provenance/git.json"))
    assert (state["commit"], state["branch"], state["dirty"]) == (commit, "trunk", True)
    (listed,) = json.loads(read("provenance/untracked.json"))["files"]
    digest = hashlib.sha256(b"y = 3\n").hexdigest()
    assert listed == {"path": "new.py", "bytes": 6, "sha256": digest}
    # The diff brings a fresh clone of the commit to the state that was run.
    git(tmp_path, "clone", str(trained.repository), "clone")
    (tmp_path / "diff.patch").write_text(read("provenance/diff.patch"))
    git(tmp_path / "clone", "apply", str(tmp_path / "diff.patch"))
    assert (tmp_path / "clone/code.py").read_text() == "x = 2\n"


def test_packages_and_hardware(read):
    packages = read("provenance/packages.txt").splitlines()
    for name in ("torch", "lightning", "mlflow", "timm"):
        assert f"{name}=={importlib.metadata.version(name)}" in packages
    hardware = json.loads(read("provenance/hardware.json"))
    assert hardware["memory_bytes"] == psutil.virtual_memory().total
    assert hardware["cpu_threads"] == psutil.cpu_count()
    assert {"cpu", "gpus", "torch_cuda", "python", "hostname"} <= set(hardware)


def test_data_set(trained, secret_known):
    (read,) = trained.record.inputs.dataset_inputs
    datamodule = trained.run.datamodule
    fingerprint = datamodule.fingerprint()
    assert read.dataset.name == "digits"
    assert fingerprint.startswith(read.dataset.digest)
    assert len(read.dataset.digest) == 36
    profile = json.loads(read.dataset.profile)
    assert profile["sha256"] == fingerprint
    assert profile["splits"] == datamodule.splits()
    assert profile["num_classes"] == 10
    assert {tag.key: tag.value for tag in read.tags} == {"mlflow.data.context": "training"}


def test_metrics_of_every_step_and_of_every_epoch(trained):
    images = json.loads(trained.record.inputs.dataset_inputs[0].dataset.profile)["splits"]["train"]
    steps = math.ceil(images / BATCH)

    def history(name):
        points = trained.client.get_metric_history(trained.run.id, name)
        assert all(math.isfinite(point.value) for point in points)
        return [point.step for point in points]

    assert history("train/loss") == list(range(EPOCHS * steps))
    assert len(history("lr-SGD/layer0/decay")) == EPOCHS * steps
    assert len(history("speed/images_per_second")) == EPOCHS * steps
    for name in ("val/loss", "val/accuracy", "val/f1"):
        assert history(name) == [steps - 1, 2 * steps - 1]
    assert len(history("test/accuracy")) == 1
    tested = set(trained.record.data.metrics)
    assert {f"test/accuracy/{name}" for name in "0123456789"} <= tested
    assert {"test/accuracy_top5", "test/f1", "test/auroc", "test/calibration_error"} <= tested
    assert trained.record.data.metrics["train/loss"] < 2  # it did learn: ln 10 is 2.3


def test_system_metrics(trained):
    system = {name for name in trained.record.data.metrics if name.startswith("system/")}
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= system


@pytest.mark.parametrize("kind", [("predictions", "val"), ("explanations", "grad_cam")])
def test_pictures_have_a_step_for_the_slider(trained, kind, tmp_path):
    pictures = [PICTURE.fullmatch(path) for path in files(trained, "images")]
    steps = {int(p[3]): p[0] for p in pictures if p and (p[1], p[2]) == kind}
    last = int(max(steps))
    assert sorted(steps) == [last // EPOCHS, last]
    drawn = []
    for path in steps.values():
        file = trained.client.download_artifacts(trained.run.id, path, str(tmp_path))
        image = cv2.imread(file)
        assert image.std() > 10  # something is drawn
        drawn.append(image)
    assert not np.array_equal(*drawn)  # and it follows the training


def test_the_confusion_matrix_is_a_figure(trained, tmp_path):
    file = trained.client.download_artifacts(
        trained.run.id, "figures/confusion_matrix.png", str(tmp_path)
    )
    assert cv2.imread(file).std() > 10


def test_checkpoints_are_plain_data_that_say_what_they_are(trained, read):
    recipe = yaml.safe_load(read("recipe.yaml"))
    names = ["best", "last-1", "last"]
    assert files(trained, "checkpoints") == [f"checkpoints/{name}.ckpt" for name in names]
    saved = {}
    for name in names:
        path = f"checkpoints/{name}.ckpt"
        file = trained.client.download_artifacts(trained.run.id, path)
        saved[name] = torch.load(file, map_location="cpu", weights_only=True)
        assert saved[name]["recipe"] == recipe
        assert saved[name]["run_id"] == trained.run.id
    assert saved["last"]["epoch"] == EPOCHS - 1
    assert "loops" in saved["last"]  # to go on from
    # Best is what the checkpoint callback monitors: no epoch was better.
    accuracies = trained.client.get_metric_history(trained.run.id, "val/accuracy")
    best = saved["best"]["epoch"]
    assert accuracies[best].value == max(point.value for point in accuracies)


def test_the_mlflow_model_takes_raw_images_and_answers_as_the_run_does(trained, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", trained.uri)
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (40, 31), dtype=np.uint8) for _ in range(3)]
    for image in images:  # nothing like a digit is no fair question
        cv2.putText(image, "4", (3, 36), cv2.FONT_HERSHEY_SIMPLEX, 1.2, 255, 4)
    answers = load_run(trained.run.id, uri=trained.uri).predict(images)
    by_alias = f"models:/{trained.run.recipe['tracking']['register']}@champion"
    for uri in (f"runs:/{trained.run.id}/model", by_alias):
        model = mlflow.pyfunc.load_model(uri)
        table = model.predict(np.stack(images)[..., np.newaxis])
        assert list(table["label"]) == [answer["label"] for answer in answers]
        for row, answer in zip(table.to_dict("records"), answers, strict=True):
            assert row["score"] == pytest.approx(answer["score"], rel=1e-4)
            for name, probability in answer["probabilities"].items():
                assert row[f"probability/{name}"] == pytest.approx(probability, rel=1e-3, abs=1e-6)
        assert model.metadata.get_input_schema().inputs[0].shape == (-1, -1, -1, 1)
        assert "label" in model.metadata.get_output_schema().input_names()
        example = model.input_example
        assert example.dtype == np.uint8
        assert len(model.predict(example)) == len(example) == 2


def test_it_is_registered_under_the_name_and_alias_asked_for(trained):
    version = trained.client.get_model_version_by_alias("digits", "champion")
    assert version.run_id == trained.run.id
    assert version.source.startswith(trained.record.info.artifact_uri)


def test_a_secret_of_the_environment_is_nowhere_in_the_run(trained):
    data = trained.record.data
    assert data.tags["token"] == "${oc.env:LIT_IMGPROC_TEST_TOKEN}"
    assert data.params["data.root"] == "${oc.env:LIT_IMGPROC_TEST_ROOT}"
    # All of the store: parameters, tags, inputs, the registry, whatever else MLflow keeps.
    assert SECRET.encode() not in (trained.top / "mlflow.db").read_bytes()
    searched = [path for path in trained.artifacts.rglob("*") if path.is_file()]
    assert {"best.ckpt", "network.pt2", "recipe.yaml", "command.txt"} <= {p.name for p in searched}
    for path in searched:
        assert SECRET.encode() not in b"".join(contents(path.read_bytes())), path


def contents(data):
    """The bytes of a file; of an archive such as a checkpoint also those of what it holds."""
    yield data
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                yield from contents(archive.read(name))
