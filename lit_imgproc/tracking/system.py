"""CPU, memory, disk, network and GPU use beside a run, as ``system/`` metrics."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from lit_imgproc.tracking.logger import SYSTEM, MLflowTracker


@contextmanager
def system_metrics(tracker: MLflowTracker, interval: float = 10.0) -> Iterator[None]:
    """Measure this machine every ``interval`` seconds while the block runs.

    Only rank zero measures. What was measured since the last interval is logged at the end, so
    that a run of a few seconds has values too.
    """
    if not tracker.is_open:
        yield
        return
    # Only its instruments: its own thread asks the store at every interval whether the run is
    # RUNNING, waits for a server that is away, and then measures no more.
    monitor: Any = SystemMetricsMonitor(  # type: ignore[no-untyped-call]
        tracker.run_id, sampling_interval=interval, tracking_uri=tracker.uri
    )
    stop = threading.Event()
    thread = threading.Thread(
        target=_measure, args=(tracker, monitor, stop), name="system-metrics", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _measure(tracker: MLflowTracker, monitor: Any, stop: threading.Event) -> None:
    step, stopped = tracker.system_step(), False
    prefix = f"{SYSTEM}{monitor.node_id}/" if monitor.node_id else SYSTEM
    while not stopped:
        monitor.collect_metrics()
        stopped = stop.wait(monitor.sampling_interval)
        measured = monitor.aggregate_metrics()
        tracker.log_metrics({f"{prefix}{key}": value for key, value in measured.items()}, step)
        step += 1
        for instrument in monitor.monitors:
            instrument.clear_metrics()
