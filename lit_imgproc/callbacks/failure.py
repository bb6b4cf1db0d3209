"""Which images were under way when a training failed."""

from dataclasses import asdict, dataclass
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from lit_imgproc.tracking.logger import MLflowTracker


@dataclass(frozen=True)
class Place:
    """A batch of a run.

    Attributes:
        stage: ``train``, ``sanity_check``, ``validate``, ``test`` or ``predict``.
        epoch: Counted from 0, as the next three.
        batch: Within the epoch or the evaluation.
        step: Optimizer steps before it.
        rank: The process that had it.
        ids: Of its images; none where a batch carries none.
    """

    stage: str
    epoch: int
    batch: int
    step: int
    rank: int
    ids: list[str]

    @classmethod
    def of(cls, trainer: Trainer, batch: Any, batch_idx: int) -> "Place":
        """The place of the batch that is about to be computed."""
        stage = trainer.state.stage
        return cls(
            stage="" if stage is None else stage.value,
            epoch=trainer.current_epoch,
            batch=batch_idx,
            step=trainer.global_step,
            rank=trainer.global_rank,
            ids=batch.get("id", []) if isinstance(batch, dict) else [],
        )

    def __str__(self) -> str:
        where = f"step {self.step}, {self.stage} batch {self.batch} of epoch {self.epoch}"
        more = [f"and {len(self.ids) - 4} more"] if len(self.ids) > 4 else []
        ids = ", ".join([*self.ids[:4], *more]) or "images without ids"
        return f"{where}, rank {self.rank}: {ids}"


class FailingBatch(Callback):
    """Name the images of the batch in which a run fails.

    They go into a note on the exception, which its traceback shows, on whichever rank that is; and
    on rank zero into the artifact ``provenance/failed_batch.json``. An exception that has a
    ``place`` of its own, as :class:`~lit_imgproc.callbacks.nonfinite.NonFiniteLoss` has, knows
    better.
    """

    def __init__(self) -> None:
        self._place: Place | None = None

    def _begin(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._place = Place.of(trainer, batch, batch_idx)

    def _finish(self, *args: Any, **kwargs: Any) -> None:
        # What fails between two batches, such as reading the next one, is not this one's doing.
        self._place = None

    on_train_batch_start = on_validation_batch_start = on_test_batch_start = _begin
    on_predict_batch_start = _begin
    on_train_batch_end = on_validation_batch_end = on_test_batch_end = _finish
    on_predict_batch_end = _finish

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        place = getattr(exception, "place", self._place)
        self._place = None
        asked_to_end = isinstance(exception, KeyboardInterrupt | SystemExit)
        if asked_to_end or place is None:
            return
        exception.add_note(f"at {place}")
        if len(place.ids) > 4:
            exception.add_note(f"all of its ids: {', '.join(place.ids)}")
        if isinstance(trainer.logger, MLflowTracker):
            trainer.logger.log_dict(asdict(place), "provenance/failed_batch.json")
