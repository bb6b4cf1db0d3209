"""A loop over batches with one place where a training can be saved, and where it goes on from."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from typing_extensions import override


class EpochLoop(_TrainingEpochLoop):
    """Lightning's loop over the batches of an epoch, resumable after any optimizer step.

    Lightning saves in the hooks of callbacks, some before a batch's values are logged, some after
    a validation, some after an epoch, and on resume it works out from counters which it was. A
    validation that was due is then left out, as are values that were not logged yet. Here
    everything is saved in :meth:`StepCallback.on_step_end`, and on resume goes on from there.
    """

    _stepped = False

    @override
    def advance(self, data_fetcher: Any) -> None:
        if self.restarting:
            # The batch was done when the checkpoint was taken; what follows it was not.
            self.val_loop.restarting = False
            return
        before = self.global_step
        super().advance(data_fetcher)
        self._stepped = self.global_step > before

    @override
    def on_advance_end(self, data_fetcher: Any) -> None:
        if not self.restarting and self._stepped:
            trainer = self.trainer
            for callback in trainer.callbacks:
                if isinstance(callback, StepCallback):
                    callback.on_step_end(trainer, trainer.lightning_module)
        super().on_advance_end(data_fetcher)

    @override
    def _broadcast_sigterm_tensor(self) -> None:
        """Signals are agreed on by `callbacks.stop`, without waiting for the device."""

    def validates_next(self) -> bool:
        """Whether a validation follows the batch that has just ended."""
        return self._should_check_val_fx(self.trainer.fit_loop._data_fetcher)


class StepCallback(Callback):
    """A callback that acts between an optimizer step and what follows it.

    A trainer that has one gets the :class:`EpochLoop`.
    """

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # In place, since the trainer has told its loop already where the data is.
        trainer.fit_loop.epoch_loop.__class__ = EpochLoop

    def on_step_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Called when a step is done and logged, before the validation that may be due.

        Between the batches whose gradients are accumulated it is not called: gradients are in no
        checkpoint.
        """
