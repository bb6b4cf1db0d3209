"""CPU, memory, disk, network and GPU use beside a run, as ``system/`` metrics."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from lit_imgproc.tracking.logger import MLflowTracker


@contextmanager
def system_metrics(tracker: MLflowTracker, interval: float = 10.0) -> Iterator[None]:
    """Measure this machine every ``interval`` seconds while the block runs.

    Only rank zero measures. What was measured since the last interval is logged at the end, so
    that a run of a few seconds has values too.
    """
    if not tracker.is_open:
        yield
        return
    monitor: Any = SystemMetricsMonitor(  # type: ignore[no-untyped-call]
        tracker.run_id, sampling_interval=interval, resume_logging=True, tracking_uri=tracker.uri
    )
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()
        rest = monitor.aggregate_metrics()
        if rest:
            # A store that is away now is no reason for the run to fail.
            with suppress(MlflowException):
                monitor.publish_metrics(rest)
                monitor.mlflow_logger.flush()
