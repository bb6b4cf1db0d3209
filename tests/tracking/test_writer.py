import threading

import pytest
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.tracking import MlflowClient

from lit_imgproc.tracking import writer as writer_module
from lit_imgproc.tracking.writer import METRICS_PER_BATCH, Writer, _passes


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(writer_module, "FIRST_DELAY", 0.01)


def test_metrics_arrive_once_in_order_and_in_batches_that_mlflow_takes():
    batches = []
    writer = Writer(batches.append, interval=0.01)
    for step in range(1500):
        writer.add_metrics({"a": float(step), "b": -1.0}, step)
    assert writer.close() == 0
    points = [(point.key, point.value, point.step) for batch in batches for point in batch]
    assert points == [
        point for step in range(1500) for point in (("a", float(step), step), ("b", -1.0, step))
    ]
    assert max(map(len, batches)) <= METRICS_PER_BATCH


def test_one_step_may_have_more_metrics_than_a_request():
    batches = []
    writer = Writer(batches.append)
    writer.add_metrics({f"recall/{index}": 1.0 for index in range(2500)}, 0)
    assert writer.close() == 0
    assert [len(batch) for batch in batches] == [1000, 1000, 500]


def test_jobs_and_metrics_keep_their_order():
    seen = []
    writer = Writer(lambda batch: seen.extend(point.step for point in batch))
    writer.add_metrics({"a": 0.0}, 1)
    writer.add_job("first", lambda: seen.append("first"))
    writer.add_metrics({"a": 0.0}, 2)
    writer.add_job("second", lambda: seen.append("second"))
    assert writer.flush()
    assert seen == [1, "first", 2, "second"]
    writer.close()


def test_a_store_that_comes_back_gets_everything_and_one_warning_is_given(caplog):
    failures = iter([ConnectionError("away"), MlflowException("busy"), TimeoutError("slow")])
    seen = []

    def write(batch):
        for error in failures:
            raise error
        seen.extend(point.step for point in batch)

    writer = Writer(write)
    writer.add_metrics({"a": 0.0}, 1)
    assert writer.flush()
    writer.add_metrics({"a": 0.0}, 2)
    assert writer.close() == 0
    assert seen == [1, 2]
    assert [record.getMessage() for record in caplog.records] == [
        "MLflow does not take metrics, trying again: away"
    ]


def test_a_server_that_is_away_is_tried_again_and_a_missing_file_is_not(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    client = MlflowClient("http://127.0.0.1:9")
    with pytest.raises(MlflowException) as away:
        client.log_batch("0" * 32, metrics=[Metric("a", 1.0, 0, 0)])
    assert _passes(away.value)
    with pytest.raises(FileNotFoundError) as missing:
        (tmp_path / "none").read_bytes()
    assert not _passes(missing.value)
    assert not _passes(TypeError("not an image"))


def test_what_the_store_refuses_is_dropped_and_does_not_block_the_rest(caplog):
    seen = []

    def refuse():
        raise MlflowException("no such thing", error_code=INVALID_PARAMETER_VALUE)

    writer = Writer(lambda batch: seen.extend(point.step for point in batch))
    writer.add_job("the tag x", refuse)
    writer.add_metrics({"a": 0.0}, 1)
    assert writer.close() == 1
    assert seen == [1]
    assert "refused the tag x, dropped: no such thing" in caplog.text


def test_a_store_that_stays_away_is_given_up_and_the_loss_counted():
    def write(batch):
        raise ConnectionError("away")

    writer = Writer(write)
    writer.add_metrics({"a": 0.0, "b": 0.0}, 1)
    writer.add_job("file", lambda: None)
    writer.add_metrics({"a": 0.0}, 2)
    assert not writer.flush(patience=0.0)
    assert writer.close(patience=0.0) == 4


def test_a_slow_store_is_waited_for_longer_than_one_that_fails():
    release = threading.Event()
    threading.Timer(0.3, release.set).start()
    writer = Writer(lambda batch: release.wait())
    writer.add_metrics({"a": 0.0}, 1)
    assert writer.close(patience=0.0) == 0
