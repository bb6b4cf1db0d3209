"""The best and the last states of a training, in the run's own folder."""

import math
import os
import shutil
import time
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint as LightningCheckpoint
from typing_extensions import override

from lit_imgproc import checkpoints
from lit_imgproc.callbacks.agreement import Agreement
from lit_imgproc.callbacks.loop import EpochLoop, StepCallback
from lit_imgproc.errors import UserError
from lit_imgproc.tracking.logger import MLflowTracker

BEST, LAST = "best.ckpt", "last.ckpt"


def last_names(keep: int) -> list[str]:
    """The names of the last states, newest first: ``last.ckpt``, ``last-1.ckpt``, …."""
    return [LAST, *(f"last-{age}.ckpt" for age in range(1, keep))]


class Checkpoint(StepCallback, LightningCheckpoint):
    """Keep ``checkpoints/best.ckpt`` and the last states among the run's artifacts.

    The last state, ``last.ckpt``, is saved at the end of every epoch and before every validation,
    so that a training that is killed while it validates loses nothing, and by steps or by time
    where that is asked for. The ones before it are ``last-1.ckpt`` and so on.
    The best state is a second name of the file that was saved before the validation.

    Args:
        monitor: the metric that says which state is best; None where none does, as of many GANs:
            then there is no best state, and the last one is what is tested and used.
        mode: whether it should be low (``min``) or high (``max``).
        every_n_steps: save after every so many optimizer steps too.
        every_minutes: save after so many minutes too.
        keep: how many of the last states are kept, so that one that is damaged on the disk can
            be done without.
    """

    def __init__(
        self,
        *,
        monitor: str | None,
        mode: Literal["min", "max"],
        every_n_steps: Annotated[int, Ge(1)] | None = None,
        every_minutes: Annotated[float, Gt(0)] | None = None,
        keep: Annotated[int, Ge(1)] = 2,
    ) -> None:
        self.monitor = monitor
        self.mode = mode
        self.every_n_steps = every_n_steps
        self.every_minutes = every_minutes
        self.keep = keep
        self.best_score: float | None = None
        self.best_model_path = ""
        self.last_model_path = ""
        self._saved_step = -1
        self._saved_at = time.monotonic()
        self._folder = Path()
        self._agreement = Agreement()

    # When ----------------------------------------------------------------------------------------

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        trainer.strategy.checkpoint_io = WholeFiles()
        folder = Path(trainer.default_root_dir, "checkpoints")
        if isinstance(trainer.logger, MLflowTracker) and trainer.is_global_zero:
            folder = trainer.logger.artifact_dir / "checkpoints"
        self._folder = trainer.strategy.broadcast(folder)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved_at = time.monotonic()
        if self.every_minutes is not None:
            self._agreement.begin(trainer)

    @override
    def on_step_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loop = trainer.fit_loop.epoch_loop
        assert isinstance(loop, EpochLoop)
        late = self.every_minutes is not None and self._agreement.any(self._minutes_passed())
        counted = self.every_n_steps and trainer.global_step % self.every_n_steps == 0
        if counted or late or trainer.is_last_batch or loop.validates_next():
            self.save(trainer)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking or self.monitor is None:
            return
        if self.monitor not in trainer.callback_metrics:
            known = ", ".join(sorted(trainer.callback_metrics)) or "none"
            raise UserError(
                f"callbacks.checkpoint.monitor: no metric {self.monitor} was logged by the "
                f"validation; there are: {known}"
            )
        score = float(trainer.callback_metrics[self.monitor])
        if self._is_better(score):
            self.best_score = score
            self._save_best(trainer)

    # What ----------------------------------------------------------------------------------------

    def save(self, trainer: Trainer) -> None:
        """Save the last state, unless it is saved already; on all ranks together."""
        if trainer.global_step == self._saved_step:
            return
        self._saved_step, self._saved_at = trainer.global_step, time.monotonic()
        last = self._folder / LAST
        self.last_model_path = str(last)
        trainer.save_checkpoint(self._folder / "next.ckpt")
        if trainer.is_global_zero:
            names = [self._folder / name for name in last_names(self.keep)]
            for older, newer in zip(names[:0:-1], names[-2::-1], strict=True):
                if newer.exists():
                    newer.replace(older)
            (self._folder / "next.ckpt").replace(last)
        trainer.strategy.barrier("last")  # a rank that ends now would have this one ended too

    def _save_best(self, trainer: Trainer) -> None:
        best, last = self._folder / BEST, self._folder / LAST
        self.best_model_path = str(best)
        if trainer.global_step != self._saved_step:  # a validation amid an accumulation
            trainer.save_checkpoint(best)
        elif trainer.is_global_zero:
            link = self._folder / ".best.part"
            link.unlink(missing_ok=True)
            try:
                os.link(last, link)
            except OSError:  # not every file system has links
                shutil.copyfile(last, link)
            link.replace(best)
        trainer.strategy.barrier("best")

    def _is_better(self, score: float) -> bool:
        if math.isnan(score):
            return self.best_score is None
        if self.best_score is None or math.isnan(self.best_score):
            return True
        return score < self.best_score if self.mode == "min" else score > self.best_score

    def _minutes_passed(self) -> bool:
        assert self.every_minutes is not None
        return time.monotonic() - self._saved_at >= 60 * self.every_minutes

    @override
    def state_dict(self) -> dict[str, Any]:
        # Names and not paths: a run may be moved.
        return {"best_score": self.best_score, "best": Path(self.best_model_path).name}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_score = state_dict["best_score"]
        if state_dict["best"]:
            self.best_model_path = str(self._folder / state_dict["best"])


class WholeFiles(CheckpointIO):
    """How the trainer writes and reads checkpoint files: see :mod:`lit_imgproc.checkpoints`."""

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        checkpoints.write(checkpoint, Path(path))

    @override
    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return checkpoints.read(Path(path))

    @override
    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)
