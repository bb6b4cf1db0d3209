"""The best and the last state of a training, in the run's own folder."""

from datetime import timedelta
from typing import Annotated, Literal

from annotated_types import Ge
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from typing_extensions import override

from lit_imgproc.tracking.logger import MLflowTracker


class Checkpoint(ModelCheckpoint):
    """Keep ``checkpoints/best.ckpt`` and ``checkpoints/last.ckpt`` among the run's artifacts.

    Args:
        monitor: the metric that says which state is best.
        mode: whether it should be low (``min``) or high (``max``).
        every_n_epochs: how often to look and save.
        every_n_train_steps: save by steps instead of by epochs.
        every_minutes: save by time instead of by epochs.
    """

    def __init__(
        self,
        *,
        monitor: str,
        mode: Literal["min", "max"],
        every_n_epochs: Annotated[int, Ge(1)] | None = None,
        every_n_train_steps: Annotated[int, Ge(1)] | None = None,
        every_minutes: Annotated[float, Ge(0)] | None = None,
    ) -> None:
        super().__init__(
            monitor=monitor,
            mode=mode,
            filename="best",
            save_last=True,
            enable_version_counter=False,
            auto_insert_metric_name=False,
            every_n_epochs=every_n_epochs,
            every_n_train_steps=every_n_train_steps,
            train_time_interval=None if every_minutes is None else timedelta(minutes=every_minutes),
        )

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if isinstance(trainer.logger, MLflowTracker) and trainer.is_global_zero:
            self.dirpath = str(trainer.logger.artifact_dir / "checkpoints")
        super().setup(trainer, pl_module, stage)

    @override
    def _save_topk_checkpoint(
        self, trainer: Trainer, monitor_candidates: dict[str, Tensor]
    ) -> None:
        super()._save_topk_checkpoint(trainer, monitor_candidates)
        # By this Lightning tells whether to write `last`: after a new best state only.
        self._last_global_step_saved = trainer.global_step
