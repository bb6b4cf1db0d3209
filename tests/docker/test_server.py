"""The MLflow server of docker/compose.yaml, without Docker: its command on a real PostgreSQL."""

import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from mlflow.tracking import MlflowClient
from torch.utils.data import DataLoader

from lit_imgproc.signals import heard
from lit_imgproc.tracking.ending import recorded
from lit_imgproc.tracking.logger import MLflowTracker
from lit_imgproc.tracking.records import artifact_file, find_run, list_runs

COMPOSE = Path(__file__).resolve().parents[2] / "docker" / "compose.yaml"


def compose(variables):
    """The compose file with ``${NAME:?message}`` and ``${NAME:-default}`` filled in."""

    def fill(match):
        name, kind, rest = match.groups()
        if name in variables:
            return variables[name]
        if kind == "?":
            raise KeyError(f"{name}: {rest}")
        return rest

    text = re.sub(r"\$\{(\w+):([?-])([^}]*)\}", fill, COMPOSE.read_text())
    assert "${" not in text
    return yaml.safe_load(text)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(check, process, log):
    """Until ``check`` no longer raises; fails at once when ``process`` has died."""
    for _ in range(600):
        try:
            return check()
        except (OSError, subprocess.CalledProcessError):
            assert process.poll() is None, log.read_text()
            time.sleep(0.2)
    pytest.fail(log.read_text())


@pytest.fixture(scope="module")
def postgres():
    """A PostgreSQL server of our own; gives what its clients' environment needs."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    initdb = shutil.which("initdb", path=os.pathsep.join(map(str, folders)))
    initdb = initdb or shutil.which("initdb")
    if initdb is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    programs = Path(initdb).parent
    # PostgreSQL does not run as root, nor in a folder that it may not enter.
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp") as name:
        folder, password = Path(name), secrets.token_hex(8)
        (folder / "password").write_text(password)
        shutil.chown(folder, user)
        shutil.chown(folder / "password", user)
        as_user = {"user": user, "cwd": folder, "env": {"PATH": os.environ["PATH"], "LC_ALL": "C"}}
        subprocess.run(
            [
                initdb,
                "--pgdata=data",
                "--username=mlflow",
                "--pwfile=password",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--no-sync",
            ],
            check=True,
            capture_output=True,
            **as_user,
        )
        port, log = free_port(), folder / "log"
        with log.open("w") as output:
            server = subprocess.Popen(
                [programs / "postgres", "-D", "data", "-p", str(port), "-k", name, "-F"],
                stdout=output,
                stderr=output,
                **as_user,
            )
        client = {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(port),
            "PGUSER": "mlflow",
            "PGPASSWORD": password,
        }
        try:
            wait_for(
                lambda: subprocess.run(
                    [programs / "createdb", "mlflow"],
                    check=True,
                    capture_output=True,
                    env=os.environ | client,
                ),
                server,
                log,
            )
            yield client
        finally:
            server.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown
            server.wait()


@pytest.fixture(scope="module")
def server(postgres, tmp_path_factory):
    """The address of the server that the command of the compose file starts."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    service = compose({"POSTGRES_PASSWORD": postgres["PGPASSWORD"]})["services"]["mlflow"]
    program, *arguments = service["command"]
    # The same command; the last of two equal options counts.
    here = [f"--port={port}", "--host=127.0.0.1", f"--artifacts-destination={folder}/artifacts"]
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [Path(sys.executable).with_name(program), *arguments, *here],
            cwd=folder,
            env=os.environ | service["environment"] | postgres,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: urllib.request.urlopen(f"{address}/health").close(), process, log)
        yield address
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


class Line(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch).square().mean()
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_fit_against_the_server_is_all_there(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tracker = MLflowTracker(
        experiment="digits", uri=server, artifacts=None, run_name="first", tags={"recipe": "line"}
    )
    folder = tracker.artifact_dir
    assert folder == tmp_path / "mlruns/staging" / tracker.run_id / "artifacts"
    module = Line()
    trainer = Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=tracker,
        callbacks=ModelCheckpoint(folder / "checkpoints", filename="best", monitor="train/loss"),
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    with heard() as told, recorded(tracker, told):
        tracker.log_hyperparams({"optimizer": {"lr": 0.1}})
        trainer.fit(module, DataLoader(torch.ones(8, 1), batch_size=1))
        tracker.publish("checkpoints")
        tracker.log_image("samples/Pêche", np.full((4, 4, 3), 7, np.uint8), step=24)
        tracker.log_dict({"seed": 0}, "recipe.yaml")

    run = find_run(tracker.run_id[:12], server)
    assert (run.info.status, run.data.params) == ("FINISHED", {"optimizer.lr": "0.1"})
    assert run.info.artifact_uri.startswith("mlflow-artifacts:")
    history = MlflowClient(server).get_metric_history(tracker.run_id, "train/loss")
    assert [point.step for point in history] == list(range(24))
    assert list_runs(server, experiment="digits")[0]["recipe"] == "line"

    assert not folder.exists()  # what is read back comes from the server
    checkpoint = artifact_file(run, "checkpoints/best.ckpt", server)
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    torch.testing.assert_close(state["layer.weight"], module.layer.weight.data)
    assert artifact_file(run, "recipe.yaml", server).read_text() == "seed: 0\n"
    pictures = {path.name for path in artifact_file(run, "images", server).iterdir()}
    assert any(name.startswith("samples~P_che+step+24+") for name in pictures)


def test_postgresql_takes_a_write_that_is_repeated_after_a_crash_once(
    server, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    common = {"uri": server, "artifacts": None, "run_name": None, "tags": None}
    tracker = MLflowTracker(experiment="crash", **common)
    for step in range(50):
        tracker.log_metrics({"loss": 1 / (step + 1), "nan": float("nan")}, step)
    tracker.log_hyperparams({"lr": 0.1})
    tracker.log_image("samples", np.zeros((4, 4), np.uint8), step=0)
    tracker.flush()
    [spool] = tmp_path.glob("mlruns/staging/*/spool")
    journal = (spool / "journal.jsonl").read_bytes()
    tracker.end(None)
    (spool / "journal.jsonl").write_bytes(journal)
    (spool / "delivered").unlink()
    tracker = MLflowTracker(experiment="crash", run_id=tracker.run_id, **common)
    tracker.log_metrics({"loss": 0.0}, 50)
    tracker.end("FINISHED")
    client = MlflowClient(server)
    points = client.get_metric_history(tracker.run_id, "loss")
    assert sorted(point.step for point in points) == list(range(51))
    assert len(client.get_metric_history(tracker.run_id, "nan")) == 50
    assert len(client.list_artifacts(tracker.run_id, "images")) == 2
    assert client.get_run(tracker.run_id).data.params == {"lr": "0.1"}


@pytest.mark.parametrize(
    ("host", "answer"), [("mlflow:5000", 200), ("localhost:5000", 200), ("evil.example.org", 403)]
)
def test_only_known_names_of_the_server_are_answered(server, host, answer):
    request = urllib.request.Request(
        f"{server}/api/2.0/mlflow/experiments/search?max_results=1", headers={"Host": host}
    )
    try:
        with urllib.request.urlopen(request) as response:
            status = response.status
    except urllib.error.HTTPError as error:
        status = error.code
        error.close()
    assert status == answer


def test_no_password_is_in_the_file_and_nothing_starts_without_one():
    with pytest.raises(KeyError, match="POSTGRES_PASSWORD"):
        compose({})
    services = compose({"POSTGRES_PASSWORD": "hunter2"})["services"]
    assert "hunter2" not in " ".join(services["mlflow"]["command"])


@pytest.mark.parametrize("name", ["postgres", "mlflow"])
def test_services_are_watched_and_not_root(name):
    service = compose({"POSTGRES_PASSWORD": "x"})["services"][name]
    assert service["user"] not in ("root", "0")
    assert service["healthcheck"]["test"][0] == "CMD"
