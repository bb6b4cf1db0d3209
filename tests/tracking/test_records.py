import sys

import pytest

from lit_imgproc.tracking.logger import MLflowTracker
from lit_imgproc.tracking.records import (
    RunNotFound,
    add_metrics,
    artifact_file,
    find_run,
    list_runs,
    run_url,
    ui_command,
)
from lit_imgproc.tracking.store import StoreUnavailable


def make_run(store, experiment="digits", **changes):
    tracker = MLflowTracker(
        experiment=experiment,
        uri=store.uri,
        artifacts=store.artifacts,
        run_name=changes.get("name"),
        tags=changes.get("tags"),
    )
    tracker.log_metrics({"test/accuracy": 0.9}, 1)
    tracker.log_text("seed: 0\n", "recipe.yaml")
    tracker.end(changes.get("status", "FINISHED"))
    return tracker.run_id


def test_a_run_is_found_by_its_id_and_by_a_unique_prefix(store):
    run_id = make_run(store)
    assert find_run(run_id, store.uri).info.run_id == run_id
    assert find_run(run_id[:31], store.uri).info.run_id == run_id


def test_no_such_run_is_one_sentence(store):
    make_run(store)
    with pytest.raises(RunNotFound, match=r"no run in .* has an id that begins with 'zz'"):
        find_run("zz", store.uri)


def test_an_ambiguous_prefix_names_the_runs(store):
    ids = [make_run(store, name=f"run-{index}") for index in range(7)]
    with pytest.raises(RunNotFound) as raised:
        find_run("", store.uri)
    sentence = str(raised.value)
    assert sentence.startswith("7 runs begin with ''")
    assert sum(run_id in sentence for run_id in ids) == 5
    assert "and 2 more" in sentence


def test_runs_are_rows_newest_first(store):
    first = make_run(store, name="a", tags={"recipe": "quickstart"}, status="KILLED")
    second = make_run(store, experiment="cifar")
    rows = list_runs(store.uri)
    assert [row["run_id"] for row in rows] == [second, first]
    row = rows[1]
    assert row | {"start": None, "seconds": None} == {
        "run_id": first,
        "name": "a",
        "experiment": "digits",
        "recipe": "quickstart",
        "status": "KILLED",
        "start": None,
        "seconds": None,
        "metrics": {"test/accuracy": 0.9},
    }
    assert row["seconds"] >= 0
    assert row["start"][10] == "T"
    assert rows[0]["recipe"] is None
    assert [row["run_id"] for row in list_runs(store.uri, experiment="digits")] == [first]
    assert [row["run_id"] for row in list_runs(store.uri, limit=1)] == [second]


def test_an_unknown_experiment_names_those_there_are(store):
    make_run(store)
    with pytest.raises(RunNotFound, match=r"no experiment 'digist'.*: Default, digits"):
        list_runs(store.uri, experiment="digist")


def test_an_artifact_of_a_local_store_is_where_it_lies(store):
    run = find_run(make_run(store), store.uri)
    path = artifact_file(run, "recipe.yaml", store.uri)
    assert path.read_text() == "seed: 0\n"
    assert str(path).startswith(store.artifacts)
    with pytest.raises(RunNotFound, match=r"has no artifact checkpoints/last\.ckpt"):
        artifact_file(run, "checkpoints/last.ckpt", store.uri)


def test_metrics_can_be_added_to_a_run_that_has_ended(store):
    run = find_run(make_run(store, status="KILLED"), store.uri)
    add_metrics(run, {"test/top5 (fraction)": 0.99}, step=7, uri=store.uri)
    again = find_run(run.info.run_id, store.uri)
    assert again.data.metrics == {"test/accuracy": 0.9, "test/top5 _fraction_": 0.99}
    assert again.info.status == "KILLED"


def test_reading_makes_no_store(tmp_path):
    with pytest.raises(StoreUnavailable, match=r"no MLflow store at .*mlflow\.db: a first run"):
        list_runs(f"sqlite:///{tmp_path}/mlruns/mlflow.db")
    assert list(tmp_path.iterdir()) == []


def test_the_ui_of_a_file_is_mlflows_and_of_a_server_its_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ui_command("sqlite:///mlruns/mlflow.db", port=5001)
    assert command[:4] == [sys.executable, "-m", "mlflow", "ui"]
    assert command[4:8] == [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/mlruns/mlflow.db",
        "--port",
        "5001",
    ]
    assert ui_command("http://host:5000")[-2:] == ["webbrowser", "http://host:5000"]


def test_the_page_of_a_run(store):
    run = find_run(make_run(store), store.uri)
    assert run_url(run, "http://host:5000/") == (
        f"http://host:5000/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    )
