"""The run inside the checkpoint, so that a checkpoint alone says what it is and goes on with it."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from lit_imgproc.tracking.logger import MLflowTracker


class RunInCheckpoint(Callback):
    """Save the frozen recipe, the id of the run and what it has logged with every checkpoint.

    Args:
        recipe: resolved, but for its references to the environment; plain data.
        run_id: of the MLflow run.
    """

    def __init__(self, recipe: dict[str, Any], run_id: str | None) -> None:
        self.recipe = recipe
        self.run_id = run_id

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["recipe"] = self.recipe
        checkpoint["run_id"] = self.run_id
        if isinstance(trainer.logger, MLflowTracker):
            checkpoint["logged"] = trainer.logger.position()

    @override
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # A training that goes on logs again what it had logged after the checkpoint.
        if trainer.state.fn == "fit" and isinstance(trainer.logger, MLflowTracker):
            trainer.logger.rewind(checkpoint["logged"])
