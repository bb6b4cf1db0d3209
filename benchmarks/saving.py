"""What being able to go on costs: a checkpoint every 100 steps, and the spool.

The ResNet-20 recipe on Fashion-MNIST trains for some hundred steps, by turns without a tracker and
checkpoints, and with both. Two figures: the ratio of the two, from the end of the tenth batch to
the end of the last, as a median over rounds; and the share of the second that is spent in saving
and in writing to the spool, measured around the two calls.

    python benchmarks/saving.py
    python benchmarks/saving.py --rounds 3 --steps 210 --json
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import lightning.pytorch as pl

from lit_imgproc import load_recipe
from lit_imgproc.callbacks.checkpoint import Checkpoint
from lit_imgproc.signals import Heard
from lit_imgproc.tracking.logger import MLflowTracker
from lit_imgproc.tracking.spool import Spool

DATA = os.environ.get(
    "LIT_IMGPROC_DATA", str(Path(__file__).resolve().parents[2] / "shared" / "data")
)


class Stopwatch(pl.Callback):
    """Seconds from the end of the tenth training batch to the end of what follows the last."""

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if batch_idx == 9:
            self.started = time.perf_counter()

    def on_validation_start(self, trainer, module):
        self.seconds = time.perf_counter() - self.started


def clocked(owner, name, spent):
    """Let a method add the seconds that it takes to ``spent``."""
    method = getattr(owner, name)

    def timed(*args, **kwargs):
        begun = time.perf_counter()
        try:
            return method(*args, **kwargs)
        finally:
            spent.append(time.perf_counter() - begun)

    setattr(owner, name, timed)


def fit(steps, recorded):
    """Seconds of training."""
    experiment = load_recipe(
        "classification/resnet20_fashion_mnist", f"data.root={DATA}/fashion_mnist",
        "trainer.max_epochs=1", f"trainer.limit_train_batches={steps}", "trainer.accelerator=cpu",
        "trainer.limit_val_batches=1", "trainer.num_sanity_val_steps=0", "data.num_workers=1",
        "trainer.enable_model_summary=false", "callbacks.predictions=null",
        "callbacks.explain=null", "callbacks.checkpoint.every_n_steps=100",
    )  # fmt: skip
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        tracker = None
        if recorded:
            tracker = MLflowTracker(experiment="saving", uri=f"sqlite:///{folder}/mlflow.db",
                                    artifacts=None, run_name=None, tags=None)  # fmt: skip
        else:
            for name in ("checkpoint", "lr_monitor"):
                experiment._in_use["callbacks"].pop(name)
        trainer = experiment.trainer(tracker, Heard())
        trainer.callbacks.append(watch)
        trainer.fit(experiment.module, datamodule=experiment.datamodule)
        if tracker:
            tracker.end("FINISHED")
    return watch.seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=310)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    saving, spooling = [], []
    clocked(Checkpoint, "save", saving)
    clocked(Spool, "append", spooling)
    os.chdir(tempfile.mkdtemp())  # for the spools
    rounds = []
    for _ in range(arguments.rounds):
        plain = fit(arguments.steps, recorded=False)
        saving.clear(), spooling.clear()
        rounds.append((plain, fit(arguments.steps, recorded=True), sum(saving), sum(spooling)))
        print(f"  {plain:.1f} s without, {rounds[-1][1]:.1f} s with", flush=True)
    ratio = statistics.median(row[1] / row[0] for row in rounds)
    shares = [statistics.median(row[i] / row[1] for row in rounds) for i in (2, 3)]
    print(f"with over without        {ratio:.3f}")
    print(f"share spent in saving    {shares[0]:.4f}")
    print(f"share spent in the spool {shares[1]:.4f}")
    if arguments.json:
        print(json.dumps({"ratio": ratio, "saving": shares[0], "spool": shares[1]}))


if __name__ == "__main__":
    main()
