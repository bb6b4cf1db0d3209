import os
import threading

import pytest

from lit_imgproc.data.errors import DataError
from lit_imgproc.data.satellite import threads
from lit_imgproc.data.satellite.threads import in_threads


def test_results_are_in_order():
    assert in_threads(lambda number: number**2, range(100)) == [n**2 for n in range(100)]
    assert in_threads(str, []) == []


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="the system does not tell")
def test_threads_are_gone_from_the_system(monkeypatch):
    monkeypatch.setattr(threads, "available_cpus", lambda limit: limit)
    barrier = threading.Barrier(threads.LIMIT)

    def work(_):
        barrier.wait(30)
        return threading.get_native_id()

    for _ in range(20):
        used = set(in_threads(work, range(threads.LIMIT)))
        assert len(used) == threads.LIMIT
        assert not any(os.path.exists(f"/proc/self/task/{thread}") for thread in used)


def test_an_exception_comes_through():
    def fails(number):
        raise DataError("no")

    with pytest.raises(DataError, match="no"):
        in_threads(fails, [1, 2])
