"""What a training goes on from: a run, its last whole checkpoint, and the recipe in it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_imgproc import checkpoints
from lit_imgproc.errors import UserError
from lit_imgproc.recipes.run import load_run

FREE = ("trainer", "callbacks", "tracking", "recipe", "toy", "data.root", "data.num_workers")
"""What may be changed when a training goes on. Anything else would make it another one."""


@dataclass(frozen=True)
class Resumption:
    """Where a training goes on.

    Args:
        run_id: the MLflow run that it goes on with.
        checkpoint: the file that it goes on from; None where it ended before the first one, and
            begins again.
        step: the optimizer steps that were done by then.
        recipe: the frozen recipe in the checkpoint.
        finished: whether the training came to its end.
    """

    run_id: str
    checkpoint: Path | None
    step: int
    recipe: dict[str, Any]
    finished: bool = False


def resumption(run: str | Path, uri: str | None) -> Resumption:
    """Find what to go on from.

    Args:
        run: the first characters of a run's id, or a checkpoint file.
        uri: the store of the run; ``MLFLOW_TRACKING_URI`` or the local one where it is None.

    Raises:
        RunNotFound: no run has such an id, or several do.
        CheckpointError: there is no whole checkpoint, or it is not of a run.
    """
    path, finished = Path(run), False
    if path.suffix != ".ckpt":
        found = load_run(str(run), uri=uri)
        last, finished = found.last_checkpoint(), found.status == "FINISHED"
        if last is None:
            return Resumption(found.id, None, 0, found.recipe, finished)
        path = last
    saved = checkpoints.read(path)
    if saved.get("run_id") is None:
        raise checkpoints.CheckpointError(f"{path} is not of a run: it cannot be gone on from")
    return Resumption(saved["run_id"], path, saved["global_step"], saved["recipe"], finished)


def same_experiment(resumption: Resumption, frozen: dict[str, Any]) -> None:
    """Check that a recipe is the one that the run was started with, but for what is free.

    Raises:
        UserError: with a line for each value that differs; or nothing is left to do.
    """
    before, now = _flat(resumption.recipe), _flat(frozen)
    ends = ("trainer.max_epochs", "trainer.max_steps")
    if resumption.finished and all(before.get(key) == now.get(key) for key in ends):
        raise UserError(
            f"run {resumption.run_id[:8]} is FINISHED: nothing is left to do; to train on, raise "
            "trainer.max_epochs"
        )
    changed = [
        f"{key}: the run has {json.dumps(before.get(key))}, not {json.dumps(now.get(key))}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not _is_free(key)
    ]
    if changed:
        raise UserError(
            "\n".join(changed)
            + f"\na run that goes on stays the same experiment: change only {', '.join(FREE)}; or "
            f"begin another run from its weights: model.weights=run:{resumption.run_id[:8]}"
        )


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in FREE)


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {prefix: list(values) if isinstance(values, tuple) else values}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return flat
