import multiprocessing
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch.utilities import rank_zero_only
from matplotlib.figure import Figure
from mlflow.tracking import MlflowClient
from PIL import Image

from lit_imgproc.tracking.logger import LONGEST_PARAM, MLflowTracker
from lit_imgproc.tracking.store import StoreUnavailable


def open_tracker(store, **changes):
    arguments = {
        "experiment": "digits",
        "uri": store.uri,
        "artifacts": store.artifacts,
        "run_name": None,
        "tags": None,
    }
    return MLflowTracker(**(arguments | changes))


@pytest.fixture
def tracker(store):
    tracker = open_tracker(store, run_name="first", tags={"recipe": "quickstart"})
    yield tracker
    tracker.end("FINISHED")


@pytest.fixture
def client(store):
    return MlflowClient(store.uri)


def test_a_run_has_its_name_tags_and_place(tracker, client, store):
    run = client.get_run(tracker.run_id)
    assert (run.info.run_name, run.info.status) == ("first", "RUNNING")
    assert run.data.tags["recipe"] == "quickstart"
    assert tracker.artifact_dir.is_relative_to(store.artifacts)
    assert (tracker.name, tracker.version) == ("digits", tracker.run_id)
    assert tracker.save_dir == str(tracker.artifact_dir)
    assert tracker.experiment.get_run(tracker.run_id).info.run_id == tracker.run_id


def test_every_point_is_in_the_store_after_a_flush(tracker, client):
    for step in range(1200):
        tracker.log_metrics({"train/loss": 1 / (step + 1), "train/accuracy": 0.5}, step)
    tracker.log_metrics({"val/loss": float("nan")}, 1199)
    tracker.flush()
    history = client.get_metric_history(tracker.run_id, "train/loss")
    assert sorted((point.step, point.value) for point in history) == [
        (step, 1 / (step + 1)) for step in range(1200)
    ]
    assert np.isnan(client.get_run(tracker.run_id).data.metrics["val/loss"])


def test_parameters_are_flat_and_whole(tracker, client):
    long, too_long = "x" * LONGEST_PARAM, "y" * (LONGEST_PARAM + 1)
    tracker.log_hyperparams(
        {
            "model": {"network": {"name": "resnet20"}, "note": long, "story": too_long},
            "data": {"augment": {"train": [{"name": "flip"}]}, "mean": (0.5,)},
            "trainer": {},
            "callbacks": {"ema": None},
            "many": {str(index): index for index in range(150)},
        }
    )
    tracker.flush()
    params = client.get_run(tracker.run_id).data.params
    assert params["model.network.name"] == "resnet20"
    assert params["model.note"] == long
    assert params["model.story"] == "see the artifact params/model.story.txt"
    assert (tracker.artifact_dir / "params/model.story.txt").read_text() == too_long
    assert params["data.augment.train"] == '[{"name": "flip"}]'
    assert params["data.mean"] == "[0.5]"
    assert (params["trainer"], params["callbacks.ema"]) == ("{}", "None")
    assert all(params[f"many.{index}"] == str(index) for index in range(150))


def test_images_lie_where_the_ui_looks_for_its_slider(tracker, client):
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    tracker.log_image("explanations/sneaker", image, step=5)
    tracker.log_image("explanations/Pêche: 50%", image[..., 0], step=5)
    image[:] = 0  # what is logged is what was given
    tracker.flush()
    names = {Path(item.path).name for item in client.list_artifacts(tracker.run_id, "images")}
    prefixes = {"explanations~sneaker+step+5+timestamp+", "explanations~P_che_ 50_+step+5+"}
    assert all(any(name.startswith(prefix) for name in names) for prefix in prefixes)
    [path] = (tracker.artifact_dir / "images").glob("explanations~sneaker*.png")
    with Image.open(path) as picture:
        stored = np.asarray(picture)
    np.testing.assert_array_equal(stored, np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    assert client.get_run(tracker.run_id).data.tags["mlflow.loggedImages"] == "True"


def test_artifacts_of_each_kind(tracker, client, tmp_path):
    figure = Figure(figsize=(1, 1))
    figure.subplots().plot([0, 1])
    tracker.log_figure(figure, "figures/confusion_matrix.png")
    tracker.log_dict({"b": 1, "a": [1, 2]}, "recipe.yaml")
    tracker.log_dict({"b": 1}, "provenance/git.json")
    (tmp_path / "table.csv").write_text("id,label\n")
    tracker.log_file(tmp_path / "table.csv", "predictions")
    tracker.set_tag("monitor", "val/accuracy")
    tracker.flush()
    folder = tracker.artifact_dir
    with Image.open(folder / "figures/confusion_matrix.png") as picture:
        assert picture.format == "PNG"
    assert (folder / "recipe.yaml").read_text() == "b: 1\na:\n- 1\n- 2\n"
    assert (folder / "provenance/git.json").read_text() == '{\n  "b": 1\n}'
    listed = [item.path for item in client.list_artifacts(tracker.run_id, "predictions")]
    assert listed == ["predictions/table.csv"]
    assert client.get_run(tracker.run_id).data.tags["monitor"] == "val/accuracy"


def test_a_checkpoint_written_in_place_is_not_copied(tracker, client):
    path = tracker.artifact_dir / "checkpoints/last.ckpt"
    path.parent.mkdir()
    path.write_bytes(b"weights")
    before = path.stat()
    tracker.log_file(path, "checkpoints")
    tracker.flush()
    assert path.stat() == before
    assert [item.path for item in client.list_artifacts(tracker.run_id, "checkpoints")] == [
        "checkpoints/last.ckpt"
    ]


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_only_end_ends_a_run(store, client, status):
    tracker = open_tracker(store)
    tracker.log_metrics({"loss": 1.0}, 3)
    tracker.finalize("success")
    assert client.get_run(tracker.run_id).info.status == "RUNNING"
    assert client.get_run(tracker.run_id).data.metrics == {"loss": 1.0}
    tracker.end(status)
    tracker.log_metrics({"loss": 2.0}, 4)
    tracker.end("FINISHED")
    run = client.get_run(tracker.run_id)
    assert (run.info.status, run.data.metrics) == (status, {"loss": 1.0})
    assert run.info.end_time >= run.info.start_time


def test_a_run_goes_on_under_its_id(store, client, caplog):
    first = open_tracker(store)
    first.log_hyperparams({"lr": 0.1, "max_epochs": 1})
    first.log_metrics({"train/loss": 1.0}, 1)
    first.end("KILLED")
    second = open_tracker(store, experiment="ignored", run_id=first.run_id, tags={"part": "2"})
    assert client.get_run(first.run_id).info.status == "RUNNING"
    assert (second.name, second.artifact_dir) == ("digits", first.artifact_dir)
    second.log_hyperparams({"lr": 0.1, "max_epochs": 2, "seed": 0})
    second.log_metrics({"train/loss": 0.5}, 2)
    second.end("FINISHED")
    run = client.get_run(first.run_id)
    assert run.data.params == {"lr": "0.1", "max_epochs": "1", "seed": "0"}
    assert "['max_epochs']" in caplog.text
    assert run.data.tags["part"] == "2"
    history = client.get_metric_history(first.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(1, 1.0), (2, 0.5)]


def test_other_ranks_touch_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    tracker = MLflowTracker(
        experiment="digits",
        uri=f"sqlite:///{tmp_path}/mlruns/mlflow.db",
        artifacts=None,
        run_name=None,
        tags=None,
    )
    with pytest.raises(RuntimeError, match="attach"):
        _ = tracker.run_id
    tracker.attach("0" * 32, tmp_path / "run")
    assert (tracker.run_id, tracker.artifact_dir) == ("0" * 32, tmp_path / "run")
    tracker.log_metrics({"loss": 1.0}, 0)
    tracker.log_hyperparams({"lr": 0.1})
    tracker.log_image("x", np.zeros((2, 2, 3), np.uint8), 0)
    tracker.log_text("x", "x.txt")
    tracker.log_file(tmp_path / "absent", "x")
    tracker.set_tag("a", "b")
    tracker.experiment.log_metric("x", "y", 1.0)
    tracker.flush()
    tracker.end("FINISHED")
    assert list(tmp_path.iterdir()) == []


def test_a_store_is_made_with_its_folders_and_artifacts_beside_it(tmp_path):
    folder = tmp_path / "new folder" / "mlruns"
    tracker = MLflowTracker(
        experiment="digits",
        uri=f"sqlite:///{folder}/mlflow.db",
        artifacts=None,
        run_name=None,
        tags=None,
    )
    tracker.log_text("hello", "note.txt")
    tracker.end("FINISHED")
    assert (folder / "artifacts" / tracker.run_id / "artifacts" / "note.txt").exists()


def _start_job(uri, artifacts, barrier, queue):
    barrier.wait()
    tracker = MLflowTracker(
        experiment="new", uri=uri, artifacts=artifacts, run_name=None, tags=None
    )
    tracker.log_metrics({"loss": 1.0}, 0)
    tracker.end("FINISHED")
    queue.put(tracker.run_id)


def test_two_jobs_started_together_on_a_new_store_and_experiment_both_log(tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lit_imgproc.tracking.logger"])
    barrier, queue = context.Barrier(2), context.Queue()
    uri, artifacts = f"sqlite:///{tmp_path}/mlruns/mlflow.db", str(tmp_path / "artifacts")
    jobs = [
        context.Process(target=_start_job, args=(uri, artifacts, barrier, queue)) for _ in range(2)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [0, 0]
    client = MlflowClient(uri)
    runs = [client.get_run(queue.get()) for _ in jobs]
    assert len({run.info.run_id for run in runs}) == 2
    assert len({run.info.experiment_id for run in runs}) == 1
    assert [run.data.metrics for run in runs] == [{"loss": 1.0}] * 2


def test_an_experiment_made_between_the_look_and_the_making_is_used(store, client, monkeypatch):
    other = open_tracker(store)
    other.end("FINISHED")
    looks = []
    look = MlflowClient.get_experiment_by_name

    def first_blind(self, name):
        looks.append(name)
        return None if len(looks) == 1 else look(self, name)

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", first_blind)
    tracker = open_tracker(store)
    tracker.end("FINISHED")
    runs = [client.get_run(item.run_id) for item in (other, tracker)]
    assert runs[0].info.experiment_id == runs[1].info.experiment_id


def test_a_deleted_experiment_is_one_sentence(store, client):
    client.delete_experiment(client.create_experiment("digits"))
    with pytest.raises(StoreUnavailable, match=r"'digits' was deleted.*restore"):
        open_tracker(store)


def test_an_unknown_run_is_one_sentence(store):
    with pytest.raises(StoreUnavailable, match="cannot open a run"):
        open_tracker(store, run_id="0" * 32)


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("http://me:secret@127.0.0.1:9", r"no MLflow server answers at http://\*\*\*@127.0.0.1:9"),
        ("sqlite:////proc/none/mlflow.db", "folder of the MLflow store /proc/none/mlflow.db"),
        ("nonsense", "nonsense"),
    ],
)
def test_a_store_that_cannot_be_reached_is_one_sentence(uri, sentence):
    with pytest.raises(StoreUnavailable, match=sentence) as raised:
        MLflowTracker(experiment="x", uri=uri, artifacts=None, run_name=None, tags=None)
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_no_database_is_one_sentence(tmp_path):
    (tmp_path / "notes.txt").write_text("not a database, though long enough to be one " * 100)
    with pytest.raises(StoreUnavailable, match="file is not a database"):
        MLflowTracker(
            experiment="x",
            uri=f"sqlite:///{tmp_path}/notes.txt",
            artifacts=None,
            run_name=None,
            tags=None,
        )


def test_a_locked_store_delays_and_loses_nothing(store, client):
    tracker = open_tracker(store)
    with sqlite3.connect(store.uri.removeprefix("sqlite:///")) as lock:
        lock.execute("BEGIN EXCLUSIVE")
        tracker.set_tag("monitor", "val/accuracy")
        time.sleep(0.2)  # the writer meets the lock
        lock.rollback()
    tracker.end("FINISHED")
    assert client.get_run(tracker.run_id).data.tags["monitor"] == "val/accuracy"
