"""How fast a training runs, and how much of that time it waits for data."""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override


class Throughput(Callback):
    """Log ``speed/images_per_second`` (over all ranks) and ``speed/data_wait`` (a share, 0 to 1).

    Both are of the time since they were last logged, at every batch of a number that
    ``trainer.log_every_n_steps`` divides.
    Nothing is synchronised: on a GPU the wait is the time in which the host had no batch to send.
    """

    def __init__(self) -> None:
        self.latest: dict[str, float] = {}
        self._since = self._asked = self._paused = self._waited = 0.0
        self._images = 0

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restart()  # for an epoch that goes on

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restart()

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._waited += time.perf_counter() - self._asked

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._images += len(batch["image"]) * trainer.world_size
        self._asked = time.perf_counter()
        if (batch_idx + 1) % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._finish(trainer)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        short = trainer.num_training_batches < trainer.log_every_n_steps  # type: ignore[attr-defined]
        if short and self._images:  # too short an epoch to be logged amid
            self._finish(trainer)

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._paused = time.perf_counter()

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave validation out: it is neither training nor waiting for data."""
        passed = time.perf_counter() - self._paused
        self._since += passed
        self._asked += passed

    def _finish(self, trainer: Trainer) -> None:
        passed = time.perf_counter() - self._since
        self.latest = {
            "speed/images_per_second": self._images / passed,
            "speed/data_wait": self._waited / passed,
        }
        if trainer.logger is not None:
            trainer.logger.log_metrics(self.latest, step=trainer.global_step)
        self._restart()

    def _restart(self) -> None:
        self._since = self._asked = time.perf_counter()
        self._waited, self._images = 0.0, 0
