"""A run that ends as what it was: FINISHED, FAILED, KILLED, or open for the scheduler."""

import logging
import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from lit_imgproc import slurm
from lit_imgproc.signals import REQUEUED, Heard, Interrupted, unheard
from lit_imgproc.tracking.logger import MLflowTracker

log = logging.getLogger(__name__)


@contextmanager
def recorded(tracker: MLflowTracker, told: Heard) -> Iterator[None]:
    """End ``tracker``'s run by how the block ends, and let its exception through.

    FINISHED: the block ended. KILLED: by Ctrl-C, SIGTERM or SIGUSR1. FAILED: by any other
    exception, whose traceback becomes the artifact ``provenance/traceback.txt``. On SIGUSR1 in a
    SLURM job, the job is put into the queue again and the run stays RUNNING.

    Ctrl-C leaves as KeyboardInterrupt, whatever Lightning has made of it; other signals leave as
    :class:`~lit_imgproc.signals.Interrupted`.

    Args:
        tracker: the run.
        told: the signals that this process was sent.
    """
    try:
        yield
    except BaseException as error:
        if told.number is None and isinstance(error, RuntimeError):
            # A signal to the whole process group, as a scheduler sends it, ends other ranks too,
            # and their death may be noticed before the signal is.
            with suppress(KeyboardInterrupt, Interrupted):
                time.sleep(0.2)
        number = told.number or _number(error)
        with unheard():
            if number is not None:
                code = _interrupted(tracker, number)
                if number == signal.SIGINT:
                    raise KeyboardInterrupt from None
                raise Interrupted(number, code) from None
            if isinstance(error, SystemExit) and not error.code:
                tracker.end("FINISHED")
            else:
                tracker.log_text(traceback.format_exc(), "provenance/traceback.txt")
                tracker.end("FAILED")
        raise
    else:
        with unheard():
            tracker.end("FINISHED")


def _number(error: BaseException) -> int | None:
    """The signal that an exception stands for, where no handler could be installed."""
    if isinstance(error, Interrupted):
        return error.number
    # Lightning raises SystemExit while it handles a KeyboardInterrupt.
    source = error.__context__ if isinstance(error, SystemExit) else error
    return signal.SIGINT if isinstance(source, KeyboardInterrupt) else None


def _interrupted(tracker: MLflowTracker, number: int) -> int | None:
    """End the run, or put its job into the queue again; the exit code where it is another one."""
    job = slurm.job() if number == signal.SIGUSR1 else None
    # The first rank asks for all. SLURM then ends the job, within its own time.
    refusal = slurm.requeue(job) if job and tracker.is_open else None
    if refusal is not None:
        log.warning("SLURM does not requeue job %s, go on with `--resume`: %s", job, refusal)
    if job is None or refusal is not None:
        tracker.end("KILLED")
        return None
    tracker.end(None)
    return REQUEUED
