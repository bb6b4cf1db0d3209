"""A thread that brings what is in a spool to the store, so that training does not wait for it."""

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

from lit_imgproc.tracking.ops import Op, weight
from lit_imgproc.tracking.spool import Entry, Spool
from lit_imgproc.tracking.store import redact
from lit_imgproc.tracking.writer import METRICS_PER_BATCH, passes

log = logging.getLogger(__name__)

FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0  # seconds between attempts while the store does not answer
UPLOADS = ("artifact", "image")  # may take longer than any patience


class Courier:
    """Delivers the writes of a spool, one after another in the order they came, metrics in batches.

    One that fails because the store does not answer is tried again until it succeeds, after
    0.5 s, then twice as long each time, up to 30 s, and a random part less, so that jobs that
    lost the same server do not all come back at once. One that the store refuses is said and
    dropped.

    Args:
        spool: Where the writes are.
        write: Delivers metrics of several steps, or one other write.
        interval: Seconds that writes are gathered for.
    """

    def __init__(
        self, spool: Spool, write: Callable[[list[Op]], object], interval: float = 1.0
    ) -> None:
        self._spool = spool
        self._write = write
        self._interval = interval
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._moved = threading.Event()
        self._uploading = False
        self._answered = time.monotonic()
        self._closed = False
        self.refused: Counter[str] = Counter()
        """Writes that the store refused, by kind; of metrics, their points."""
        self.trouble = ""
        """Why the store does not take a write, while it does not."""
        self._thread = threading.Thread(target=self._run, name="mlflow-courier", daemon=True)
        self._thread.start()

    def flush(self, patience: float) -> bool:
        """Wait until all that was appended is delivered; returns whether it is.

        A store that answers is waited for as long as it takes, one that does not for ``patience``
        seconds.
        """
        target, begun = self._spool.appended, time.monotonic()
        self._hurry.set()
        self._wake.set()
        while self._spool.marked < target:
            self._moved.wait(0.1)
            self._moved.clear()
            patient = self._uploading and not self.trouble
            if not patient and time.monotonic() - max(begun, self._answered) > patience:
                return False
        return True

    def close(self, patience: float) -> bool:
        """Flush and stop; returns whether all is delivered. The spool stays open."""
        delivered = self.flush(patience)
        self._closed = True
        self._hurry.set()
        self._wake.set()
        if delivered:
            self._thread.join()
        return delivered

    def _run(self) -> None:
        while not self._closed:
            entries = self._spool.read(METRICS_PER_BATCH)
            for batch in _batches(entries):
                if not self._attempt([entry.op for entry in batch]):
                    return
                self._spool.mark(batch)
                self._moved.set()
            if not entries:
                self._spool.compact()
            if len(entries) < METRICS_PER_BATCH:
                # Many small deliveries would take turns with the training for the interpreter.
                self._wake.wait(self._interval)
                self._wake.clear()

    def _attempt(self, ops: list[Op]) -> bool:
        """Write until it succeeds or is refused; False when the courier is closed first."""
        delay = FIRST_DELAY
        self._answered = time.monotonic()
        self._uploading = ops[0]["op"] in UPLOADS
        while not self._closed:
            try:
                self._write(ops)
            except Exception as error:
                reason = redact(str(error)) or type(error).__name__
                if passes(error):
                    delay = self._wait(delay, reason)
                    continue
                self._refuse(ops, reason)
            self.trouble, self._answered = "", time.monotonic()
            return True
        return False

    def _wait(self, delay: float, reason: str) -> float:
        """Wait before the next attempt; returns how long to wait after that one."""
        if not self.trouble:
            log.warning("MLflow does not take what is logged, trying again: %s", reason)
        self.trouble = reason
        if self._hurry.wait(delay * random.uniform(0.5, 1.0)):
            self._hurry.clear()
            return FIRST_DELAY
        return min(2 * delay, LONGEST_DELAY)

    def _refuse(self, ops: list[Op], reason: str) -> None:
        kind = ops[0]["op"]
        if not self.refused[kind]:
            log.warning("MLflow refused a write (%s), dropped: %s", kind, reason)
        self.refused[kind] += sum(map(weight, ops))


def _batches(entries: list[Entry]) -> Iterator[list[Entry]]:
    """Metrics together, as many as a request takes, and all else alone."""
    batch: list[Entry] = []
    size = 0
    for entry in entries:
        values = len(entry.op["values"]) if entry.op["op"] == "metrics" else METRICS_PER_BATCH
        if batch and size + values > METRICS_PER_BATCH:
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += values
    if batch:
        yield batch
