import math

import pytest
from mlflow.entities import Metric, RunStatus
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED, UNAUTHENTICATED
from mlflow.tracking import MlflowClient

from lit_imgproc.tracking.writer import Writer, passes

WRITES = [
    [
        {"op": "metrics", "time": 5, "step": 0, "values": {"loss": 0.5, "nan": math.nan}},
        {"op": "metrics", "time": 6, "step": 1, "values": {"loss": math.inf}},
    ],
    [{"op": "metrics", "time": 7, "step": 1, "values": {f"m/{i}": 1.0 for i in range(1500)}}],
    [{"op": "params", "params": {f"p{i}": str(i) for i in range(150)}}],
    [{"op": "tag", "key": "monitor", "value": "val/accuracy"}],
    [
        {
            "op": "inputs",
            "inputs": [
                {
                    "dataset": {
                        "name": "digits",
                        "digest": "abc",
                        "source_type": "local",
                        "source": "{}",
                        "schema": None,
                        "profile": None,
                    },
                    "tags": {"mlflow.data.context": "training"},
                }
            ],
        }
    ],
    [{"op": "dropped", "points": {"loss": 3}, "total": 3}],
    [{"op": "image", "key": "x", "paths": ["images/x.png"]}],
    [{"op": "status", "status": "FINISHED", "time": 8}],
]


@pytest.fixture
def client(store):
    return MlflowClient(store.uri)


@pytest.fixture
def run_id(client, store):
    return client.create_run(client.create_experiment("x", store.artifacts)).info.run_id


def record(client, run_id):
    """All that a store has of a run."""
    run = client.get_run(run_id)
    histories = {
        key: [(p.step, p.timestamp, str(p.value)) for p in client.get_metric_history(run_id, key)]
        for key in ("loss", "nan", "m/0", "m/1499")
    }
    inputs = [(i.dataset.name, i.dataset.digest, len(i.tags)) for i in run.inputs.dataset_inputs]
    return histories, run.data.params, run.data.tags, inputs, run.info.status, run.info.end_time


def test_every_write_arrives_and_repeating_it_changes_nothing(client, run_id):
    for ops in WRITES:
        Writer(client, run_id, None).write(ops)
    once = record(client, run_id)
    histories, params, tags, inputs, status, end = once
    assert histories["loss"] == [(0, 5, "0.5"), (1, 6, str(1.7976931348623157e308))]
    assert histories["nan"] == [(0, 5, "nan")]
    assert histories["m/1499"] == [(1, 7, "1.0")]
    assert len(params) == 150
    assert (tags["monitor"], tags["tracking.dropped"]) == ("val/accuracy", "3")
    assert tags["mlflow.loggedImages"] == "True"
    assert inputs == [("digits", "abc", 1)]
    assert (status, end) == ("FINISHED", 8)
    for ops in WRITES:
        Writer(client, run_id, None).write(ops)
    assert record(client, run_id) == once


def test_parameters_that_changed_are_kept_and_named(client, run_id, caplog):
    writer = Writer(client, run_id, None)
    writer.write([{"op": "params", "params": {"lr": "0.1"}}])
    writer.write([{"op": "params", "params": {"lr": "0.2", "seed": "0"}}])
    assert client.get_run(run_id).data.params == {"lr": "0.1", "seed": "0"}
    assert "do not change, kept: ['lr']" in caplog.text


def test_a_run_that_goes_on_is_running(client, run_id):
    writer = Writer(client, run_id, None)
    writer.write([{"op": "status", "status": "KILLED", "time": 8}])
    writer.write([{"op": "status", "status": "RUNNING", "time": 9}])
    assert client.get_run(run_id).info.status == RunStatus.to_string(RunStatus.RUNNING)


def test_an_unknown_line_is_refused(client, run_id):
    with pytest.raises(ValueError, match="damaged") as raised:
        Writer(client, run_id, None).write([{"op": "damaged"}])
    assert not passes(raised.value)


def test_a_server_that_is_away_is_tried_again(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    client = MlflowClient("http://127.0.0.1:9")
    with pytest.raises(MlflowException) as away:
        client.log_batch("0" * 32, metrics=[Metric("a", 1.0, 0, 0)])
    assert passes(away.value)


def test_a_missing_file_is_not_tried_again(client, run_id, tmp_path):
    with pytest.raises(FileNotFoundError) as missing:
        Writer(client, run_id, tmp_path).write([{"op": "artifact", "path": "none/x.txt"}])
    assert not passes(missing.value)


@pytest.mark.parametrize("code", [UNAUTHENTICATED, PERMISSION_DENIED])
def test_a_missing_password_is_no_refusal(code):
    assert passes(MlflowException("log in", error_code=code))
