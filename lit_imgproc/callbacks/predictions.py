"""Sample predictions with a step, and the figures of an evaluation, in the tracker."""

import torch
from lightning.pytorch import LightningModule, Trainer
from typing_extensions import override

from lit_imgproc.callbacks.samples import FollowedImages
from lit_imgproc.models.base import Batch, ImageModule
from lit_imgproc.pictures import Picture
from lit_imgproc.tracking.logger import MLflowTracker


class Predictions(FollowedImages):
    """Draw what the network says of the same few validation images, and figures after a test.

    The pictures are ``predictions/val`` with the step as slider; figures such as the confusion
    matrix go to ``figures/``.

    Args:
        images: how many images to follow, taken from the classes in turn.
        every_n_epochs: how often to draw them.
    """

    @override
    def key(self, module: ImageModule) -> str:
        return "predictions/val"

    @override
    def picture(self, module: ImageModule, batch: Batch) -> Picture:
        with torch.inference_mode():
            return module.draw(batch, module.predict_step(batch, 0))

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if isinstance(trainer.logger, MLflowTracker) and isinstance(pl_module, ImageModule):
            for name, figure in pl_module.figures().items():
                trainer.logger.log_figure(figure, f"figures/{name}.png")
