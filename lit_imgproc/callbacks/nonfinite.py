"""A loss that is NaN or infinite: the training stops at it, or goes on without that step."""

import logging
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from typing_extensions import override

from lit_imgproc.callbacks.failure import Place
from lit_imgproc.errors import TrainingFailed

log = logging.getLogger(__name__)


class NonFiniteLoss(TrainingFailed):
    """The loss, or a weight, is NaN or infinite; ``place`` is the batch it was first seen in."""

    def __init__(self, what: str, place: Place, trainer: Trainer) -> None:
        last = getattr(trainer.checkpoint_callback, "last_model_path", "")
        kept = (
            f"the last good state is {last}"
            if last and Path(last).exists()
            else "no state had been saved yet"
        )
        clip = "clip gradients with trainer.gradient_clip_val, "
        if not trainer.lightning_module.automatic_optimization:
            clip = ""  # networks that take turns have no trainer to clip theirs
        super().__init__(
            f"{what} not finite at {place}; lower model.optimizer.lr, {clip}or set "
            "trainer.precision to bf16-mixed or 32-true where it is narrower "
            f"({kept})"
        )
        self.place = place


class NonFinite(Callback):
    """Stop at a loss that is NaN or infinite, or leave its optimizer step out.

    To look at a loss, the host must wait for a GPU. So ``stop`` looks every
    ``trainer.log_every_n_steps`` batches, before a validation, at the end of an epoch and before a
    checkpoint is written, at all losses since; on a CPU after every batch. It names the first bad
    one of any rank, and no state that came after it is ever saved. Nor is one whose weights are
    not finite, under either policy.

    ``skip`` waits for the device at every step. Where a gradient is not finite, weights, optimizer
    state and buffers, such as the statistics of batch norm, stay as they were before the batch, or
    before the batches since the last step where gradients are accumulated; schedules go on. It
    warns with the ids and logs how many steps were left out, ``train/skipped``. With the precision
    ``16-mixed`` infinite gradients are how the gradient scaler finds its scale: it leaves such
    steps out itself, and those are counted alone in which the loss was not finite either.

    Args:
        policy: ``stop`` or ``skip``.
    """

    def __init__(self, *, policy: Literal["stop", "skip"] = "stop") -> None:
        self.policy = policy
        self.skipped = 0
        self._batches: list[tuple[Place, Tensor | None]] = []
        """With their losses: those since the last look; with ``skip``, since the last step."""
        self._place: Place | None = None
        self._buffers: list[Tensor] = []
        self._stepped = self._left_out = False

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._batches = []

    # Every batch ---------------------------------------------------------------------------------

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._place = Place.of(trainer, batch, batch_idx)
        if self.policy == "skip" and not self._batches:
            self._stepped = self._left_out = False
            self._buffers = [buffer.detach().clone() for buffer in pl_module.buffers()]

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert self._place is not None
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        self._batches.append((self._place, loss.detach() if isinstance(loss, Tensor) else None))
        if self.policy == "skip":
            if self._stepped:
                self._count(trainer)
        elif len(self._batches) >= trainer.log_every_n_steps or _is_on_cpu(trainer):  # type: ignore[attr-defined]
            self._look(trainer)

    # stop ----------------------------------------------------------------------------------------

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.policy == "stop":
            self._look(trainer)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.policy == "stop":
            self._look(trainer)

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self._place is None:
            return  # nothing was trained yet
        if self.policy == "stop":
            self._look(trainer)
        # A finite loss may have had a gradient that is not, which the next loss would show.
        broken = not _all_finite(pl_module.parameters())
        if trainer.strategy.reduce_boolean_decision(broken, all=False):
            raise NonFiniteLoss("the weights are", self._place, trainer)

    def _look(self, trainer: Trainer) -> None:
        """Raise, on all ranks, if a loss on any of them was not finite since the last look."""
        bad = self._first_bad()
        looked, self._batches = bool(self._batches), []
        if not looked:
            return
        if trainer.world_size == 1:
            if bad is not None:
                raise NonFiniteLoss("the loss is", bad, trainer)
        elif trainer.strategy.reduce_boolean_decision(bad is not None, all=False):
            places: list[Place | None] = [None] * trainer.world_size
            distributed.all_gather_object(places, bad)
            first = min((p for p in places if p), key=lambda place: (place.batch, place.rank))
            raise NonFiniteLoss("the loss is", first, trainer)

    def _first_bad(self) -> Place | None:
        losses = [(place, loss) for place, loss in self._batches if loss is not None]
        if not losses:
            return None
        if len(losses) == 1:  # on a CPU, after every batch: ten times as fast
            return None if math.isfinite(losses[0][1]) else losses[0][0]
        finite = torch.stack([loss.isfinite().all() for _, loss in losses]).tolist()
        return next((losses[i][0] for i, fine in enumerate(finite) if not fine), None)

    # skip ----------------------------------------------------------------------------------------

    @override
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        if self.policy == "stop":
            return
        self._stepped = True
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        broken = not _all_finite(weight.grad for weight in weights if weight.grad is not None)
        if not trainer.strategy.reduce_boolean_decision(broken, all=False):
            return
        self._left_out = True
        with torch.no_grad():
            for buffer, before in zip(pl_module.buffers(), self._buffers, strict=True):
                buffer.copy_(before)
        if not _has_scaler(trainer):
            for weight in weights:
                weight.grad = None  # an optimizer passes over such a weight and over its state

    def _count(self, trainer: Trainer) -> None:
        """After a step: whether it was left out, and if so, whose fault that was."""
        bad = self._first_bad()
        batches, self._batches = self._batches, []
        if not self._left_out:
            return
        if _has_scaler(trainer) and not trainer.strategy.reduce_boolean_decision(
            bad is not None, all=False
        ):
            return
        self.skipped += 1
        log.warning(
            "an optimizer step was left out, for its %s not finite: %s",
            "loss is" if bad else "gradients are",
            bad or "; ".join(str(place) for place, _ in batches),
        )
        if trainer.logger is not None:
            trainer.logger.log_metrics({"train/skipped": self.skipped}, trainer.global_step)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped = state_dict["skipped"]


def _is_on_cpu(trainer: Trainer) -> bool:
    return trainer.strategy.root_device.type == "cpu"


def _has_scaler(trainer: Trainer) -> bool:
    return getattr(trainer.precision_plugin, "scaler", None) is not None


def _all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all values are finite; of a sharded tensor, those that this rank holds."""
    local = (t.to_local() if isinstance(t, DTensor) else t for t in tensors)
    floats = [t.detach() for t in local if t.is_floating_point() and t.numel()]
    # The greatest magnitude of all: a foreach kernel finds it, and unlike a sum cannot overflow.
    greatest = torch.nn.utils.get_total_norm(floats, norm_type=math.inf)
    return bool(greatest.isfinite())
