"""How a training can end: its status, its exit code, and what it leaves to go on from."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from mlflow.tracking import MlflowClient

from lit_imgproc import checkpoints, load_run
from lit_imgproc.tracking.records import list_runs

LONG = ("trainer.max_epochs=10000", "trainer.limit_train_batches=4", "trainer.limit_val_batches=1")
SHORT = ("trainer.max_epochs=2", "trainer.limit_train_batches=4", "trainer.limit_val_batches=1")
PROGRAM = "from lit_imgproc.cli import main; main()"


class Training:
    """The command line, training the quickstart recipe in a process of its own."""

    checkpoints = "mlruns/artifacts/*/artifacts/checkpoints/last.ckpt"

    def __init__(self, store, folder, *options, program=PROGRAM, environment=None, arguments=()):
        self.store, self.folder = store, folder
        self.output = (folder / "output").open("w+")
        common = (
            f"tracking.uri={store.uri}", f"tracking.artifacts={store.artifacts}",
            "data.num_workers=0", "trainer.enable_model_summary=false", "callbacks.explain=null",
        )  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, "train", *arguments, *common, *options, "--json"],
            cwd=folder,
            env=os.environ | (environment or {}),
            stdout=self.output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait_for_a_checkpoint(self, step=8):
        """Wait until the training is past that many steps."""
        while True:
            assert self.process.poll() is None, self.said()
            for path in self.folder.glob(self.checkpoints):
                try:
                    if checkpoints.read(path)["global_step"] >= step:
                        return
                except FileNotFoundError:  # between two names
                    pass
            time.sleep(0.05)

    def end(self):
        """The exit code and the run."""
        code = self.process.wait()
        [run] = self.runs()
        return code, run

    def runs(self):
        rows = list_runs(self.store.uri)
        return [load_run(row["run_id"], uri=self.store.uri) for row in rows]

    def said(self):
        self.output.seek(0)
        return self.output.read()


@pytest.fixture
def train(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    started = []

    def start(*options, arguments=("quickstart",), **more):
        started.append(Training(store, tmp_path, *options, arguments=arguments, **more))
        return started[-1]

    yield start
    for training in started:
        if training.process.poll() is None:
            os.killpg(training.process.pid, signal.SIGKILL)
            training.process.wait()
        training.output.close()


def artifact(run, path):
    """The text of an artifact, None where there is none."""
    file = Path(run.record.info.artifact_uri, path)
    return file.read_text() if file.exists() else None


def test_normal(train):
    code, run = train(*SHORT).end()
    assert (code, run.status) == (0, "FINISHED")
    assert torch.load(run.last_checkpoint(), weights_only=True)["global_step"] == 8


@pytest.mark.parametrize(
    ("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)]
)
def test_a_signal_ends_it_after_a_checkpoint_and_it_goes_on(train, number, expected):
    training = train(*LONG)
    training.wait_for_a_checkpoint()
    training.process.send_signal(number)
    code, run = training.end()
    assert (code, run.status) == (expected, "KILLED"), training.said()
    assert json.loads(training.said().splitlines()[-1])["status"] == "KILLED"
    step = checkpoints.read(run.last_checkpoint())["global_step"]
    assert artifact(run, "provenance/traceback.txt") is None
    ends = f"trainer.max_epochs={step // 4 + 2}"
    code, run = train(ends, arguments=("--resume", run.id[:12])).end()
    assert (code, run.status) == (0, "FINISHED")
    assert checkpoints.read(run.last_checkpoint())["global_step"] == 4 * (step // 4 + 2)
    assert f'"step": {step}' in artifact(run, f"provenance/resumed_at_step_{step}.json")


HANGING = """
import time, torch
from pathlib import Path
step = torch.optim.SGD.step
def hang(*args, **kwargs):
    if Path("hang").exists():
        Path("hanging").touch()
        time.sleep(3600)
    return step(*args, **kwargs)
torch.optim.SGD.step = hang
"""


def test_a_second_ctrl_c_leaves_at_once(train, tmp_path):
    training = train(*LONG, program=HANGING + PROGRAM)
    training.wait_for_a_checkpoint(step=4)
    (tmp_path / "hang").touch()
    while not (tmp_path / "hanging").exists():
        assert training.process.poll() is None, training.said()
        time.sleep(0.05)
    training.process.send_signal(signal.SIGINT)  # waits for the step, which never ends
    time.sleep(1)
    assert training.process.poll() is None
    training.process.send_signal(signal.SIGINT)
    code, run = training.end()
    assert (code, run.status) == (130, "KILLED"), training.said()


def test_sigkill_leaves_it_running_and_it_goes_on(train):
    training = train(*LONG)
    training.wait_for_a_checkpoint()
    training.process.kill()
    code, run = training.end()
    assert (code, run.status) == (-signal.SIGKILL, "RUNNING")
    step = checkpoints.read(run.last_checkpoint())["global_step"]
    code, run = train(f"trainer.max_epochs={step // 4 + 1}", arguments=("--resume", run.id)).end()
    assert (code, run.status) == (0, "FINISHED")
    history = MlflowClient(run.uri).get_metric_history(run.id, "val/loss")
    assert [point.step for point in history] == sorted({point.step for point in history})


def test_an_exception(train):
    code, run = train(*SHORT, "model.network.in_channels=3").end()
    assert (code, run.status) == (1, "FAILED")
    assert "RuntimeError" in artifact(run, "provenance/traceback.txt")
    failed = json.loads(artifact(run, "provenance/failed_batch.json"))
    assert failed["batch"] == 0
    assert failed["ids"]


def test_a_loss_that_is_not_finite(train):
    training = train(*LONG, "model.optimizer.lr=1e30")
    code, run = training.end()
    assert (code, run.status) == (1, "FAILED"), training.said()
    assert "Traceback" not in training.said()
    failed = json.loads(artifact(run, "provenance/failed_batch.json"))
    assert failed["ids"]
    assert failed["step"] <= 4
    assert f"not finite at step {failed['step']}" in training.said()
    for path in checkpoints.last(Path(run.record.info.artifact_uri, "checkpoints")):
        state = checkpoints.read(path)["state_dict"]
        assert all(torch.isfinite(t.float()).all() for t in state.values())


def test_a_full_disk(train):
    full = (
        "import os, errno\nfrom lit_imgproc import checkpoints\ncalls = []\nfsync = os.fsync\n"
        "def full(number):\n    calls.append(number)\n"
        "    if len(calls) > 6: raise OSError(errno.ENOSPC, 'No space left on device')\n"
        "    fsync(number)\n"
        "checkpoints.os = type('os', (), dict(vars(os), fsync=staticmethod(full)))\n"
    )
    training = train(*LONG, program=full + PROGRAM)
    code, run = training.end()
    assert (code, run.status) == (2, "FAILED"), training.said()
    assert "No space left on device" in training.said()
    assert "Traceback" not in training.said()
    assert checkpoints.read(run.last_checkpoint())["global_step"] == 12


def test_a_job_that_slurm_starts_again_goes_on_with_its_run(train, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "scontrol").write_text('#!/bin/sh\necho "$@" >> "$(dirname "$0")/asked"\n')
    (tools / "scontrol").chmod(0o755)
    slurm = {"SLURM_JOB_ID": "77", "PATH": f"{tools}:{os.environ['PATH']}"}
    training = train(*LONG, environment=slurm)
    training.wait_for_a_checkpoint()
    training.process.send_signal(signal.SIGUSR1)
    code, run = training.end()
    assert (code, run.status) == (75, "RUNNING"), training.said()
    assert (tools / "asked").read_text() == "requeue 77\n"
    # The same command goes on with the run, and is again told to end.
    slurm["SLURM_RESTART_COUNT"] = "1"
    step = checkpoints.read(run.last_checkpoint())["global_step"]
    training = train(*LONG, environment=slurm)
    training.wait_for_a_checkpoint(step + 8)
    training.process.send_signal(signal.SIGTERM)
    code, again = training.end()
    assert (code, again.status, again.id) == (143, "KILLED", run.id)


def test_a_job_of_several_trainings_does_not_repeat_those_that_are_done(train):
    slurm = {"SLURM_JOB_ID": "78"}
    code, first = train(*SHORT, environment=slurm).end()
    assert (code, first.status) == (0, "FINISHED")
    slurm["SLURM_RESTART_COUNT"] = "1"
    code, again = train(*SHORT, environment=slurm).end()
    assert (code, again.id) == (0, first.id)
    # Another recipe in the same job is another run.
    training = train(*SHORT, "seed=1", environment=slurm)
    assert training.process.wait() == 0
    assert len(training.runs()) == 2


def test_a_job_that_slurm_does_not_requeue_is_killed(train, tmp_path):
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho requeue is not allowed >&2\nexit 1\n")
    (tmp_path / "scontrol").chmod(0o755)
    slurm = {"SLURM_JOB_ID": "77", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    training = train(*LONG, environment=slurm)
    training.wait_for_a_checkpoint()
    training.process.send_signal(signal.SIGUSR1)
    code, run = training.end()
    assert (code, run.status) == (138, "KILLED"), training.said()
    assert "requeue is not allowed" in training.said()


RANKS = ("trainer.devices=2", "trainer.accelerator=cpu", "data.batch_size=16")


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGUSR1]
)
def test_two_ranks_end_at_the_same_step_and_go_on(train, number):
    training = train(*LONG, *RANKS)
    training.wait_for_a_checkpoint()
    training.process.send_signal(number)
    code, run = training.end()
    assert (code, run.status) == (128 + number, "KILLED"), training.said()
    step = checkpoints.read(run.last_checkpoint())["global_step"]
    ends = f"trainer.max_epochs={step // 4 + 2}"
    code, run = train(ends, arguments=("--resume", run.id)).end()
    assert (code, run.status) == (0, "FINISHED")
    assert checkpoints.read(run.last_checkpoint())["global_step"] == 4 * (step // 4 + 2)


@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_rank_that_is_killed_makes_the_run_failed_and_it_goes_on(train, rank):
    training = train(*LONG, *RANKS)
    training.wait_for_a_checkpoint()
    [torchrun] = psutil.Process(training.process.pid).children()
    ranks = {child.environ()["RANK"]: child for child in torchrun.children()}
    ranks[str(rank)].kill()
    code, run = training.end()
    assert (code, run.status) == (1, "FAILED"), training.said()
    assert ("a rank was killed" in training.said()) == (
        artifact(run, "provenance/traceback.txt") is None
    )
    step = checkpoints.read(run.last_checkpoint())["global_step"]
    ends = f"trainer.max_epochs={step // 4 + 2}"
    code, run = train(ends, arguments=("--resume", run.id)).end()
    assert (code, run.status) == (0, "FINISHED")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_lets_the_loaders_serve_the_step(train, number):
    training = train(*LONG, "data.num_workers=2", "trainer.accumulate_grad_batches=4")
    training.wait_for_a_checkpoint(step=2)
    os.killpg(training.process.pid, number)
    code, run = training.end()
    assert (code, run.status) == (128 + number, "KILLED"), training.said()
    assert "DataLoader" not in training.said()


def test_a_tracker_that_is_gone_does_not_end_it_and_sync_delivers_the_rest(train, server, tmp_path):
    elsewhere = (f"tracking.uri={server.uri}", "tracking.artifacts=null")
    training = train(*SHORT, "trainer.max_epochs=60", *elsewhere)
    training.checkpoints = "mlruns/staging/*/artifacts/checkpoints/last.ckpt"
    training.wait_for_a_checkpoint()
    server.kill()
    assert training.process.wait() == 0, training.said()
    assert "`lit-imgproc sync` delivers what it has logged" in training.said()
    result = json.loads(training.said().splitlines()[-1])
    assert result["status"] == "FINISHED"
    server.start()
    client = MlflowClient(server.uri)
    assert client.get_run(result["run_id"]).info.status == "RUNNING"
    sync = [sys.executable, "-c", "from lit_imgproc.cli import main; main()", "sync"]
    subprocess.run(sync, cwd=tmp_path, check=True)
    run = load_run(result["run_id"], uri=server.uri)
    assert run.status == "FINISHED"
    assert "test/accuracy" in run.metrics
    history = client.get_metric_history(run.id, "val/loss")
    assert [point.step for point in history] == [4 * epoch + 3 for epoch in range(60)]
    assert checkpoints.read(run.checkpoint)["run_id"] == run.id  # uploaded
