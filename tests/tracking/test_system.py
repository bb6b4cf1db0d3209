import threading
import time

import pytest
from mlflow.tracking import MlflowClient

from lit_imgproc.tracking.logger import MLflowTracker
from lit_imgproc.tracking.system import system_metrics

KEY = "system/cpu_utilization_percentage"


@pytest.fixture
def open_tracker(store):
    def open_(run_id=None):
        return MLflowTracker(
            experiment="x",
            uri=store.uri,
            artifacts=store.artifacts,
            run_name=None,
            tags=None,
            run_id=run_id,
        )

    return open_


def steps(store, tracker):
    return [p.step for p in MlflowClient(store.uri).get_metric_history(tracker.run_id, KEY)]


def test_even_a_short_run_has_system_metrics_and_no_thread_is_left(store, open_tracker):
    tracker = open_tracker()
    with system_metrics(tracker, interval=60.0):
        pass
    assert "system-metrics" not in {thread.name for thread in threading.enumerate()}
    tracker.end("FINISHED")
    metrics = MlflowClient(store.uri).get_run(tracker.run_id).data.metrics
    assert metrics["system/system_memory_usage_megabytes"] > 0
    assert steps(store, tracker) == [0]


def test_it_is_measured_at_every_interval_and_a_run_that_goes_on_counts_on(store, open_tracker):
    tracker = open_tracker()
    with system_metrics(tracker, interval=0.05):
        time.sleep(0.3)
    tracker.end("KILLED")
    count = len(steps(store, tracker))
    assert count > 2
    again = open_tracker(tracker.run_id)
    with system_metrics(again, interval=60.0):
        pass
    again.end("FINISHED")
    assert steps(store, again) == list(range(count + 1))


def test_a_store_that_is_away_does_not_stop_it(store, open_tracker, monkeypatch):
    tracker = open_tracker()

    def away(self, *args, **kwargs):
        raise ConnectionError("away")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", away)
        with system_metrics(tracker, interval=0.05):
            time.sleep(0.3)
        count = tracker.system_step()
    assert count > 2
    tracker.end("FINISHED")
    assert steps(store, tracker) == list(range(count))
