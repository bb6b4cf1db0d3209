"""Images that were left out since they could not be read."""

import logging
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import distributed
from typing_extensions import override

log = logging.getLogger(__name__)


class SkippedImages(Callback):
    """Warn once of each image that was left out, and log how many there are, ``data/skipped``.

    The number is of different images over all ranks since the training began, logged at the end of
    an epoch or evaluation in which it grew. Loaders leave images out where the data is told
    ``on_error=skip``, and say so in the batch: see :mod:`lit_imgproc.data.readable`.
    """

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._logged = 0

    def _look(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        skipped = batch.get("skipped", []) if isinstance(batch, dict) else []
        for sentence in skipped:
            if sentence not in self._known:
                self._known.add(sentence)
                log.warning("an image was left out: %s", sentence)

    def _log(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1:
            everyones: list[Any] = [None] * trainer.world_size
            distributed.all_gather_object(everyones, self._known)
            self._known = set().union(*everyones)
        if len(self._known) > self._logged:
            self._logged = len(self._known)
            if trainer.logger is not None:
                trainer.logger.log_metrics({"data/skipped": self._logged}, trainer.global_step)

    on_train_batch_start = on_validation_batch_start = on_test_batch_start = _look
    on_train_epoch_end = on_validation_epoch_end = on_test_epoch_end = _log

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"known": sorted(self._known), "logged": self._logged}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._known, self._logged = set(state_dict["known"]), state_dict["logged"]
