"""The best and the last states are several: a metric that only gets worse tells them apart."""

import itertools
import os

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from lit_imgproc import checkpoints
from lit_imgproc.callbacks import checkpoint as module
from lit_imgproc.callbacks.checkpoint import Checkpoint
from lit_imgproc.errors import UserError


class Scored(pl.LightningModule):
    """Its loss on the n-th validation is the n-th score; by default the number of the epoch."""

    def __init__(self, scores=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.scores = itertools.count() if scores is None else iter(scores)

    def training_step(self, batch, batch_idx):
        return (self.weight - batch).square().mean()

    def validation_step(self, batch, batch_idx):
        pass

    def on_validation_epoch_end(self):
        if not self.trainer.sanity_checking:
            self.log("val/loss", float(next(self.scores)))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder, scores=None, options=None, epochs=3, **trainer):
    checkpoint = Checkpoint(**{"monitor": "val/loss", "mode": "min"} | (options or {}))
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        default_root_dir=folder,
        callbacks=[checkpoint],
        enable_progress_bar=False,
        enable_model_summary=False,
        **trainer,
    )
    data = DataLoader(torch.ones(4), batch_size=1)
    trainer.fit(Scored(scores), data, data)
    return checkpoint


def steps(folder):
    return {
        path.name: checkpoints.read(path)["global_step"]
        for path in (folder / "checkpoints").iterdir()
    }


@pytest.mark.parametrize(
    ("options", "trainer", "left"),
    [
        ({}, {}, {"best.ckpt": 4, "last.ckpt": 12, "last-1.ckpt": 8}),
        ({"keep": 1}, {}, {"best.ckpt": 4, "last.ckpt": 12}),
        ({"keep": 4}, {}, {"best.ckpt": 4, "last.ckpt": 12, "last-1.ckpt": 8, "last-2.ckpt": 4}),
        ({"every_n_steps": 3}, {}, {"best.ckpt": 4, "last.ckpt": 12, "last-1.ckpt": 9}),
        ({"every_minutes": 1e-9}, {}, {"best.ckpt": 4, "last.ckpt": 12, "last-1.ckpt": 11}),
        ({"monitor": None}, {}, {"last.ckpt": 12, "last-1.ckpt": 8}),
        ({"mode": "max"}, {}, {"best.ckpt": 12, "last.ckpt": 12, "last-1.ckpt": 8}),
        ({}, {"val_check_interval": 2}, {"best.ckpt": 2, "last.ckpt": 12, "last-1.ckpt": 10}),
        ({}, {"limit_val_batches": 0}, {"last.ckpt": 12, "last-1.ckpt": 8}),
        ({}, {"check_val_every_n_epoch": 3}, {"best.ckpt": 12, "last.ckpt": 12, "last-1.ckpt": 8}),
        ({"every_n_steps": 1, "keep": 9}, {"accumulate_grad_batches": 2, "max_steps": 3},
         {"best.ckpt": 2, "last.ckpt": 3, "last-1.ckpt": 2, "last-2.ckpt": 1}),
    ],
)  # fmt: skip
def test_what_is_saved_and_what_is_kept(tmp_path, options, trainer, left):
    checkpoint = fit(tmp_path, options=options, **trainer)
    assert steps(tmp_path) == left
    assert checkpoint.last_model_path == str(tmp_path / "checkpoints" / "last.ckpt")
    best = str(tmp_path / "checkpoints" / "best.ckpt") if "best.ckpt" in left else ""
    assert checkpoint.best_model_path == best


def test_a_validation_amid_an_accumulation_has_its_best_state_saved_too(tmp_path):
    # Validations after batches 1, 2, 3 and 4 of an epoch; steps after 3 and 4.
    fit(tmp_path, scores=[1, 0, 2, 3], epochs=1, val_check_interval=1, accumulate_grad_batches=3)
    assert steps(tmp_path) == {"best.ckpt": 0, "last.ckpt": 2, "last-1.ckpt": 1}


@pytest.mark.parametrize(
    ("scores", "best"), [([float("nan"), 2, 1], 12), ([2, float("nan"), 3], 4), ([1, 1, 1], 4)]
)
def test_a_score_that_is_no_number_is_never_better(tmp_path, scores, best):
    fit(tmp_path, scores=scores)
    assert steps(tmp_path)["best.ckpt"] == best


def test_the_best_state_is_a_second_name_and_no_second_file(tmp_path):
    fit(tmp_path, options={"mode": "max"})
    best, last = (tmp_path / "checkpoints" / name for name in ("best.ckpt", "last.ckpt"))
    assert best.samefile(last)


def test_the_best_state_is_copied_where_files_have_one_name(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    fit(tmp_path, options={"mode": "max"})
    assert steps(tmp_path) == {"best.ckpt": 12, "last.ckpt": 12, "last-1.ckpt": 8}


def test_a_metric_that_is_not_logged_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match=r"no metric val/acuracy .* there are: val/loss"):
        fit(tmp_path, options={"monitor": "val/acuracy"})


@pytest.mark.parametrize("moment", range(1, 6))
def test_a_crash_between_two_names_leaves_a_whole_one(tmp_path, monkeypatch, moment):
    class Crash(BaseException):
        pass

    replaced = []
    replace = module.Path.replace

    def crashing(self, target):
        replaced.append(target)
        if len(replaced) == 6 + moment:
            raise Crash
        return replace(self, target)

    monkeypatch.setattr(module.Path, "replace", crashing)
    with pytest.raises(Crash):
        fit(tmp_path, epochs=10)
    monkeypatch.undo()
    found = checkpoints.newest_whole(checkpoints.last(tmp_path / "checkpoints"))
    assert checkpoints.read(found)["global_step"] >= 4
