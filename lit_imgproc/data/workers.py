"""Worker processes of a ``DataLoader``: whom they obey, and what happens when one dies."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from threading import Thread, current_thread, main_thread
from typing import Any

from torch._C import _remove_worker_pids, _set_worker_pids
from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling


def shield(worker_id: int) -> None:
    """Let a worker, which calls this as it starts, end with its parent and for its parent alone.

    Ctrl-C in a terminal and the signals of a scheduler reach all processes of a training. They ask
    the training to end after its step, and the step may need another batch.
    """
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    Thread(target=_obey_parent, daemon=True).start()


def _obey_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


class WorkersKilled(Exception):
    """The system killed worker processes of a loader, whose other workers have been ended."""


def batches(loader: DataLoader[Any], begin: Callable[[], Iterator[Any]]) -> Iterator[Any]:
    """The batches of one pass over a loader.

    Torch tells of the death of a worker by an exception from a signal handler, wherever the main
    thread then is: amid a training step, or in another loader. Here a loader's workers are watched
    only while one of their batches is waited for; a death at any other time is noticed when the
    next batch is asked for.

    Args:
        loader: Whose workers are watched.
        begin: Starts a pass over it, as ``DataLoader.__iter__`` does.

    Raises:
        WorkersKilled: A worker got SIGKILL, which is what a system sends that is short of memory.
        RuntimeError: Torch's own, where a worker ended otherwise. A SIGTERM to the whole process
            group is such a case: it asks this process to end, too.
    """
    if loader.num_workers == 0:
        yield from begin()
        return
    iterator: Any = loader._iterator  # that of persistent workers, after their first pass
    _hear_of_deaths()
    try:
        if iterator is None:
            with _deaf():  # one may die before there is an iterator to do something about it
                iterator = begin()
                _unwatch(iterator)  # torch has just begun to watch them always
        else:
            with _watched(iterator):
                begin()
        while True:
            with _watched(iterator):
                try:
                    batch = next(iterator)
                except StopIteration:
                    return
            yield batch
    # A worker also takes the sockets with it over which its last tensors were to come.
    except (RuntimeError, OSError, EOFError) as error:
        codes = {} if iterator is None else _ended(iterator)
        if not any(codes.values()):
            raise
        pids = ", ".join(map(str, codes))
        if set(codes.values()) != {-signal.SIGKILL}:
            raise RuntimeError(f"DataLoader worker (pid(s) {pids}) exited unexpectedly") from error
        _unwatch(iterator)
        iterator._shutdown_workers()
        loader._iterator = None
        raise WorkersKilled(f"pid {pids}") from error


def _hear_of_deaths() -> None:
    """Install torch's handler, which Lightning takes away with all others at the end of a fit."""
    if signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL:
        signal_handling._SIGCHLD_handler_set = False
        signal_handling._set_SIGCHLD_handler()


@contextmanager
def _deaf() -> Iterator[None]:
    """Hear of no deaths for now; they are noticed when the next batch is waited for."""
    if current_thread() is not main_thread():  # which no handler interrupts
        yield
        return
    # Not SIG_DFL: Python complains if a signal that has come finds no handler any more.
    before = signal.signal(signal.SIGCHLD, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


@contextmanager
def _watched(iterator: Any) -> Iterator[None]:
    """Let torch raise as soon as a worker dies, and raise if one has died before."""
    pids = tuple(worker.pid for worker in iterator._workers)
    _set_worker_pids(id(iterator), pids)
    try:
        # Before anything is read: what a worker was writing when it died never ends.
        if not all(worker.is_alive() for worker in iterator._workers):
            raise RuntimeError(f"a DataLoader worker (pid(s) {pids}) exited unexpectedly")
        yield
    finally:
        _unwatch(iterator)


def _unwatch(iterator: Any) -> None:
    iterator._worker_pids_set = False  # the iterator's own end shall not do it again
    with suppress(ValueError):  # not watched: torch's exception came just before it was undone
        _remove_worker_pids(id(iterator))


def _ended(iterator: Any) -> dict[int, int]:
    """The exit codes of the workers that are no more, by pid."""
    workers = iterator._workers
    ending = wait([worker.sentinel for worker in workers], timeout=1)
    for worker in workers:
        if worker.sentinel in ending:
            worker.join()
    return {worker.pid: worker.exitcode for worker in workers if worker.exitcode is not None}


def end(loader: DataLoader[Any]) -> None:
    """End the persistent workers of a loader; its next pass starts new ones."""
    iterator: Any = loader._iterator
    if iterator is not None and loader.num_workers > 0:
        iterator._shutdown_workers()
        loader._iterator = None
