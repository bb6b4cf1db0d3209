"""What explanation maps add to an epoch of training: a small CNN on Fashion-MNIST, on one core.

Two trainings of one epoch take turns, a number of times: with ``callbacks.explain`` as the recipe
has it, and without; all else is equal, full tracking too. An epoch is its 55,000 training images
and the validation that ends it. Ratios are taken within a round, medians over rounds: the machine's
own speed drifts. The time within the callback's hooks is measured beside, as a share of the epoch;
it knows nothing of that drift.

    python benchmarks/explanations.py            # a table
    python benchmarks/explanations.py --json     # and a last line of JSON

The data lie under LIT_IMGPROC_DATA, or are fetched.
"""

import argparse
import json
import os
import statistics
import tempfile
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import lightning.pytorch as pl

from lit_imgproc import load_recipe
from lit_imgproc.callbacks.explain import Explain
from lit_imgproc.tracking.logger import MLflowTracker

RECIPE = ("classification/convnet_fashion_mnist", "trainer.max_epochs=1",
          "trainer.num_sanity_val_steps=0")  # fmt: skip
HOOKS = ("on_validation_epoch_start", "on_validation_batch_end", "on_validation_epoch_end")


class Stopwatch(pl.Callback):
    """Seconds of an epoch, and those of them that were spent in a callback's hooks."""

    seconds = within = 0.0

    def on_train_epoch_start(self, trainer, module):
        self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer, module):
        self.seconds = time.perf_counter() - self.started

    def watch(self, callback):
        for name in HOOKS:
            setattr(callback, name, self.timed(getattr(callback, name)))

    def timed(self, hook):
        def run(*arguments):
            started = time.perf_counter()
            hook(*arguments)
            self.within += time.perf_counter() - started

        return run


def epoch(*overrides):
    experiment, watch = load_recipe(*RECIPE, *overrides), Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        tracker = MLflowTracker(experiment="explanations", uri=f"sqlite:///{folder}/mlflow.db",
                                artifacts=None, run_name=None, tags=None)  # fmt: skip
        trainer = experiment.trainer(tracker)
        for callback in trainer.callbacks:
            if isinstance(callback, Explain):
                watch.watch(callback)
        trainer.callbacks.append(watch)
        trainer.fit(experiment.module, datamodule=experiment.datamodule)
        tracker.end("FINISHED")
    return watch.seconds, watch.within


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    epoch("trainer.limit_train_batches=4", "trainer.limit_val_batches=1")  # warms the libraries up
    rounds = []
    for number in range(arguments.rounds):
        turns = ((), ("callbacks.explain=null",))  # who comes first changes
        times = {turn: epoch(*turn) for turn in (turns, turns[::-1])[number % 2]}
        (seconds, within), (without, _) = (times[turn] for turn in turns)
        rounds.append((without, seconds, seconds / without, within, within / seconds))
    without, seconds, ratio, within, share = (
        statistics.median(column) for column in zip(*rounds, strict=True)
    )
    print(f"without explanations  {without:6.1f} s an epoch")
    print(f"with explanations     {seconds:6.1f} s an epoch  {ratio:.3f}")
    print(f"within the callback   {within * 1000:6.0f} ms an epoch {share:.2%}")
    if arguments.json:
        print(json.dumps({"ratio": ratio, "within_ms": within * 1000, "share": share}))


if __name__ == "__main__":
    main()
