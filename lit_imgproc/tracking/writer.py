"""A thread that brings what a run logs to the store, so that training does not wait for it."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from lit_imgproc.tracking.names import entity_name

log = logging.getLogger(__name__)

METRICS_PER_BATCH = 1000  # MLflow's limit for one request
FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0  # seconds between attempts while the store does not answer
PERMANENT = {
    "BAD_REQUEST",
    "FEATURE_DISABLED",
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "PERMISSION_DENIED",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
    "UNAUTHENTICATED",
}


class _Point(NamedTuple):
    metrics: dict[str, float]
    step: int
    seconds: float


class _Job(NamedTuple):
    what: str
    action: Callable[[], object]
    size: int = 1


class Writer:
    """Writes metrics in batches and runs other jobs, one after another in the order they came.

    A write that fails because the store does not answer is tried again until it succeeds; one
    that the store refuses is said and dropped. Both are held in memory, so what is not delivered
    when the process dies is lost.

    Args:
        write_metrics: Delivers up to 1000 metrics.
        interval: Seconds that metrics are gathered for. Jobs are run at once.
    """

    def __init__(
        self, write_metrics: Callable[[list[Metric]], object], interval: float = 1.0
    ) -> None:
        self._write_metrics = write_metrics
        self._interval = interval
        self._items: deque[_Point | _Job] = deque()
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._names: dict[str, str] = {}
        self._in_flight = 0
        self._lost = 0
        self._failing = False
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="mlflow-writer", daemon=True)
        self._thread.start()

    def add_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Queue metrics of one step. Costs about a microsecond: no lock is taken."""
        self._items.append(_Point(metrics, step, time.time()))
        if len(self._items) == METRICS_PER_BATCH:
            self._wake.set()

    def add_job(self, what: str, action: Callable[[], object]) -> None:
        """Queue a write of another kind. ``what`` names it in warnings."""
        self._items.append(_Job(what, action))
        self._wake.set()

    def flush(self, patience: float = 30.0) -> bool:
        """Wait until all that was queued is delivered.

        A store that answers is waited for as long as it takes, one that does not for ``patience``
        seconds. Returns whether everything was tried.
        """
        done = threading.Event()
        self._items.append(_Job("flush", done.set, size=0))
        self._wake.set()
        self._hurry.set()
        deadline = time.monotonic() + patience
        while not done.wait(0.1):
            if self._failing and time.monotonic() > deadline:
                return False
        return True

    def close(self, patience: float = 30.0) -> int:
        """Flush, stop, and return how many values and files were not delivered."""
        delivered = self.flush(patience)
        self._closed = True
        self._wake.set()
        self._hurry.set()
        if delivered:
            self._thread.join()
        waiting = sum(
            len(item.metrics) if isinstance(item, _Point) else item.size for item in self._items
        )
        return self._lost + self._in_flight + waiting

    def _run(self) -> None:
        while not self._closed:
            self._wake.wait(self._interval)
            self._wake.clear()
            while self._items:
                item = self._items.popleft()
                if isinstance(item, _Job):
                    self._attempt(*item)
                else:
                    self._write_points(item)

    def _write_points(self, point: _Point) -> None:
        batch = self._entities(point)
        while self._items and isinstance(self._items[0], _Point) and len(batch) < METRICS_PER_BATCH:
            following = self._items.popleft()
            assert isinstance(following, _Point)
            batch += self._entities(following)
        for start in range(0, len(batch), METRICS_PER_BATCH):
            part = batch[start : start + METRICS_PER_BATCH]
            self._attempt("metrics", partial(self._write_metrics, part), len(part))

    def _entities(self, point: _Point) -> list[Metric]:
        milliseconds = int(point.seconds * 1000)
        return [
            Metric(self._name(key), value, milliseconds, point.step)
            for key, value in point.metrics.items()
        ]

    def _name(self, key: str) -> str:
        if key not in self._names:
            self._names[key] = entity_name(key)
        return self._names[key]

    def _attempt(self, what: str, action: Callable[[], object], size: int) -> None:
        """Run ``action`` until it succeeds, is refused, or the writer is closed."""
        self._in_flight = size
        delay = FIRST_DELAY
        while True:
            try:
                action()
            except Exception as error:
                if not _passes(error):
                    log.warning("MLflow refused %s, dropped: %s", what, error)
                    self._lost += size
                    break
                if not self._failing:
                    log.warning("MLflow does not take %s, trying again: %s", what, error)
                self._failing = True
                self._hurry.wait(delay)
                if self._closed:
                    return
                self._hurry.clear()
                delay = min(2 * delay, LONGEST_DELAY)
            else:
                self._failing = False
                break
        self._in_flight = 0


def _passes(error: Exception) -> bool:
    """Whether a failure may pass: the store is away or busy, the disk is full."""
    if isinstance(error, MlflowException):
        return error.error_code not in PERMANENT
    # Errors of the requests library are OSErrors too.
    return isinstance(error, OSError) and not isinstance(error, FileNotFoundError)
