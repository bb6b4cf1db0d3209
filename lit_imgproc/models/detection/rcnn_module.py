"""How R-CNN learns: its trunk first, and then what is fitted to the trunk's features."""

import logging
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from typing_extensions import override

from lit_imgproc.errors import UserError
from lit_imgproc.models.base import Batch
from lit_imgproc.models.detection.batch import DetectionBatch
from lit_imgproc.models.detection.exchange import targets
from lit_imgproc.models.detection.rcnn import RegionCNN
from lit_imgproc.models.detection.region_module import RegionDetector

T = TypeVar("T")
log = logging.getLogger(__name__)


class RCNN(RegionDetector):
    """The three stages of R-CNN (arXiv 1311.2524) in one training.

    Epochs train the trunk. After the last step of the last one, and of each other that a validation
    follows, SVMs and what moves boxes are fitted to the training images, without augmentation. That
    takes as long as a validation of these images: let ``trainer.check_val_every_n_epoch`` be
    ``trainer.max_epochs`` to do it once. It comes before the state is saved, so that every state
    that was validated has what it was validated with; one that was saved amid an epoch goes on to
    it. Training further lets it go.

    The arguments are those of :class:`~lit_imgproc.models.detection.module.Detector`; ``network``
    is a :class:`~lit_imgproc.models.detection.rcnn.RegionCNN`.
    """

    network: RegionCNN

    @override
    def on_fit_start(self) -> None:
        trainer: Any = self.trainer
        if not hasattr(getattr(trainer, "datamodule", None), "batch"):
            raise UserError("R-CNN looks at its training images again: fit it with a datamodule")
        if any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks):
            raise UserError(
                "R-CNN's SVMs are fitted to the features of its weights and not of their average: "
                "set callbacks.ema=null"
            )

    @override
    def training_step(self, batch: DetectionBatch, batch_idx: int) -> Tensor:
        self.network.fitted.done.fill_(False)  # it was fitted to other weights
        return super().training_step(batch, batch_idx)

    @override
    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        trainer = self.trainer
        epoch, every = trainer.current_epoch + 1, trainer.check_val_every_n_epoch
        validates = every is not None and epoch % every == 0
        done = 0 < trainer.max_steps <= trainer.global_step
        if done or (trainer.is_last_batch and (validates or epoch == trainer.max_epochs)):
            self._fit()

    def _fit(self) -> None:
        network = self.network
        log.info("R-CNN: SVMs and the regression of boxes are fitted")
        network.eval()
        objects = self._each(lambda image, _, target: network.objects(image, target))
        proposed = self._each(network.study)
        with self.trainer.precision_plugin.val_step_context():
            if self.global_rank == 0:
                figures = network.fit(objects, proposed)
            else:
                for _ in (*objects, *proposed):
                    pass
                figures = {}
        network.train()
        figures = self.trainer.strategy.broadcast(figures)
        fitted = self.trainer.strategy.broadcast(network.fitted.state_dict())
        network.fitted.load_state_dict(fitted)
        named = {f"train/{name}": value for name, value in figures.items()}
        self.log_dict(named, on_step=False, on_epoch=True, batch_size=1)

    def _each(self, look: Callable[[Tensor, Tensor, dict[str, Tensor]], T]) -> Iterator[T]:
        """What ``look`` says of each training image, its proposals and its objects.

        Ranks share the work. The first gets all that is said; on the others there is nothing in
        it, but it has to be gone through.
        """
        trainer: Any = self.trainer
        data, ranks = trainer.datamodule, trainer.world_size
        count = min(data.splits()["train"], trainer.num_training_batches * data.batch_size * ranks)
        for first in range(0, count, ranks):
            index = first + self.global_rank
            said = [self._looked_at(look, index) if index < count else None]
            if ranks > 1:
                own, said = said[0], [None] * ranks
                torch.distributed.gather_object(own, said if self.global_rank == 0 else None)
            yield from (one for one in said if one is not None)

    def _looked_at(
        self, look: Callable[[Tensor, Tensor, dict[str, Tensor]], T], index: int
    ) -> T | None:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        try:
            batch = data.batch("train", [index])
        except UserError:
            if data.on_error == "stop":
                raise
            return None
        batch = self.transfer_batch_to_device(batch, self.device, 0)
        batch = cast(DetectionBatch, self.on_after_batch_transfer(batch, 0))
        (image,), (target,) = self.normalized(batch["image"]), targets(batch)
        return look(image, self.proposals(batch)[0], target)
