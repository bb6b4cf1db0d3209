"""Reading rasters in several threads, in a process that is forked later."""

import os
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from lit_imgproc.data.base import available_cpus

Item = TypeVar("Item")
Result = TypeVar("Result")

LIMIT = 8
PATIENCE = 10.0
"""Seconds to wait for threads that have done their work."""


def in_threads(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Apply a function that reads rasters, which releases the GIL, to many items, in order.

    When it returns the threads are gone from the system, too. One that Python has joined still
    gives back what PROJ kept for it, under a lock of the whole process. A loader's worker that was
    forked meanwhile would find that lock taken, for ever.
    """
    threads: list[int] = []

    def begin() -> None:
        threads.append(threading.get_native_id())

    with ThreadPoolExecutor(available_cpus(LIMIT), initializer=begin) as pool:
        results = list(pool.map(work, items))
    end = time.monotonic() + PATIENCE
    # Where there is no such folder, workers are not forked either.
    while any(os.path.exists(f"/proc/self/task/{thread}") for thread in threads):
        if time.monotonic() > end:
            break
        time.sleep(0.001)
    return results
