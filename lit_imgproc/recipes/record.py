"""What an experiment leaves in MLflow beside what its training logs."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from lit_imgproc import slurm
from lit_imgproc.errors import UserError
from lit_imgproc.recipes.run import Run, rebuild

if TYPE_CHECKING:
    from lit_imgproc.recipes.experiment import Experiment
    from lit_imgproc.tracking.logger import MLflowTracker

log = logging.getLogger(__name__)

JOB_TAG = "slurm.job"


def open_run(experiment: "Experiment", run_id: str | None) -> "MLflowTracker":
    """A new run, or the one of that id."""
    from lit_imgproc.tracking.logger import MLflowTracker

    tracking = experiment.tracking
    header = experiment.recipe.get("recipe") or {}
    tags = {"recipe": header.get("title"), "system": header.get("system")}
    if slurm.job() is not None:
        tags[JOB_TAG] = _job(experiment)
    # As the recipe writes them: a reference to the environment may stand for a secret.
    own = (experiment.recipe.get("tracking") or {}).get("tags") or {}
    return MLflowTracker(
        experiment=tracking["experiment"],
        uri=experiment.store,
        artifacts=tracking.get("artifacts"),
        run_name=tracking.get("run_name") or experiment.origin.source.stem,
        tags={k: v for k, v in tags.items() if v} | own,
        run_id=run_id,
    )


def mark_failed(experiment: "Experiment", run_id: str, traceback: str | None) -> None:
    """End a run whose own process could not, with what is known of why."""
    try:
        tracker = open_run(experiment, run_id)
    except UserError as error:  # the store is away, say: the failure is still to be told
        log.warning("run %s could not be marked as FAILED: %s", run_id, error)
        return
    if traceback is not None:
        tracker.log_text(traceback, "provenance/traceback.txt")
    tracker.end("FAILED")


def run_of_this_job(experiment: "Experiment") -> Run | None:
    """The run of this recipe that this SLURM job began before it was put into the queue again."""
    from lit_imgproc.tracking.records import tagged_run

    found = tagged_run(experiment.store, JOB_TAG, _job(experiment))
    return None if found is None else Run(found, experiment.store)


def _job(experiment: "Experiment") -> str:
    return f"{slurm.job()} {experiment.origin.digest[:12]}"


def log_experiment(experiment: "Experiment", tracker: "MLflowTracker") -> None:
    """Write down what is run, on what, from where, before the first step."""
    from lit_imgproc.tracking.dataset import log_dataset
    from lit_imgproc.tracking.provenance import collect, log_provenance, log_resumed

    frozen, data = experiment.frozen, experiment.datamodule
    provenance = collect(experiment.origin.source, experiment.origin.command)
    tracker.log_dict(frozen, "recipe.yaml")
    resumption = experiment.resumption
    if resumption is not None and resumption.checkpoint is not None:
        log_resumed(tracker, provenance, resumption.step)
        return
    # What it is called and where it is recorded are tags and places, not parameters.
    tracker.log_hyperparams(
        {key: frozen[key] for key in frozen if key not in ("recipe", "tracking")}
    )
    tracker.log_dict(data.input_spec().to_dict(), "input.json")
    log_provenance(tracker, provenance)
    if data.left_out:
        tracker.log_text("\n".join(data.left_out) + "\n", "provenance/left_out.txt")
        tracker.log_metrics({"data/left_out": len(data.left_out)}, step=0)
    if data.repaired:
        tracker.log_dict(dict(data.repaired), "provenance/repaired.yaml")
        tracker.log_metrics({"data/repaired": sum(data.repaired.values())}, step=0)
    log_dataset(
        tracker,
        name=frozen["data"]["name"],
        source=str(frozen["data"].get("root", frozen["data"]["name"])),
        digest=data.fingerprint(),
        facts=data.facts(),
        splits=dict(data.splits().items()),
    )


def log_model(experiment: "Experiment", tracker: "MLflowTracker", checkpoint: Path) -> None:
    """Log the network of a checkpoint as an MLflow model, and register it where that is asked."""
    from lit_imgproc.tracking import model

    module, data = rebuild(experiment.frozen, checkpoint), experiment.datamodule
    try:
        network = module.export_network()
    except UserError as error:  # what a family cannot do: only who asked for it is told aloud
        if experiment.tracking.get("register"):
            log.warning("no model was registered: %s", error)
        tracker.set_tag("model.error", str(error))
        return
    count = data.splits()["val"]
    pair = data.batch("val", [0, 1 % count])["image"]
    if isinstance(pair, list):  # of several sizes, which do not make one array
        pair = pair[0][None]
    try:
        model.log_model(
            tracker,
            network=network,
            input_spec=data.input_spec(),
            class_names=data.facts()["class_names"],
            example=pair.permute(0, 2, 3, 1).numpy(),
            register=experiment.tracking.get("register"),
            alias=experiment.tracking.get("alias"),
        )
    except Exception as error:  # whatever torch.export cannot trace
        # The training is done and its checkpoints are safe: it has not failed for this.
        log.warning("the run has no MLflow model: %s", error)
        tracker.set_tag("model.error", str(error)[:500])
