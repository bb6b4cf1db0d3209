"""The recipe inside the checkpoint, so that a checkpoint alone says what it is."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override


class RecipeInCheckpoint(Callback):
    """Save the frozen recipe and the id of the run with every checkpoint, as plain data.

    Args:
        recipe: resolved, but for its references to the environment.
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
