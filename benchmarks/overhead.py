"""What a training step costs over plain Lightning: the same network, loader and optimizer.

Three trainings take turns, a number of times: a bare LightningModule without a logger; the
package's classifier without a logger; and the same with full tracking, as the quickstart recipe
has it. Each is timed between the ends of its first and its last training batch, so that set-up,
validation and the drawing of pictures are left out. Ratios are taken within a round, medians over
rounds: the machine's own speed drifts.

    python benchmarks/overhead.py            # a table
    python benchmarks/overhead.py --json     # and a last line of JSON
"""

import argparse
import json
import os
import statistics
import tempfile
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import lightning.pytorch as pl
import torch
import torch.nn.functional as F

from lit_imgproc import load_recipe

RECIPE = ("quickstart", "data.batch_size=8", "data.num_workers=0", "trainer.max_epochs=1",
          "trainer.limit_val_batches=1", "trainer.num_sanity_val_steps=0")  # fmt: skip


class Stopwatch(pl.Callback):
    """Seconds from the end of the first training batch to the end of the last."""

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if batch_idx == 9:  # the first few warm up
            self.started = time.perf_counter()
        self.ended, self.steps = time.perf_counter(), batch_idx - 9

    @property
    def microseconds(self):
        return (self.ended - self.started) / self.steps * 1e6


class Plain(pl.LightningModule):
    """The least that trains: what a tutorial of Lightning would write."""

    def __init__(self, network, mean, std):
        super().__init__()
        self.network, self.mean, self.std = network, mean[0], std[0]

    def training_step(self, batch, batch_idx):
        image = (batch["image"].float() / 255 - self.mean) / self.std
        loss = F.cross_entropy(self.network(image), batch["label"])
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(
            self.parameters(), 0.1, momentum=0.9, weight_decay=5e-4, nesterov=True
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, 200)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def plain():
    experiment = load_recipe(*RECIPE)
    facts, watch = experiment.datamodule.facts(), Stopwatch()
    module = Plain(experiment.module.network, facts["mean"], facts["std"])
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[watch],
        use_distributed_sampler=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(module, datamodule=experiment.datamodule)
    return watch.microseconds


def ours(tracked):
    experiment, watch = load_recipe(*RECIPE), Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        tracker = None
        if tracked:
            from lit_imgproc.tracking.logger import MLflowTracker

            tracker = MLflowTracker(experiment="overhead", uri=f"sqlite:///{folder}/mlflow.db",
                                    artifacts=None, run_name=None, tags=None)  # fmt: skip
        else:
            # What writes to a logger has nothing to write to.
            for name in ("checkpoint", "lr_monitor", "predictions", "explain"):
                experiment.recipe["callbacks"].pop(name)
                experiment._in_use["callbacks"].pop(name, None)
        trainer = experiment.trainer(tracker)
        trainer.callbacks.insert(0, watch)
        trainer.fit(experiment.module, datamodule=experiment.datamodule)
        if tracker:
            tracker.end("FINISHED")
    return watch.microseconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    plain()  # warms the libraries up
    rounds = [(plain(), ours(False), ours(True)) for _ in range(arguments.rounds)]
    median = [statistics.median(column) for column in zip(*rounds, strict=True)]
    ratios = {
        name: statistics.median(row[i] / row[0] for row in rounds)
        for i, name in ((1, "untracked"), (2, "tracked"))
    }
    print(f"plain Lightning      {median[0]:7.0f} us a step")
    print(f"without a tracker    {median[1]:7.0f} us a step  {ratios['untracked']:.3f}")
    print(f"with full tracking   {median[2]:7.0f} us a step  {ratios['tracked']:.3f}")
    if arguments.json:
        print(json.dumps({"plain_us": median[0], **ratios}))


if __name__ == "__main__":
    main()
