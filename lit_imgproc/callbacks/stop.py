"""The end of a training that a signal asks for."""

from typing import Any, NoReturn

from lightning.pytorch import LightningModule, Trainer
from typing_extensions import override

from lit_imgproc.callbacks.agreement import Agreement
from lit_imgproc.callbacks.checkpoint import Checkpoint
from lit_imgproc.callbacks.loop import StepCallback
from lit_imgproc.signals import Heard, Interrupted


class Stop(StepCallback):
    """Finish the optimizer step, save, and end the training, on all ranks at the same batch.

    A validation that is under way is given up: what was trained was saved before it, and a
    training that goes on does the validation first.

    Args:
        heard: what this process has been told.
    """

    def __init__(self, heard: Heard) -> None:
        self.heard = heard
        self._number = 0
        self._agreement = Agreement()

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        # Lightning's own handler speaks to other ranks from within the handler, which can hang.
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.heard.deferred = True
        self._agreement.begin(trainer)

    @override
    def on_step_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._asked():
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, Checkpoint):
                    callback.save(trainer)
            self._end()

    @override
    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        if trainer.state.fn == "fit" and self._asked():
            self._end()

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self.heard.deferred = False

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._asked()  # several ranks answer a call later
        if self._asked():  # since the last step
            self._end()
        self.heard.deferred = False

    def _end(self) -> NoReturn:
        # Not as Ctrl-C, which Lightning would turn into something else.
        self.heard.obeyed = True
        raise Interrupted(self._number)

    def _asked(self) -> bool:
        self._number = self._agreement.most(self.heard.number or 0) or self._number
        return self._number > 0
