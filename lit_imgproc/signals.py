"""Signals that ask a process to end: heard at once, obeyed where nothing is lost."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
REQUEUED = 75
"""The exit code of a training that the scheduler will start again: sysexits' EX_TEMPFAIL."""

Handler = Callable[[int, FrameType | None], object] | int | None


class Interrupted(SystemExit):
    """A training ended because a signal asked for it.

    Left alone, it ends the process with 128 + the signal's number, as shells do: 130 for Ctrl-C,
    138 for SIGUSR1, 143 for SIGTERM; with :data:`REQUEUED` where the scheduler starts it again.
    """

    def __init__(self, number: int, code: int | None = None) -> None:
        super().__init__(128 + number if code is None else code)
        self.number = number


class Heard:
    """What this process has been told.

    The first signal is obeyed at once, by an exception wherever the process is, unless somebody
    has set :attr:`deferred` and looks at :attr:`number` from time to time. A second signal is
    obeyed at once in any case. Once one is obeyed, the process is ending and hears no more.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        """The first signal that asked this process to end."""
        self.deferred = False
        self.obeyed = False

    def __call__(self, number: int, frame: FrameType | None = None) -> None:
        """The handler of a signal."""
        again, self.number = self.number is not None, self.number or number
        if (again or not self.deferred) and not self.obeyed:
            self.obey(number)

    def obey(self, number: int) -> NoReturn:
        """Begin to end.

        Raises:
            KeyboardInterrupt: for Ctrl-C.
            Interrupted: for any other signal.
        """
        self.obeyed = True
        raise KeyboardInterrupt if number == signal.SIGINT else Interrupted(number)


@contextmanager
def heard() -> Iterator[Heard]:
    """Listen to the signals that ask for an end while the block runs."""
    before = {number: signal.getsignal(number) for number in ENDING}
    told = Heard()
    for number in ENDING:
        install(number, told)
    try:
        yield told
    finally:
        for number, handler in before.items():
            install(number, handler)


@contextmanager
def unheard() -> Iterator[None]:
    """Let the block through, though the impatient press Ctrl-C again."""
    before = {number: signal.getsignal(number) for number in ENDING}
    for number in ENDING:
        install(number, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in before.items():
            install(number, handler)


def install(number: int, handler: Handler) -> None:
    """Install a signal handler where that is possible: in the main thread."""
    if threading.current_thread() is threading.main_thread() and handler is not None:
        signal.signal(number, handler)
