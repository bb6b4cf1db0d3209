import multiprocessing
import shutil
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch.utilities import rank_zero_only
from matplotlib.figure import Figure
from mlflow.tracking import MlflowClient
from PIL import Image

from lit_imgproc.tracking import logger as logger_module
from lit_imgproc.tracking.lock import FolderInUse
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


def test_artifacts_of_each_kind(tracker, client):
    figure = Figure(figsize=(1, 1))
    figure.subplots().plot([0, 1])
    tracker.log_figure(figure, "figures/confusion_matrix.png")
    tracker.log_dict({"b": 1, "a": [1, 2]}, "recipe.yaml")
    tracker.log_dict({"b": 1}, "provenance/git.json")
    tracker.set_tag("monitor", "val/accuracy")
    tracker.flush()
    folder = tracker.artifact_dir
    with Image.open(folder / "figures/confusion_matrix.png") as picture:
        assert picture.format == "PNG"
    assert (folder / "recipe.yaml").read_text() == "b: 1\na:\n- 1\n- 2\n"
    assert (folder / "provenance/git.json").read_text() == '{\n  "b": 1\n}'
    listed = {item.path for item in client.list_artifacts(tracker.run_id)}
    assert listed == {"figures", "provenance", "recipe.yaml"}
    assert client.get_run(tracker.run_id).data.tags["monitor"] == "val/accuracy"


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
    with pytest.raises(RuntimeError, match="only rank zero"):
        _ = tracker.run_id
    with pytest.raises(RuntimeError, match="only rank zero"):
        _ = tracker.artifact_dir
    assert (tracker.version, tracker.save_dir, tracker.position()) == (None, None, {})
    tracker.log_metrics({"loss": 1.0}, 0)
    tracker.log_hyperparams({"lr": 0.1})
    tracker.log_image("x", np.zeros((2, 2, 3), np.uint8), 0)
    tracker.log_text("x", "x.txt")
    tracker.publish("x")
    tracker.rewind({"loss": 1})
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
    for step in range(300):
        tracker.log_metrics({"loss": 1.0}, step)
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
    for run in runs:
        history = client.get_metric_history(run.info.run_id, "loss")
        assert sorted(point.step for point in history) == list(range(300))


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
        time.sleep(1.2)  # the courier meets the lock
        lock.rollback()
    tracker.end("FINISHED")
    assert client.get_run(tracker.run_id).data.tags["monitor"] == "val/accuracy"


# Going on ----------------------------------------------------------------------------------------


def log_training(tracker, steps):
    """What a training logs; an exact one logs the same when it goes on from a checkpoint."""
    for step in steps:
        tracker.log_metrics({"train/loss": 1 / (step + 1), "a:b!": 0.0}, step)
        tracker.log_metrics({"system/cpu": 1.0}, step)
        if step % 2:
            tracker.log_image("maps/5%", np.full((2, 2), step, np.uint8), step)


def points_of(client, tracker, key):
    return [(p.step, p.value) for p in client.get_metric_history(tracker.run_id, key)]


def images_of(client, tracker):
    paths = [item.path for item in client.list_artifacts(tracker.run_id, "images")]
    return sorted(path.split("+")[2] for path in paths if path.endswith(".png"))


@pytest.mark.parametrize("spool_is_there", [True, False])
@pytest.mark.parametrize("status", ["KILLED", None])
def test_what_was_logged_after_a_checkpoint_is_not_logged_again(
    store, client, tmp_path, spool_is_there, status
):
    first = open_tracker(store)
    log_training(first, range(4))
    position = first.position()
    assert position == {"train/loss": 4, "a:b_": 4, "image:maps/5_": 2}
    log_training(first, range(4, 8))
    first.end(status)
    assert client.get_run(first.run_id).info.status == (status or "RUNNING")
    if not spool_is_there:  # the job goes on on another machine
        shutil.rmtree(tmp_path / "mlruns/staging")

    second = open_tracker(store, run_id=first.run_id)
    assert second.position() == {"train/loss": 8, "a:b_": 8, "image:maps/5_": 4}
    assert second.system_step() == 8
    second.rewind(position)
    assert second.position() == position
    log_training(second, range(4, 6))
    assert second.position() == {"train/loss": 6, "a:b_": 6, "image:maps/5_": 3}
    log_training(second, range(6, 10))
    assert second.position() == {"train/loss": 10, "a:b_": 10, "image:maps/5_": 5}
    second.end("FINISHED")
    assert points_of(client, second, "train/loss") == [(s, 1 / (s + 1)) for s in range(10)]
    assert images_of(client, second) == ["1", "3", "5", "7", "9"]
    assert len(points_of(client, second, "system/cpu")) == 8 + 6
    assert client.get_run(first.run_id).info.status == "FINISHED"
    assert list((tmp_path / "mlruns/staging").iterdir()) == []


@pytest.mark.parametrize("status", ["KILLED", "FINISHED"])
def test_a_training_that_goes_on_for_longer_logs_its_new_end(store, client, status):
    first = open_tracker(store)
    first.log_metrics({"val/loss": 1.0}, 3)
    position = first.position()
    first.log_metrics({"test/loss": 1.0}, 3)  # after the last checkpoint
    first.log_image("test", np.zeros((2, 2), np.uint8), 3)
    first.end(status)
    second = open_tracker(store, run_id=first.run_id)
    second.rewind(position)
    second.log_metrics({"val/loss": 0.5}, 6)
    second.log_metrics({"test/loss": 0.5}, 6)
    second.log_image("test", np.zeros((2, 2), np.uint8), 6)
    assert second.position() == {"val/loss": 2, "test/loss": 2, "image:test": 2}
    second.end("FINISHED")
    assert points_of(client, second, "test/loss") == [(3, 1.0), (6, 0.5)]
    assert images_of(client, second) == ["3", "6"]


def test_a_status_that_was_not_delivered_does_not_end_a_run_that_goes_on(
    store, client, monkeypatch, caplog
):
    first = open_tracker(store)
    first.log_metrics({"loss": 1.0}, 0)
    first.flush()
    with monkeypatch.context() as patch:
        patch.setattr(logger_module, "PATIENCE", 0.2)
        patch.setattr(MlflowClient, "log_batch", away)
        first.log_metrics({"loss": 0.5}, 1)
        first.end("KILLED")
    assert "1 point, 1 other write have not reached the store" in caplog.text
    assert "lit-imgproc sync" in caplog.text
    assert client.get_run(first.run_id).info.status == "RUNNING"

    second = open_tracker(store, run_id=first.run_id)
    second.flush()
    assert client.get_run(first.run_id).info.status == "RUNNING"
    assert points_of(client, second, "loss") == [(0, 1.0), (1, 0.5)]
    second.end("FINISHED")
    assert client.get_run(first.run_id).info.status == "FINISHED"


def away(self, *args, **kwargs):
    raise ConnectionError("away")


def test_a_run_that_is_being_trained_cannot_be_gone_on_with(store, tracker):
    tracker.end("KILLED")
    second = open_tracker(store, run_id=tracker.run_id)
    with pytest.raises(FolderInUse, match="still training"):
        open_tracker(store, run_id=tracker.run_id)
    second.end("FINISHED")


def test_a_crash_after_a_delivery_and_before_its_position_was_saved_does_no_harm(
    store, client, tmp_path
):
    tracker = open_tracker(store)
    log_training(tracker, range(4))
    tracker.log_hyperparams({"lr": 0.1})
    tracker.flush()
    journal = next(tmp_path.glob("mlruns/staging/*/spool/journal.jsonl"))
    content = journal.read_bytes()
    tracker.end("KILLED")
    journal.write_bytes(content)  # as the crash would have left it
    (journal.parent / "delivered").unlink()
    again = open_tracker(store, run_id=tracker.run_id)
    assert again.position()["train/loss"] == 4
    again.end("FINISHED")
    assert points_of(client, again, "train/loss") == [(s, 1 / (s + 1)) for s in range(4)]
    assert images_of(client, again) == ["1", "3"]
    assert client.get_run(again.run_id).data.params == {"lr": "0.1"}


def test_a_disk_that_takes_no_artifact_stops_nothing(tracker, client, caplog):
    (tracker.artifact_dir / "images").write_text("in the way")
    tracker.log_image("x", np.zeros((2, 2, 3), np.uint8), 0)
    tracker.log_text("x", "images/x.txt")
    tracker.log_metrics({"loss": 1.0}, 0)
    tracker.flush()
    assert caplog.text.count("cannot be written, dropped") == 3
    assert tracker.position() == {"loss": 1}
