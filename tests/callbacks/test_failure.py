"""The images of the batch in which a run fails: in a note on the exception, and in the run."""

import json
import math
import traceback

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.utils.data import DataLoader, Dataset

from lit_imgproc.callbacks.failure import FailingBatch, Place
from lit_imgproc.callbacks.nonfinite import NonFinite, NonFiniteLoss
from lit_imgproc.tracking.logger import MLflowTracker


class Numbers(Dataset):
    """The third batch of two cannot be read where ``unreadable``."""

    def __init__(self, unreadable=False):
        self.unreadable = unreadable

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if self.unreadable and index == 4:
            raise OSError("gone")
        return {"x": torch.ones(1), "id": f"n{index}"}


class Net(pl.LightningModule):
    """Fails in the second epoch's third batch of a stage, as it is told."""

    def __init__(self, stage=None, action=None):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.stage, self.action = stage, action

    def step(self, batch, batch_idx):
        last = self.stage == "test" or self.current_epoch == 1
        if self.action and self.trainer.state.stage == self.stage and batch_idx == 2 and last:
            self.action()
        return self.layer(batch["x"]).square().mean()

    training_step = step

    def validation_step(self, batch, batch_idx):
        self.step(batch, batch_idx)

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


@pytest.fixture
def tracker(store):
    return MLflowTracker(
        experiment="x", uri=store.uri, artifacts=store.artifacts, run_name=None, tags=None
    )


def run(tracker, module, *callbacks, test=False, data=None):
    trainer = pl.Trainer(
        accelerator="cpu", logger=tracker, callbacks=[FailingBatch(), *callbacks], max_epochs=2,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        log_every_n_steps=1,
    )  # fmt: skip
    loader = DataLoader(data or Numbers(), batch_size=2)
    try:
        if test:
            trainer.test(module, loader, verbose=False)
        else:
            trainer.fit(module, loader, DataLoader(Numbers(), batch_size=2))
    finally:
        tracker.end("FAILED")


def written(tracker):
    path = tracker.artifact_dir / "provenance/failed_batch.json"
    return json.loads(path.read_text()) if path.exists() else None


def fail():
    raise ValueError("a banana")


@pytest.mark.parametrize(
    ("stage", "epoch", "step"), [("train", 1, 6), ("validate", 1, 8), ("test", 0, 0)]
)
def test_the_batch_under_way_is_named(tracker, stage, epoch, step):
    with pytest.raises(ValueError, match="banana") as error:
        run(tracker, Net(stage, fail), test=stage == "test")
    assert written(tracker) == {
        "stage": stage, "epoch": epoch, "batch": 2, "step": step, "rank": 0, "ids": ["n4", "n5"],
    }  # fmt: skip
    note = f"at step {step}, {stage} batch 2 of epoch {epoch}, rank 0: n4, n5"
    assert error.value.__notes__ == [note]
    assert note in "".join(traceback.format_exception(error.value))


def test_a_bad_loss_names_its_own_batch_and_not_a_later_one(tracker, monkeypatch):
    class Bad(Net):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return loss * math.nan if batch_idx == 1 else loss

    monkeypatch.setattr("lit_imgproc.callbacks.nonfinite._is_on_cpu", lambda _: False)
    watch = NonFinite()
    with pytest.raises(NonFiniteLoss):
        run(tracker, Bad(), watch, pl.Callback())
    assert (written(tracker)["batch"], written(tracker)["ids"]) == (1, ["n2", "n3"])


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SIGTERMException, SystemExit])
def test_an_end_that_was_asked_for_is_no_failure(tracker, kind):
    def end():
        raise kind

    with pytest.raises((KeyboardInterrupt, SystemExit, SIGTERMException)):
        run(tracker, Net("train", end))
    assert written(tracker) is None


def test_what_fails_between_two_batches_is_not_blamed_on_one(tracker):
    with pytest.raises(OSError, match="gone") as error:
        run(tracker, Net(), data=Numbers(unreadable=True))
    assert written(tracker) is None
    assert not hasattr(error.value, "__notes__")


def test_without_a_tracker_or_ids_there_is_still_a_note():
    class Plain(Net):
        def training_step(self, batch, batch_idx):
            raise ValueError("a banana")

    trainer = pl.Trainer(
        accelerator="cpu", logger=False, callbacks=[FailingBatch()], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with pytest.raises(ValueError, match="banana") as error:
        trainer.fit(Plain(), DataLoader(torch.ones(4, 1)))
    assert error.value.__notes__ == [
        "at step 0, train batch 0 of epoch 0, rank 0: images without ids"
    ]


def test_many_ids_are_named_in_full_below():
    callback, error = FailingBatch(), ValueError()
    ids = [f"n{number}" for number in range(6)]
    callback._place = Place("train", 0, 1, 1, 3, ids)
    callback.on_exception(pl.Trainer(logger=False, accelerator="cpu"), None, error)
    assert error.__notes__ == [
        "at step 1, train batch 1 of epoch 0, rank 3: n0, n1, n2, n3, and 2 more",
        "all of its ids: n0, n1, n2, n3, n4, n5",
    ]
