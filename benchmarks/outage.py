"""What an MLflow server that goes away costs a training, and whether anything is lost.

The same small training three times, logging at every step, with an MLflow server on this machine:
(a) the server answers; (b) it is killed in the middle and started again 30 s later; (c) it is
killed for good, and what was logged is delivered by ``lit-imgproc sync`` after the training, when
it is started again. Then every point, image and file is looked for in the store, where each has to
be once. Exit code 1 if one is not. The machine's own speed drifts between the trainings, less
within one: beside the ratio of medians to the first training stands that of the 30 s to the 15 s
before them, in the first training too.

    python benchmarks/outage.py            # a table
    python benchmarks/outage.py --json     # and a last line of JSON
"""

import argparse
import json
import logging
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import lightning.pytorch as pl
import numpy as np
import torch
from mlflow.tracking import MlflowClient
from torch import nn

from lit_imgproc.tracking.logger import MLflowTracker

FIRST, AWAY, LAST = 15.0, 30.0, 15.0  # seconds before, while and after the server is away
WARM_UP = 50  # steps that are not timed
EVERY = 500  # steps between images and files


class Server:
    """An MLflow server on a SQLite file."""

    def __init__(self, folder):
        self.folder = folder
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = listener.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self):
        arguments = {"host": "127.0.0.1", "port": self.port, "workers": 1,
                     "backend-store-uri": f"sqlite:///{self.folder}/mlflow.db",
                     "artifacts-destination": f"{self.folder}/artifacts"}  # fmt: skip
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server",
                 *(f"--{key}={value}" for key, value in arguments.items())],
                env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        while True:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
                return
            except OSError:
                assert self.process.poll() is None, (self.folder / "log").read_text()
                time.sleep(0.2)

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Small(pl.LightningModule):
    """A few milliseconds of work a step."""

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
        )  # fmt: skip

    def training_step(self, batch, batch_idx):
        loss = self.network(batch).square().mean()
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


class Schedule(pl.Callback):
    """Time steps, kill and start the server when it is due, and end the training."""

    def __init__(self, tracker, kill, start):
        self.tracker, self.kill, self.start = tracker, kill, start
        self.threads, self.steps = [], []
        self.begun = self.last = time.perf_counter()

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if batch_idx % EVERY == 0:
            self.tracker.log_image("samples", np.zeros((64, 64, 3), np.uint8), batch_idx)
            self.tracker.log_text(str(batch_idx), f"notes/{batch_idx}.txt")
        now = time.perf_counter()
        self.steps.append((now - self.begun, now - self.last))
        self.last = now
        if self.kill is not None and now - self.begun > FIRST:
            self._do(self.kill)
            self.kill = None
        if self.start is not None and now - self.begun > FIRST + AWAY:
            self._do(self.start)
            self.start = None
        trainer.should_stop = now - self.begun > FIRST + AWAY + LAST

    def _do(self, action):
        self.threads.append(threading.Thread(target=action))
        self.threads[-1].start()


def train(server, *, kill=None, start=None):
    """Train once; its run id, how many steps it took, and (when, how long) of each in seconds."""
    tracker = MLflowTracker(
        experiment="outage", uri=server.uri, artifacts=None, run_name=None, tags=None
    )
    schedule = Schedule(tracker, kill, start)
    batches = torch.utils.data.DataLoader(
        range(1_000_000), batch_size=1, collate_fn=lambda _: torch.zeros(16, 3, 64, 64)
    )
    pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=tracker, callbacks=[schedule], log_every_n_steps=1,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    ).fit(Small(), batches)  # fmt: skip
    for thread in schedule.threads:
        thread.join()
    tracker.end("FINISHED")
    return tracker.run_id, len(schedule.steps), schedule.steps[WARM_UP:]


def missing(server, run_id, steps):
    """What is not in the store exactly once, in words; empty if nothing is."""
    client, wrong = MlflowClient(server.uri), []
    for key in ("train/loss", "epoch"):
        logged = [point.step for point in client.get_metric_history(run_id, key)]
        if sorted(logged) != list(range(steps)):
            wrong.append(f"{key}: {len(logged)} points of {steps}, {len(set(logged))} different")
    some = list(range(0, steps, EVERY))
    images = [item.path for item in client.list_artifacts(run_id, "images")]
    for suffix in (".png", ".webp"):
        if sorted(int(i.split("+")[2]) for i in images if i.endswith(suffix)) != some:
            wrong.append(f"{suffix} images")
    notes = {item.path for item in client.list_artifacts(run_id, "notes")}
    if notes != {f"notes/{step}.txt" for step in some}:
        wrong.append("notes/")
    if client.get_run(run_id).info.status != "FINISHED":
        wrong.append("the status")
    return "; ".join(wrong)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.simplefilter("ignore")  # Lightning's, of PyTorch's own
    found, here = {}, os.getcwd()
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)  # where the spools lie
        server = Server(Path(name))
        server.start()
        try:
            for case, actions in {
                "healthy": {},
                "away for 30 s": {"kill": server.kill, "start": server.start},
                "away for good": {"kill": server.kill},
            }.items():
                run_id, count, steps = train(server, **actions)
                if case == "away for good":
                    server.start()
                    program = [Path(sys.executable).with_name("lit-imgproc"), "sync"]
                    print(subprocess.run(program, check=False, text=True,
                                         stdout=subprocess.PIPE).stdout.strip())  # fmt: skip
                wrong = missing(server, run_id, count)
                found[case] = report(case, count, steps, wrong, found.get("healthy"))
        finally:
            server.kill()
            os.chdir(here)
    if arguments.json:
        print(json.dumps(found))
    sys.exit(any(row["wrong"] for row in found.values()))


def report(case, count, steps, wrong, healthy):
    """Print a line of the table; its values."""
    times = [seconds * 1000 for _, seconds in steps]
    before = [seconds * 1000 for when, seconds in steps if when < FIRST]
    away = [seconds * 1000 for when, seconds in steps if FIRST < when < FIRST + AWAY]
    row = {
        "steps": count,
        "median_ms": statistics.median(times),
        "p99_ms": statistics.quantiles(times, n=100)[98],
        "longest_ms": max(times),
        "away_to_before": statistics.median(away) / statistics.median(before),
        "wrong": wrong,
    }
    row["to_healthy"] = row["median_ms"] / (healthy or row)["median_ms"]
    print(
        f"{case:14} {count:6} steps, median {row['median_ms']:.2f} ms ({row['to_healthy']:.2f} of "
        f"healthy), p99 {row['p99_ms']:.1f} ms, longest {row['longest_ms']:.0f} ms; median of "
        f"{FIRST:.0f}..{FIRST + AWAY:.0f} s {row['away_to_before']:.2f} of that before; "
        f"{'FAILED: ' + wrong if wrong else 'OK, all is there once'}",
        flush=True,
    )
    return row


if __name__ == "__main__":
    main()
