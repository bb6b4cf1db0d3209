"""The best and the last state are two: a metric that only gets worse tells them apart."""

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from lit_imgproc.callbacks.checkpoint import Checkpoint


class Worsening(pl.LightningModule):
    """Its loss on validation is the number of the epoch."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        return (self.weight - batch).square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", float(self.current_epoch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("options", "epochs", "best", "last"),
    [
        ({}, 3, (0, 4), (2, 12)),
        ({"every_n_epochs": 2}, 5, (1, 8), (3, 16)),
        ({"every_n_train_steps": 6}, 3, (1, 6), (2, 12)),
    ],
)
def test_last_is_the_last_though_an_earlier_one_was_better(tmp_path, options, epochs, best, last):
    checkpoint = Checkpoint(monitor="val/loss", mode="min", **options)
    checkpoint.dirpath = str(tmp_path)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        callbacks=[checkpoint],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = DataLoader(torch.ones(4), batch_size=1)
    trainer.fit(Worsening(), data, data)
    assert {path.name for path in tmp_path.iterdir()} == {"best.ckpt", "last.ckpt"}
    for name, state in (("best", best), ("last", last)):
        saved = torch.load(tmp_path / f"{name}.ckpt", weights_only=True)
        assert (saved["epoch"], saved["global_step"]) == state, name
    assert checkpoint.best_model_path.endswith("best.ckpt")
