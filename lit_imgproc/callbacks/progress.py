"""The progress bar of a terminal, or a line an epoch where there is none."""

import sys
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from typing_extensions import override

from lit_imgproc.callbacks.checkpoint import Checkpoint
from lit_imgproc.callbacks.throughput import Throughput


class Progress(TQDMProgressBar):
    """Show the loss, the monitored metric, images per second and the share of time without data."""

    def __init__(self) -> None:
        # Not at every batch: showing a loss waits for the device that computes it.
        super().__init__(refresh_rate=10, leave=True)
        self._terminal = sys.stdout.isatty()  # where the bar is drawn

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if not self._terminal:
            self.disable()

    @override
    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        return self._shown(trainer)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        if not self._terminal and trainer.is_global_zero:
            shown = " ".join(f"{key} {value}" for key, value in self._shown(trainer).items())
            print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs} {shown}", flush=True)

    @staticmethod
    def _shown(trainer: Trainer) -> dict[str, Any]:
        checkpoint = trainer.checkpoint_callback
        monitored = checkpoint.monitor if isinstance(checkpoint, Checkpoint) else None
        values = trainer.progress_bar_metrics | trainer.callback_metrics
        named = [
            *sorted(k for k in trainer.progress_bar_metrics if k.startswith("train/")),
            monitored,
        ]
        shown = {key: f"{float(values[key]):.4g}" for key in named if key in values}
        speed = next((c.latest for c in trainer.callbacks if isinstance(c, Throughput)), {})  # type: ignore[attr-defined]
        if speed:
            shown["img/s"] = f"{speed['speed/images_per_second']:.0f}"
            shown["data_wait"] = f"{speed['speed/data_wait']:.0%}"
        return shown
