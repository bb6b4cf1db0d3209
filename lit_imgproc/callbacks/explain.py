"""Explanation maps of the same few images through the training."""

from typing import Annotated, Any

import torch
from annotated_types import Ge
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from lit_imgproc import pictures
from lit_imgproc.callbacks.predictions import drawing_is_due
from lit_imgproc.callbacks.samples import fixed_samples, on_device
from lit_imgproc.explain.gradcam import grad_cam, unit_range
from lit_imgproc.models.base import ImageModule
from lit_imgproc.tracking.logger import MLflowTracker


class Explain(Callback):
    """Draw Grad-CAM maps (arXiv 1610.02391) of what the network answers, with the step as slider.

    Each image stands beside its map, as ``explanations/grad_cam``. The map explains the answer the
    network gives at that step, right or wrong.

    Args:
        images: how many validation images to follow, taken from the classes in turn.
        every_n_epochs: how often to draw them.
    """

    def __init__(
        self, *, images: Annotated[int, Ge(1)] = 8, every_n_epochs: Annotated[int, Ge(1)] = 1
    ) -> None:
        self.images = images
        self.every_n_epochs = every_n_epochs
        self._batch: dict[str, Any] | None = None

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not drawing_is_due(trainer, self.every_n_epochs):
            return
        assert isinstance(pl_module, ImageModule)
        if self._batch is None:
            self._batch = fixed_samples(trainer.datamodule, self.images)  # type: ignore[attr-defined]
        batch = on_device(self._batch, pl_module)
        # On every rank, not on the first alone: the layers of a sharded network meet in each call.
        maps = grad_cam(
            pl_module.attribution_fn(),
            batch["image"],
            pl_module.attribution_layer(),
            pl_module.feature_map,
        )
        if isinstance(trainer.logger, MLflowTracker):
            with torch.inference_mode():
                answers = pl_module.predict_step(batch, 0)
            sheet = _side_by_side(pl_module, batch, answers, unit_range(maps))
            trainer.logger.log_image("explanations/grad_cam", sheet, step=trainer.global_step)


def _side_by_side(
    module: ImageModule, batch: dict[str, Any], answers: Any, maps: torch.Tensor
) -> pictures.Picture:
    """Each image as the module draws it, and the same with its map over it."""
    cells = []
    for i, image in enumerate(batch["image"].float().cpu().numpy()):
        one = {
            key: value[i : i + 1] for key, value in batch.items() if key in ("image", "label", "id")
        }
        cells.append(module.draw(one, answers[i : i + 1]))
        seen = pictures.overlay(pictures.tile(image), maps[i].cpu().numpy())
        cells.append(pictures.grid([seen]))  # with the margin that `draw` has
    return pictures.grid(cells)
