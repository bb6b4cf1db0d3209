"""A store that is away, hangs or comes back, and a training that is killed meanwhile."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
from mlflow.tracking import MlflowClient

from lit_imgproc.tracking import logger as logger_module
from lit_imgproc.tracking import sync as sync_module
from lit_imgproc.tracking.logger import MLflowTracker
from lit_imgproc.tracking.sync import sync

STALL = 1.0  # seconds; a request to a server that hangs takes minutes


def open_tracker(uri, run_id=None):
    return MLflowTracker(
        experiment="x", uri=uri, artifacts=None, run_name=None, tags=None, run_id=run_id
    )


def log_steps(tracker, steps):
    """Log as a training does; returns the seconds that the slowest call took."""
    slowest = 0.0
    for step in steps:
        begun = time.perf_counter()
        tracker.log_metrics({"loss": 1 / (step + 1), "epoch": 0.0}, step)
        if step % 50 == 0:
            tracker.log_image("maps", np.full((4, 4), step % 256, np.uint8), step)
            tracker.log_text(str(step), f"notes/{step}.txt")
        slowest = max(slowest, time.perf_counter() - begun)
        time.sleep(0.005)
    return slowest


def assert_whole(uri, run_id, steps):
    """Every point, image and file of ``steps`` is in the store, once."""
    client = MlflowClient(uri)
    for key in ("loss", "epoch"):
        history = client.get_metric_history(run_id, key)
        history.sort(key=lambda point: (point.timestamp, point.step))
        assert [point.step for point in history] == list(steps)
    images = [item.path for item in client.list_artifacts(run_id, "images")]
    some = sorted(step for step in steps if step % 50 == 0)
    for suffix in (".png", ".webp"):
        assert sorted(int(i.split("+")[2]) for i in images if i.endswith(suffix)) == some
    notes = {item.path for item in client.list_artifacts(run_id, "notes")}
    assert notes == {f"notes/{step}.txt" for step in some}


def test_a_server_that_is_killed_and_comes_back_has_everything_once(server, tmp_path):
    tracker = open_tracker(server.uri)
    slowest = log_steps(tracker, range(200))
    server.kill()
    slowest = max(slowest, log_steps(tracker, range(200, 500)))
    back = threading.Thread(target=server.start)
    back.start()
    step = 500
    while back.is_alive():
        slowest = max(slowest, log_steps(tracker, range(step, step + 50)))
        step += 50
    back.join()
    tracker.end("FINISHED")
    assert slowest < STALL
    assert_whole(server.uri, tracker.run_id, range(step))
    assert MlflowClient(server.uri).get_run(tracker.run_id).info.status == "FINISHED"
    assert list((tmp_path / "mlruns/staging").iterdir()) == []


def test_a_server_that_hangs_stalls_nothing(server):
    tracker = open_tracker(server.uri)
    slowest = log_steps(tracker, range(100))
    server.send(signal.SIGSTOP)
    try:
        slowest = max(slowest, log_steps(tracker, range(100, 500)))
    finally:
        server.send(signal.SIGCONT)
    tracker.end("FINISHED")
    assert slowest < STALL
    assert_whole(server.uri, tracker.run_id, range(500))


def test_a_server_that_stays_away_gets_the_rest_from_sync(server, monkeypatch, caplog, tmp_path):
    monkeypatch.setattr(logger_module, "PATIENCE", 0.5)
    tracker = open_tracker(server.uri)
    log_steps(tracker, range(100))
    tracker.flush()
    server.kill()
    log_steps(tracker, range(100, 200))
    tracker.end("FINISHED")
    assert "200 points, 2 images, 2 artifacts, 1 other write have not reached" in caplog.text
    [away] = sync(None, None)
    assert away.left == {"metrics": 200, "image": 2, "artifact": 2, "status": 1}
    assert "no MLflow server answers" in away.trouble

    server.start()
    [delivery] = sync(None, None)
    assert (delivery.delivered, delivery.left, delivery.trouble) == (away.left, {}, "")
    assert str(delivery) == (
        f"{tracker.run_id[:8]}: delivered 200 points, 2 images, 2 artifacts, 1 other write; "
        "FINISHED, nothing is left"
    )
    assert_whole(server.uri, tracker.run_id, range(200))
    assert MlflowClient(server.uri).get_run(tracker.run_id).info.status == "FINISHED"
    assert sync(None, None) == []
    assert list((tmp_path / "mlruns/staging").iterdir()) == []


LOOP = """
import itertools, sys
from lit_imgproc.tracking.logger import MLflowTracker

tracker = MLflowTracker(experiment="x", uri=sys.argv[1], artifacts=None, run_name=None, tags=None)
print(tracker.run_id, flush=True)
for step in itertools.count():
    tracker.log_metrics({"loss": 1 / (step + 1)}, step)
    if step % 500 == 0:
        print(step, flush=True)
"""


def train_and_kill(uri, most):
    """A process that logs as fast as it can, killed after at least ``most`` steps; its run id."""
    process = subprocess.Popen(
        [sys.executable, "-c", LOOP, uri], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    run_id = process.stdout.readline().strip()
    while int(process.stdout.readline()) < most:
        pass
    [busy] = sync(run_id, None)
    assert str(busy) == f"{run_id[:8]}: its process is alive and delivers it itself"
    process.kill()
    process.communicate()
    return run_id


def test_what_a_killed_process_has_logged_is_delivered_once_and_in_order(store):
    run_id = train_and_kill(store.uri, 20_000)
    client = MlflowClient(store.uri)
    before = len(client.get_metric_history(run_id, "loss"))
    [delivery] = sync(None, None)
    assert delivery.delivered["metrics"] > 0
    assert str(delivery).endswith(
        f"points; it has not ended, go on with `lit-imgproc train --resume {run_id[:8]}`"
    )
    history = client.get_metric_history(run_id, "loss")
    history.sort(key=lambda point: (point.timestamp, point.step))
    assert len(history) >= max(20_000, before)
    assert [(p.step, p.value) for p in history] == [(s, 1 / (s + 1)) for s in range(len(history))]
    assert client.get_run(run_id).info.status == "RUNNING"

    again = open_tracker(store.uri, run_id)
    assert again.position() == {"loss": len(history)}
    again.end("FINISHED")


def test_what_a_killed_process_has_logged_is_delivered_when_its_run_goes_on(store):
    run_id = train_and_kill(store.uri, 5_000)
    again = open_tracker(store.uri, run_id)
    logged = again.position()["loss"]
    again.rewind({"loss": 4_000})
    for step in range(4_000, logged + 1_000):
        again.log_metrics({"loss": 1 / (step + 1)}, step)
    again.end("FINISHED")
    history = MlflowClient(store.uri).get_metric_history(run_id, "loss")
    assert sorted(point.step for point in history) == list(range(logged + 1_000))


def test_runs_on_one_server_wait_apart(server, monkeypatch):
    monkeypatch.setattr(logger_module, "PATIENCE", 0.5)
    trackers = [open_tracker(server.uri) for _ in range(3)]
    server.kill()
    for tracker in trackers:
        log_steps(tracker, range(50))
        tracker.end("FAILED")
    server.start()
    monkeypatch.setattr(sync_module, "PATIENCE", 60.0)
    assert {delivery.status for delivery in sync(None, None)} == {"FAILED"}
    for tracker in trackers:
        assert_whole(server.uri, tracker.run_id, range(50))
        assert MlflowClient(server.uri).get_run(tracker.run_id).info.status == "FAILED"


def test_a_password_is_in_no_spool_and_has_to_be_given(server, monkeypatch, tmp_path):
    monkeypatch.setattr(logger_module, "PATIENCE", 0.5)
    with_password = server.uri.replace("://", "://me:secret@")
    tracker = open_tracker(with_password)
    server.kill()
    log_steps(tracker, range(3))
    tracker.end("KILLED")
    files = [path for path in (tmp_path / "mlruns").rglob("*") if path.is_file()]
    assert all(b"secret" not in path.read_bytes() for path in files)
    server.start()
    [left] = sync(None, None)
    assert "give that with its user name and password" in left.trouble
    monkeypatch.setenv("MLFLOW_TRACKING_URI", with_password)
    [delivery] = sync(None, None)
    assert (delivery.left, delivery.status) == ({}, "KILLED")
    assert_whole(server.uri, tracker.run_id, range(3))
