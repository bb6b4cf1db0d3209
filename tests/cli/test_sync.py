import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from lit_imgproc.cli import main
from lit_imgproc.tracking.spool import Header, Spool


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def sync(monkeypatch, capsys):
    """Run the verb: its exit code, the lines it printed, and what it said on standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["lit-imgproc", "sync", *arguments])
        code = 0
        try:
            main()
        except SystemExit as ending:
            code = ending.code or 0
        output, errors = capsys.readouterr()
        return code, output.splitlines(), errors

    return run


@pytest.fixture
def run_id(store):
    client = MlflowClient(store.uri)
    return client.create_run(client.create_experiment("x", store.artifacts)).info.run_id


def leave_spool(run_id, uri, *, status=None):
    """A spool as a process leaves it that could not deliver three points."""
    spool = Spool(Path("mlruns/staging", run_id, "spool"), Header(run_id, uri, remote=False))
    for step in range(3):
        spool.append({"op": "metrics", "time": step, "step": step, "values": {"loss": 0.5}})
    if status is not None:
        spool.append({"op": "status", "time": 3, "status": status})
    spool.close()


def test_nothing_waits(sync):
    assert sync() == (0, ["nothing waits to be delivered"], "")


def test_a_finished_run_is_delivered_and_its_spool_is_gone(sync, store, run_id):
    leave_spool(run_id, store.uri, status="FINISHED")
    sentence = f"{run_id[:8]}: delivered 3 points, 1 other write; FINISHED, nothing is left"
    assert sync() == (0, [sentence], "")
    run = MlflowClient(store.uri).get_run(run_id)
    assert (run.info.status, run.info.end_time) == ("FINISHED", 3)
    assert len(MlflowClient(store.uri).get_metric_history(run_id, "loss")) == 3
    assert list(Path("mlruns/staging").iterdir()) == []


def test_a_run_that_was_killed_keeps_its_status_and_is_not_mentioned_again(sync, store, run_id):
    leave_spool(run_id, store.uri, status="KILLED")
    assert sync(run_id[:5])[0] == 0
    assert sync() == (0, ["nothing waits to be delivered"], "")
    sentence = f"{run_id[:8]}: delivered nothing; KILLED, nothing is left"
    assert sync(run_id) == (0, [sentence], "")


def test_a_run_whose_process_died_is_not_given_a_status(sync, store, run_id):
    leave_spool(run_id, store.uri)
    for delivered in ("3 points", "nothing"):
        sentence = (
            f"{run_id[:8]}: delivered {delivered}; it has not ended, go on with `lit-imgproc "
            f"train --resume {run_id[:8]}`"
        )
        assert sync() == (0, [sentence], "")
    assert MlflowClient(store.uri).get_run(run_id).info.status == "RUNNING"


def test_what_cannot_be_delivered_is_left_and_said(sync, store, run_id):
    client = MlflowClient(store.uri)
    deleted = client.create_run(client.get_experiment_by_name("x").experiment_id).info.run_id
    client.delete_run(deleted)
    leave_spool(run_id, "http://127.0.0.1:9")
    leave_spool(deleted, store.uri)
    leave_spool("f" * 32, store.uri)
    leave_spool("e" * 32, store.uri)
    Path("mlruns/staging", "e" * 32, "spool/journal.jsonl").write_text("")
    code, lines, _ = sync("--json")
    assert code == 1
    said = dict(line.split(": ", 1) for line in lines[:-1])
    left = "delivered nothing; 3 points left; "
    assert said[run_id[:8]].startswith(f"{left}no MLflow server answers at http://127.0.0.1:9")
    assert said[deleted[:8]].startswith(f"{left}the run was deleted")
    assert said["f" * 8].startswith(left)
    assert "f" * 32 in said["f" * 8]
    assert "cannot be read" in said["e" * 8]
    rows = {row["run_id"]: row for row in json.loads(lines[-1])}
    assert rows[run_id]["left"] == {"metrics": 3}

    code, lines, _ = sync(run_id, "--uri", store.uri)  # the server has moved
    assert (code, lines[0].split("; ")[0]) == (0, f"{run_id[:8]}: delivered 3 points")


def test_a_living_process_is_left_alone(sync, store, run_id):
    leave_spool(run_id, store.uri)
    code = (
        "import sys; from pathlib import Path; from lit_imgproc.tracking.spool import Spool\n"
        "spool = Spool(Path(sys.argv[1])); print(flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, f"mlruns/staging/{run_id}/spool"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ,
    )
    process.stdout.readline()
    sentence = f"{run_id[:8]}: its process is alive and delivers it itself"
    assert sync() == (0, [sentence], "")
    process.communicate()
    assert sync()[1][0].startswith(f"{run_id[:8]}: delivered 3 points")


def test_a_run_that_does_not_wait_is_one_sentence(sync, store, run_id):
    code, lines, errors = sync("zz")
    assert (code, lines) == (2, [])
    assert "'zz' should begin the id of one run" in errors
    leave_spool("a1" * 16, store.uri)
    leave_spool("a2" * 16, store.uri)
    code, _, errors = sync("a")
    assert code == 2
    assert "a1" * 16 in errors
    assert "a2" * 16 in errors
