"""The same few images through a whole training, for predictions and explanations to follow."""

from abc import ABC, abstractmethod
from typing import Annotated, Any

import torch
from annotated_types import Ge
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from lit_imgproc.data.base import ImageDataModule
from lit_imgproc.models.base import Batch, ImageModule
from lit_imgproc.pictures import Picture
from lit_imgproc.tracking.logger import MLflowTracker


class FollowedImages(Callback, ABC):
    """Draw the same few validation images after each validation of a fit, with the step.

    Args:
        images: how many to follow, taken from the classes in turn.
        every_n_epochs: how often to draw them; the last epoch is always drawn.
    """

    def __init__(
        self, *, images: Annotated[int, Ge(1)] = 8, every_n_epochs: Annotated[int, Ge(1)] = 1
    ) -> None:
        self.images = images
        self.every_n_epochs = every_n_epochs
        self._batch: Batch | None = None

    @abstractmethod
    def key(self, module: ImageModule) -> str:
        """What the tracker shows the pictures under."""

    @abstractmethod
    def picture(self, module: ImageModule, batch: Batch) -> Picture:
        """What is drawn of the batch, which is on the module's device, in the module's state."""

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not `on_validation_end`: by then the EMA callback has taken its average out again.
        if self.due(trainer):
            assert isinstance(pl_module, ImageModule)
            if self._batch is None:
                self._batch = fixed_samples(trainer.datamodule, self.images)  # type: ignore[attr-defined]
            self.show(trainer, pl_module, self.key(pl_module), self._batch)

    def due(self, trainer: Trainer) -> bool:
        """Whether this validation is one after which pictures are drawn."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return False
        # Where not each epoch is validated, the first validation after a multiple counts for it.
        passed = trainer.current_epoch % self.every_n_epochs
        last = trainer.current_epoch + 1 == trainer.max_epochs
        return last or passed < (trainer.check_val_every_n_epoch or 1)

    def show(self, trainer: Trainer, module: ImageModule, key: str, batch: Batch) -> None:
        """Draw a batch of the datamodule, and bring the picture to the tracker."""
        # As the loop does it for a validation step, so that images have the module's precision.
        batch = trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(batch))
        # On every rank, not on the first alone: the layers of a sharded network meet in each call.
        picture = self.picture(module, batch)
        if isinstance(trainer.logger, MLflowTracker):
            trainer.logger.log_image(key, picture, step=trainer.global_step)


def fixed_samples(datamodule: ImageDataModule, count: int) -> Batch:
    """A batch of ``count`` validation images, taken from the classes in turn, first ones first.

    Where images carry no single label, they are spread evenly over the split.
    """
    dataset: Any = datamodule.dataset("val")
    labels = getattr(dataset, "labels", None)
    count = min(count, len(dataset))
    if labels is not None and labels.ndim == 1:
        labels = torch.as_tensor(labels)
        order = torch.argsort(labels, stable=True)
        ranks = torch.empty_like(order)  # the how-manieth of its class an image is
        _, sizes = torch.unique_consecutive(labels[order], return_counts=True)
        ranks[order] = torch.cat([torch.arange(int(size)) for size in sizes])
        chosen = sorted(range(len(labels)), key=lambda i: (int(ranks[i]), int(labels[i])))[:count]
    else:
        chosen = [i * len(dataset) // count for i in range(count)]
    return datamodule.batch("val", chosen)
