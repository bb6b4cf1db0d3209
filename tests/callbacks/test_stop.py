"""A signal ends a training between two steps, wherever it comes."""

import os
import signal

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from lit_imgproc import checkpoints
from lit_imgproc.callbacks.checkpoint import Checkpoint
from lit_imgproc.callbacks.stop import Stop
from lit_imgproc.signals import Interrupted, heard


class Line(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.layer(batch).square().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Sending(Callback):
    """Send this process a signal at the n-th call of a hook."""

    def __init__(self, hook, count, number=signal.SIGTERM):
        self.left, self.number = count, number
        setattr(self, hook, self.send)

    def send(self, trainer, *args, **kwargs):
        self.left -= not trainer.sanity_checking
        if self.left == 0:
            self.left = -1
            os.kill(os.getpid(), self.number)


def fit(folder, sending, **options):
    with heard() as told:
        trainer = Trainer(
            accelerator="cpu", max_epochs=2, logger=False, default_root_dir=folder,
            enable_progress_bar=False, enable_model_summary=False,
            callbacks=[sending, Checkpoint(monitor="val/loss", mode="min"), Stop(told)], **options,
        )  # fmt: skip
        data = DataLoader(torch.ones(6, 1), batch_size=1)
        try:
            trainer.fit(Line(), data, data)
        except Interrupted as error:
            return error.number, trainer
    return None, trainer


@pytest.mark.parametrize(
    ("hook", "count", "options", "step"),
    [
        ("on_train_batch_start", 4, {}, 4),
        ("on_after_backward", 4, {}, 4),
        ("on_train_batch_end", 8, {}, 8),
        # the step under way is that of the fourth, fifth and sixth batch
        ("on_train_batch_start", 4, {"accumulate_grad_batches": 3}, 2),
        # what was saved before the validation
        ("on_validation_batch_start", 2, {}, 6),
        ("on_validation_epoch_end", 1, {"val_check_interval": 2}, 3),
        ("on_train_epoch_end", 2, {}, 12),
        ("on_train_end", 1, {}, 12),
    ],
)
def test_the_step_is_finished_and_saved(tmp_path, hook, count, options, step):
    ending, _ = fit(tmp_path, Sending(hook, count), **options)
    assert ending == signal.SIGTERM
    assert checkpoints.read(tmp_path / "checkpoints/last.ckpt")["global_step"] == step


def test_before_there_is_anything_to_save_it_ends_without(tmp_path):
    ending, trainer = fit(tmp_path, Sending("on_fit_start", 1))
    assert ending == signal.SIGTERM
    assert trainer.global_step == 0
    assert not (tmp_path / "checkpoints").exists()


def test_a_training_that_is_not_told_ends_by_itself(tmp_path):
    ending, trainer = fit(tmp_path, Sending("on_train_batch_end", 99))
    assert (ending, trainer.global_step) == (None, 12)
