"""A run that ends as what it was: FINISHED, FAILED, or KILLED."""

import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from lightning.pytorch.utilities.exceptions import SIGTERMException

from lit_imgproc.tracking.logger import MLflowTracker

Handler = Callable[[int, FrameType | None], object] | int | None


@contextmanager
def recorded(tracker: MLflowTracker) -> Iterator[MLflowTracker]:
    """End ``tracker``'s run by how the block ends, and let its exception through.

    FINISHED: the block ended. KILLED: by Ctrl-C or SIGTERM. FAILED: by any other exception, whose
    traceback becomes the artifact ``provenance/traceback.txt``.

    Lightning turns Ctrl-C into ``SystemExit(1)`` raised while the KeyboardInterrupt is handled, so
    that its context still tells; it leaves here as the KeyboardInterrupt it was. SIGTERM raises
    Lightning's SIGTERMException anywhere in the block. Within ``Trainer.fit`` Lightning's own
    handler is in charge, which raises it at the end of the batch.
    """
    told_to_end = False

    def terminate(signum: int, frame: FrameType | None) -> None:
        nonlocal told_to_end
        told_to_end = True
        # Lightning's handler calls the one that was there before it, too. While it is installed it
        # ends the fit itself, at a batch boundary.
        if signal.getsignal(signal.SIGTERM) is terminate:
            raise SIGTERMException

    previous = _set(signal.SIGTERM, terminate)
    try:
        yield tracker
    except BaseException as error:
        interrupt = _interrupt_behind(error)
        if isinstance(error, RuntimeError):
            # A SIGTERM to the whole process group, as a scheduler sends it, ends the workers of a
            # loader too, and their death may be noticed before the signal is.
            with suppress(SIGTERMException):
                time.sleep(0.2)
        with _uninterrupted():
            if interrupt is not None or told_to_end or isinstance(error, SIGTERMException):
                tracker.end("KILLED")
            elif isinstance(error, SystemExit) and not error.code:
                tracker.end("FINISHED")
            else:
                tracker.log_text(traceback.format_exc(), "provenance/traceback.txt")
                tracker.end("FAILED")
        if interrupt is not None and interrupt is not error:
            raise interrupt from None
        if told_to_end and not isinstance(error, SIGTERMException):
            raise SIGTERMException from error
        raise
    else:
        with _uninterrupted():
            tracker.end("FINISHED")
    finally:
        _set(signal.SIGTERM, previous)


def _interrupt_behind(error: BaseException) -> KeyboardInterrupt | None:
    """The Ctrl-C that ``error`` is, or that Lightning was handling when it raised SystemExit."""
    if isinstance(error, KeyboardInterrupt):
        return error
    context = error.__context__
    if isinstance(error, SystemExit) and isinstance(context, KeyboardInterrupt):
        return context
    return None


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let the last writes and the status through, though the impatient press Ctrl-C again.

    The time is bounded: a store that does not answer is given up after half a minute.
    """
    interrupt, terminate = _set(signal.SIGINT, signal.SIG_IGN), _set(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        _set(signal.SIGINT, interrupt)
        _set(signal.SIGTERM, terminate)


def _set(number: signal.Signals, handler: Handler) -> Handler:
    """Install a signal handler where that is possible, in the main thread; return the former."""
    if threading.current_thread() is not threading.main_thread() or handler is None:
        return None
    return signal.signal(number, handler)
