"""An exponential moving average of the weights."""

from typing import Annotated, Any

from annotated_types import Interval
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from typing_extensions import override

from lit_imgproc.errors import UserError


class EMA(WeightAveraging):
    """Average the weights over the steps; validate, test and save the average.

    All tensors are updated by one foreach call. Checkpoints hold the average as ``state_dict`` and
    the weights being trained as ``current_model_state``, and training resumes from both.

    Args:
        decay: how much of the average a step keeps.
        warmup: keep less of it at first, (1 + n) / (10 + n) after n steps, so that the first
            weights do not drag a short training.
    """

    def __init__(
        self, *, decay: Annotated[float, Interval(gt=0, lt=1)] = 0.999, warmup: bool = False
    ) -> None:
        super().__init__(multi_avg_fn=self._average)
        self.decay, self.warmup = decay, warmup
        self._steps = 0

    @override
    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        self._steps = step_idx or 0
        return step_idx is not None

    def _average(self, averages: list[Tensor], weights: list[Tensor], count: Tensor | int) -> None:
        # By the trainer's count: the average's own lies on the device, which would be waited for.
        early = (1 + self._steps) / (10 + self._steps)
        decay = min(self.decay, early) if self.warmup else self.decay
        get_ema_multi_avg_fn(decay)(averages, weights, count)  # type: ignore[no-untyped-call]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Copy the module. The base would first call ``configure_model``, which is for shards."""
        if stage != "fit":
            return
        if isinstance(trainer.strategy, ModelParallelStrategy):
            raise UserError(
                "the ema callback cannot average sharded weights: set callbacks.ema=null"
            )
        self._average_model = AveragedModel(
            pl_module, device=pl_module.device, use_buffers=True, **self._kwargs
        )

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take both up where a fit goes on. What is tested is the average, and was loaded already.

        The base would put the weights being trained back in its place before a test, too.
        """
        if trainer.state.fn == "fit":
            super().on_load_checkpoint(trainer, pl_module, checkpoint)
