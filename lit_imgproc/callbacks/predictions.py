"""Sample predictions with a step, and the figures of an evaluation, in the tracker."""

from typing import Annotated, Any

import torch
from annotated_types import Ge
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from lit_imgproc.callbacks.samples import fixed_samples, on_device
from lit_imgproc.models.base import ImageModule
from lit_imgproc.tracking.logger import MLflowTracker


class Predictions(Callback):
    """Draw what the network says of the same few validation images, and figures after a test.

    The pictures are ``predictions/val`` with the step as slider; figures such as the confusion
    matrix go to ``figures/``.

    Args:
        images: how many images to follow.
        every_n_epochs: how often to draw them.
    """

    def __init__(
        self, *, images: Annotated[int, Ge(1)] = 16, every_n_epochs: Annotated[int, Ge(1)] = 1
    ) -> None:
        self.images = images
        self.every_n_epochs = every_n_epochs
        self._batch: dict[str, Any] | None = None

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not `on_validation_end`: by then the EMA callback has taken its average out again.
        if not drawing_is_due(trainer, self.every_n_epochs):
            return
        assert isinstance(pl_module, ImageModule)
        if self._batch is None:
            self._batch = fixed_samples(trainer.datamodule, self.images)  # type: ignore[attr-defined]
        batch = on_device(self._batch, pl_module)
        with torch.inference_mode():
            answers = pl_module.predict_step(batch, 0)
        if isinstance(trainer.logger, MLflowTracker):
            picture = pl_module.draw(batch, answers)
            trainer.logger.log_image("predictions/val", picture, step=trainer.global_step)

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if isinstance(trainer.logger, MLflowTracker) and isinstance(pl_module, ImageModule):
            for name, figure in pl_module.figures().items():
                trainer.logger.log_figure(figure, f"figures/{name}.png")


def drawing_is_due(trainer: Trainer, every_n_epochs: int) -> bool:
    """Whether pictures are wanted after this validation: not of the sanity check, nor alone."""
    fitting = trainer.state.fn == "fit" and not trainer.sanity_checking
    last = trainer.max_epochs is not None and trainer.current_epoch + 1 == trainer.max_epochs
    return fitting and (last or trainer.current_epoch % every_n_epochs == 0)
