import threading
import time

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from lit_imgproc.tracking import courier as courier_module
from lit_imgproc.tracking.courier import Courier
from lit_imgproc.tracking.spool import Header, Spool
from lit_imgproc.tracking.writer import METRICS_PER_BATCH


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(courier_module, "FIRST_DELAY", 0.01)


@pytest.fixture
def spool(tmp_path):
    spool = Spool(tmp_path / "run" / "spool", Header("0" * 32, "sqlite:///x.db", remote=False))
    yield spool
    spool.close()


def metrics(step, values=None):
    return {"op": "metrics", "time": 0, "step": step, "values": values or {"a": 0.0}}


def tag(key):
    return {"op": "tag", "time": 0, "key": key, "value": "x"}


class Store:
    """Remembers what was written, after it has raised some errors."""

    def __init__(self, *errors):
        self.errors = list(errors)
        self.batches = []

    def write(self, ops):
        if self.errors:
            raise self.errors.pop(0)
        self.batches.append(ops)

    @property
    def seen(self):
        ops = [op for batch in self.batches for op in batch]
        return [op["step"] if op["op"] == "metrics" else op["key"] for op in ops]


def test_metrics_arrive_once_in_order_and_in_batches_that_mlflow_takes(spool):
    store = Store()
    courier = Courier(spool, store.write, interval=0.01)
    for step in range(1500):
        spool.append(metrics(step, {"a": float(step), "b": -1.0}))
    assert courier.close(10.0)
    assert store.seen == list(range(1500))
    sizes = [sum(len(op["values"]) for op in batch) for batch in store.batches]
    assert max(sizes) <= METRICS_PER_BATCH


def test_other_writes_go_alone_and_keep_their_place(spool):
    store = Store()
    for op in (metrics(1), tag("first"), tag("second"), metrics(2), metrics(3)):
        spool.append(op)
    courier = Courier(spool, store.write)
    assert courier.flush(10.0)
    assert store.seen == [1, "first", "second", 2, 3]
    assert [len(batch) for batch in store.batches] == [1, 1, 1, 2]
    courier.close(10.0)


def test_a_step_with_more_metrics_than_a_request_is_one_write(spool):
    store = Store()
    spool.append(metrics(0, {f"recall/{index}": 1.0 for index in range(2500)}))
    spool.append(metrics(1))
    assert Courier(spool, store.write).close(10.0)
    assert [len(batch) for batch in store.batches] == [1, 1]


def test_a_store_that_comes_back_gets_everything_and_one_warning_is_given(spool, caplog):
    store = Store(ConnectionError("away"), MlflowException("busy"), TimeoutError())
    courier = Courier(spool, store.write)
    spool.append(metrics(1))
    assert courier.flush(10.0)
    spool.append(metrics(2))
    assert courier.close(10.0)
    assert store.seen == [1, 2]
    assert [record.getMessage() for record in caplog.records] == [
        "MLflow does not take what is logged, trying again: away"
    ]


def test_pauses_between_attempts_grow_up_to_a_limit(spool, monkeypatch):
    monkeypatch.setattr(courier_module, "LONGEST_DELAY", 0.04)
    monkeypatch.setattr(courier_module.random, "uniform", lambda low, high: high)
    pauses = []

    class Clock(threading.Event().__class__):
        def wait(self, timeout=None):
            pauses.append(timeout)
            return False

    courier = Courier(spool, Store(*[ConnectionError("away")] * 5).write)
    courier._hurry = Clock()
    spool.append(metrics(1))
    assert courier.close(10.0)
    assert pauses == [0.01, 0.02, 0.04, 0.04, 0.04]


def test_what_the_store_refuses_is_dropped_and_does_not_block_the_rest(spool, caplog):
    refusal = MlflowException("no such thing", error_code=INVALID_PARAMETER_VALUE)
    store = Store(refusal, refusal)
    for op in (tag("x"), tag("y"), metrics(1)):
        spool.append(op)
    courier = Courier(spool, store.write)
    assert courier.close(10.0)
    assert courier.refused == {"tag": 2}
    assert store.seen == [1]
    assert caplog.text.count("refused a write (tag), dropped: no such thing") == 1


def test_no_password_is_in_a_warning(spool, caplog):
    courier = Courier(spool, Store(ConnectionError("http://me:secret@host:5000 is away")).write)
    spool.append(metrics(1))
    assert courier.close(10.0)
    assert "http://***@host:5000 is away" in caplog.text


def test_a_store_that_stays_away_is_given_up_and_what_waits_stays(spool):
    store = Store(*[ConnectionError("away")] * 1000)
    courier = Courier(spool, store.write)
    for op in (metrics(1, {"a": 0.0, "b": 0.0}), tag("x"), metrics(2)):
        spool.append(op)
    assert not courier.flush(0.05)
    assert not courier.close(0.05)
    assert courier.trouble == "away"
    assert +spool.waiting == {"metrics": 3, "tag": 1}
    store.errors.clear()
    assert Courier(spool, store.write).close(10.0)
    assert store.seen == [1, "x", 2]


def test_a_store_that_hangs_is_given_up_and_an_upload_is_waited_for(spool):
    release = threading.Event()
    spool.append(tag("x"))
    courier = Courier(spool, lambda ops: release.wait())
    assert not courier.flush(0.05)
    release.set()
    assert courier.flush(10.0)
    release.clear()
    threading.Timer(0.3, release.set).start()
    spool.append({"op": "artifact", "time": 0, "path": "checkpoints"})
    time.sleep(0.05)
    assert courier.close(0.1)


def test_a_delivered_journal_begins_anew(spool, monkeypatch):
    compacted = threading.Event()
    compact = Spool.compact

    def small(self, least=1000):
        compact(self, least)
        compacted.set()

    monkeypatch.setattr(Spool, "compact", small)
    for step in range(100):
        spool.append(metrics(step))
    courier = Courier(spool, Store().write, interval=0.01)
    assert courier.flush(10.0)
    compacted.clear()
    assert compacted.wait(10.0)
    assert len((spool.folder / "journal.jsonl").read_text().splitlines()) == 1
    courier.close(10.0)
