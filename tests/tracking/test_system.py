import threading
import time

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from lit_imgproc.tracking.logger import MLflowTracker
from lit_imgproc.tracking.system import system_metrics


def test_even_a_short_run_has_system_metrics_and_no_thread_is_left(store):
    tracker = MLflowTracker(
        experiment="x", uri=store.uri, artifacts=store.artifacts, run_name=None, tags=None
    )
    client = MlflowClient(store.uri)
    for _ in range(2):
        with system_metrics(tracker, interval=60.0):
            time.sleep(0.2)  # the monitor's thread takes its first look
    assert "SystemMetricsMonitor" not in {thread.name for thread in threading.enumerate()}
    tracker.end("FINISHED")
    metrics = client.get_run(tracker.run_id).data.metrics
    assert metrics["system/system_memory_usage_megabytes"] > 0
    history = client.get_metric_history(tracker.run_id, "system/cpu_utilization_percentage")
    assert [point.step for point in history] == [0, 1]


def test_a_store_that_goes_away_does_not_fail_the_run(store, monkeypatch):
    tracker = MLflowTracker(
        experiment="x", uri=store.uri, artifacts=store.artifacts, run_name=None, tags=None
    )

    def away(self, *args, **kwargs):
        raise MlflowException("away")

    with system_metrics(tracker, interval=60.0):
        time.sleep(0.2)
        monkeypatch.setattr(MlflowClient, "log_batch", away)
    monkeypatch.undo()
    tracker.end("FINISHED")
