import os
import signal
import threading
from contextlib import contextmanager

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from mlflow.tracking import MlflowClient
from torch.utils.data import DataLoader

from lit_imgproc.callbacks.stop import Stop
from lit_imgproc.signals import Interrupted, heard
from lit_imgproc.tracking import ending
from lit_imgproc.tracking.logger import MLflowTracker


class Line(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch).square().mean()
        self.log("train/loss", loss, on_step=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class At(Callback):
    """Does something at the end of the third training batch."""

    def __init__(self, action):
        self.action = action

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == 2:
            self.action()


@pytest.fixture
def tracker(store):
    return MLflowTracker(
        experiment="x", uri=store.uri, artifacts=store.artifacts, run_name=None, tags=None
    )


@pytest.fixture
def ended(store, tracker):
    def read():
        run = MlflowClient(store.uri).get_run(tracker.run_id)
        path = tracker.artifact_dir / "provenance/traceback.txt"
        return run.info.status, path.read_text() if path.exists() else None

    return read


@contextmanager
def recorded(tracker):
    with heard() as told, ending.recorded(tracker, told):
        yield told


def fit(tracker, *callbacks):
    Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=tracker,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    ).fit(Line(), DataLoader(torch.ones(8, 1), batch_size=1))


def send(number):
    return lambda: os.kill(os.getpid(), number)


def test_a_fit_that_ends_is_finished(store, tracker, ended):
    with recorded(tracker):
        fit(tracker)
        assert ended() == ("RUNNING", None)
    assert ended() == ("FINISHED", None)
    history = MlflowClient(store.uri).get_metric_history(tracker.run_id, "train/loss")
    assert [point.step for point in history] == list(range(8))


def test_an_error_in_fit_is_failed_with_its_traceback(tracker, ended):
    def fail():
        raise ValueError("the loss is a banana")

    with pytest.raises(ValueError, match="banana"), recorded(tracker):
        fit(tracker, At(fail))
    status, traceback = ended()
    assert status == "FAILED"
    assert "ValueError: the loss is a banana" in traceback
    assert "test_ending.py" in traceback


def test_ctrl_c_in_fit_is_killed_and_still_a_keyboard_interrupt(tracker, ended):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), recorded(tracker):
        fit(tracker, At(send(signal.SIGINT)))
    assert ended() == ("KILLED", None)
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.parametrize(
    ("number", "exception"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Interrupted),
     (signal.SIGUSR1, Interrupted)],
)  # fmt: skip
def test_a_signal_in_fit_is_killed_after_the_step(store, tracker, ended, number, exception):
    with pytest.raises(exception), recorded(tracker) as told:
        fit(tracker, At(send(number)), Stop(told))
    assert ended() == ("KILLED", None)
    history = MlflowClient(store.uri).get_metric_history(tracker.run_id, "train/loss")
    assert [point.step for point in history] == [0, 1, 2]


def test_a_second_signal_does_not_wait_for_the_step(store, tracker, ended):
    def twice():
        send(signal.SIGINT)()
        send(signal.SIGINT)()

    with pytest.raises(KeyboardInterrupt), recorded(tracker) as told:
        fit(tracker, At(twice), Stop(told))
    assert ended() == ("KILLED", None)
    history = MlflowClient(store.uri).get_metric_history(tracker.run_id, "train/loss")
    assert [point.step for point in history] == [0, 1]


@pytest.mark.parametrize("delay", [0.0, 0.05])
def test_workers_that_die_of_the_same_sigterm_do_not_make_it_failed(tracker, ended, delay):
    def worker_dies():
        if delay:  # the death is noticed before the signal is
            threading.Timer(delay, send(signal.SIGTERM)).start()
        else:
            send(signal.SIGTERM)()
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated.")

    with pytest.raises(Interrupted), recorded(tracker):
        fit(tracker, At(worker_dies))
    assert ended() == ("KILLED", None)


@pytest.mark.parametrize(
    ("number", "exception"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Interrupted),
     (signal.SIGUSR1, Interrupted)],
)  # fmt: skip
def test_a_signal_outside_fit_is_killed(tracker, ended, number, exception):
    before = signal.getsignal(number)
    with pytest.raises(exception), recorded(tracker):
        send(number)()
    assert ended() == ("KILLED", None)
    assert signal.getsignal(number) == before


def test_an_impatient_second_signal_does_not_spoil_the_status(tracker, ended, monkeypatch):
    end = MLflowTracker.end

    def pressed_again(self, status):
        send(signal.SIGINT)()
        send(signal.SIGTERM)()
        end(self, status)

    monkeypatch.setattr(MLflowTracker, "end", pressed_again)
    with pytest.raises(KeyboardInterrupt), recorded(tracker):
        raise KeyboardInterrupt
    assert ended() == ("KILLED", None)


@pytest.mark.parametrize(("code", "status"), [(0, "FINISHED"), (None, "FINISHED"), (3, "FAILED")])
def test_an_exit_is_what_its_code_says(tracker, ended, code, status):
    with pytest.raises(SystemExit) as raised, recorded(tracker):
        raise SystemExit(code)
    assert raised.value.code == code
    assert ended()[0] == status


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """A stand-in for SLURM's, which notes what it is asked and refuses where it is told to."""
    tool = tmp_path / "tools" / "scontrol"
    tool.parent.mkdir()
    tool.write_text(
        '#!/bin/sh\necho "$@" > "$0.asked"\n[ ! -e "$0.refuses" ] || { echo no >&2; exit 1; }\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    return tool


def test_sigusr1_in_a_slurm_job_requeues_it_and_leaves_the_run_open(tracker, ended, scontrol):
    with pytest.raises(Interrupted) as raised, recorded(tracker):
        send(signal.SIGUSR1)()
    assert raised.value.code == 75
    assert ended() == ("RUNNING", None)
    assert scontrol.with_name("scontrol.asked").read_text() == "requeue 12\n"


def test_an_array_job_is_requeued_by_its_task(tracker, scontrol, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "10")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    with pytest.raises(Interrupted), recorded(tracker):
        send(signal.SIGUSR1)()
    assert scontrol.with_name("scontrol.asked").read_text() == "requeue 10_3\n"


def test_a_job_that_is_not_requeued_is_killed(tracker, ended, scontrol, caplog):
    scontrol.with_name("scontrol.refuses").touch()
    with pytest.raises(Interrupted) as raised, recorded(tracker):
        send(signal.SIGUSR1)()
    assert raised.value.code == 138
    assert ended() == ("KILLED", None)
    assert "does not requeue job 12" in caplog.text


def test_sigterm_in_a_slurm_job_is_killed(tracker, ended, scontrol):
    with pytest.raises(Interrupted) as raised, recorded(tracker):
        send(signal.SIGTERM)()
    assert raised.value.code == 143
    assert ended() == ("KILLED", None)
    assert not scontrol.with_name("scontrol.asked").exists()
