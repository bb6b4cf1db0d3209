"""The experiment: a recipe, composed and validated, that can be trained."""

import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from filelock import FileLock

from lit_imgproc import slurm
from lit_imgproc.data.base import ImageDataModule
from lit_imgproc.errors import TrainingFailed, UserError
from lit_imgproc.models.base import ImageModule
from lit_imgproc.recipes import ranks, record
from lit_imgproc.recipes.batch_size import find_batch_size
from lit_imgproc.recipes.build import STARTS, build, fill
from lit_imgproc.recipes.compose import Composed, compose
from lit_imgproc.recipes.memory import out_of_memory
from lit_imgproc.recipes.quiet import quiet
from lit_imgproc.recipes.references import from_environment
from lit_imgproc.recipes.registry import resolve
from lit_imgproc.recipes.resume import Resumption, resumption, same_experiment
from lit_imgproc.recipes.run import DEFAULT_STORE, Run, load_run
from lit_imgproc.recipes.schema import validate
from lit_imgproc.recipes.signature import parameters
from lit_imgproc.recipes.text import dump
from lit_imgproc.signals import REQUEUED, Heard, Interrupted, heard
from lit_imgproc.tracking.store import StoreUnavailable

if TYPE_CHECKING:
    from lightning.pytorch import Callback, Trainer

    from lit_imgproc.tracking.logger import MLflowTracker


def load_recipe(recipe: str | Path, *overrides: str, toy: bool = False) -> "Experiment":
    """Compose a recipe and check every value in it, without touching data or devices.

    Args:
        recipe: a name such as ``classification/resnet20_fashion_mnist``, or a file.
        overrides: ``key=value``, the key with dots, the value as YAML: ``trainer.max_epochs=3``.
        toy: run it small on generated data: the recipe's ``toy:`` block, and the data set's toy.

    Raises:
        RecipeError: everything that is wrong with it, a line each.
    """
    return Experiment(_checked(recipe, overrides, toy=toy))


def load_data(recipe: str | Path, *overrides: str, toy: bool = False) -> ImageDataModule:
    """The data of a recipe, before any file is looked at. The recipe may have no ``model:``.

    Args:
        recipe: a name, or a file.
        overrides: ``key=value``, as for :func:`load_recipe`.
        toy: generated data instead of the recipe's own.

    Raises:
        RecipeError: everything that is wrong with it, a line each.
    """
    return Experiment(_checked(recipe, overrides, toy=toy, data_only=True)).unread_data()


def _checked(
    recipe: str | Path, overrides: Sequence[str], *, toy: bool, data_only: bool = False
) -> Composed:
    composed = compose(str(recipe), overrides, toy=toy)
    validate(composed, data_only=data_only)
    if toy and not any(override.startswith("data.root=") for override in overrides):
        name = composed.values["data"]["name"]
        composed.values["data"]["root"] = str(_toy_data(resolve("datamodule", name)))
    return composed


def resume_run(run: str | Path, *overrides: str, uri: str | None = None) -> "Experiment":
    """The experiment of a run, to go on from its last whole checkpoint with ``train()``.

    Args:
        run: the first characters of its id, or a checkpoint file.
        overrides: ``key=value``, of what may change: see `recipes.resume`.
        uri: the store; ``MLFLOW_TRACKING_URI`` or the local ``mlruns/mlflow.db`` unless given.

    Raises:
        RecipeError: everything that is wrong with the overrides, a line each.
        UserError: there is nothing to go on from, or nothing left to do.
    """
    found = resumption(run, uri)
    with tempfile.TemporaryDirectory(prefix="lit_imgproc-") as folder:
        recipe = Path(folder, f"{found.run_id}.yaml")
        recipe.write_text(dump(found.recipe))
        experiment = load_recipe(recipe, *overrides)
    experiment.origin = replace(experiment.origin, source=Path.cwd() / recipe.name)
    experiment.resume(found)
    return experiment


DEFAULT_TRACKING = {"experiment": "default", "uri": DEFAULT_STORE, "artifacts": None}


@dataclass(frozen=True)
class Origin:
    """Where an experiment came from, for the record.

    Args:
        source: the recipe's file.
        command: as in ``sys.argv``.
        digest: of the recipe as it was composed, before data filled in what it left open.
    """

    source: Path
    command: list[str]
    digest: str


class Undelivered(StoreUnavailable):
    """A run has ended, and the store that should tell of it is away."""


class Experiment:
    """A module, a datamodule and a trainer, as one recipe describes them.

    Example:
        >>> load_recipe("quickstart", "trainer.max_epochs=3").train()  # doctest: +SKIP
        Run('4c1f…', FINISHED, test/accuracy 0.98)
    """

    def __init__(self, composed: Composed) -> None:
        self.recipe = composed.values
        self.origin = Origin(
            composed.sources[0],
            [Path(sys.argv[0]).name, *sys.argv[1:]],
            hashlib.sha256(composed.text().encode()).hexdigest(),
        )
        self.run_id: str | None = None
        """The run, as soon as the tracker has begun one."""
        self.resumption: Resumption | None = None
        """The checkpoint that the training goes on from, and its run."""
        self._in_use: dict[str, Any] = {"trainer": {}} | from_environment(self.recipe)

    # What the recipe describes -------------------------------------------------------------------

    @property
    def seed(self) -> int:
        """Of the weights, of the order of the data and of everything random in between."""
        return int(self.recipe.get("seed") or 0)

    @cached_property
    def datamodule(self) -> ImageDataModule:
        """The data, prepared: downloaded if need be, read and checked."""
        if self._in_use["data"].get("batch_size") == "auto":
            # From here on a number: it is recorded, and every rank gets the same.
            self.recipe["data"] = self.recipe["data"] | {"batch_size": find_batch_size(self.recipe)}
        datamodule = self.unread_data()
        datamodule.prepare()
        return datamodule

    def unread_data(self) -> ImageDataModule:
        """The data, before any file is looked at."""
        block = fill(self.recipe["data"], "datamodule", {"seed": self.seed})
        return cast(ImageDataModule, build(block, "datamodule"))

    @cached_property
    def module(self) -> ImageModule:
        """The module, with the facts of the data filled in where the recipe left them open."""
        import lightning.pytorch as pl

        pl.seed_everything(self.seed, workers=True, verbose=False)
        block = fill(self._in_use["model"], "module", self._facts)
        for key in STARTS:
            if str(block.get(key)).startswith("run:"):
                run = load_run(block[key].removeprefix("run:"), uri=self.store)
                block[key] = str(run.checkpoint)
                self.frozen["model"][key] = f"run:{run.id}"  # the whole id, for good
        return cast(ImageModule, build(block, "module"))

    @property
    def _facts(self) -> dict[str, Any]:
        return self.datamodule.facts() | {"seed": self.seed}

    @cached_property
    def frozen(self) -> dict[str, Any]:
        """The recipe as it will be recorded: facts filled in; references to the environment kept.

        It is a recipe itself: composed again, on another rank or next year, it gives this
        experiment.
        """
        facts = self._facts  # first: reading the data may settle the batch size
        frozen = dict(self.recipe)
        frozen["data"] = fill(frozen["data"], "datamodule", {"seed": self.seed})
        frozen["model"] = fill(frozen["model"], "module", facts)
        return frozen

    def trainer(
        self, tracker: "MLflowTracker | None" = None, told: Heard | None = None
    ) -> "Trainer":
        """A Lightning trainer with the recipe's options and callbacks.

        Args:
            tracker: its logger.
            told: the signals that end its training between two steps.
        """
        import lightning.pytorch as pl
        from lightning.pytorch.callbacks import Checkpoint

        options = dict(self._in_use["trainer"])
        if options.get("strategy") == "model_parallel":
            options["strategy"] = {
                "name": "model_parallel",
                "data_parallel_size": ranks.asked(options) * int(options.get("num_nodes", 1)),
                "tensor_parallel_size": 1,
                "save_distributed_checkpoint": False,
            }
        if isinstance(options.get("strategy"), dict):
            options["strategy"] = build(options["strategy"], "strategy")
        if not self.module.automatic_optimization:
            _let_take_turns(options)
        callbacks = self._callbacks(told or Heard())
        quiet()
        return pl.Trainer(
            **options,
            logger=tracker or False,
            callbacks=callbacks,
            plugins=_environment(),
            enable_checkpointing=any(isinstance(c, Checkpoint) for c in callbacks),
            use_distributed_sampler=False,  # the datamodule deals its batches out to the ranks
        )

    def _callbacks(self, told: Heard) -> "list[Callback]":
        from lightning.pytorch.callbacks import WeightAveraging

        from lit_imgproc.callbacks.failure import FailingBatch
        from lit_imgproc.callbacks.progress import Progress
        from lit_imgproc.callbacks.run import RunInCheckpoint
        from lit_imgproc.callbacks.seeding import StepSeed
        from lit_imgproc.callbacks.skipped import SkippedImages
        from lit_imgproc.callbacks.stop import Stop

        asked = [
            build(block, "callback") for block in (self._in_use.get("callbacks") or {}).values()
        ]
        # The average must be taken out again after every other callback has looked at it.
        asked.sort(key=lambda callback: isinstance(callback, WeightAveraging))
        return [
            FailingBatch(),  # first, so that it knows the batch that another one fails at
            SkippedImages(),
            StepSeed(self.seed),
            RunInCheckpoint(self.frozen, self.run_id),
            Progress(),
            *cast("list[Callback]", asked),
            Stop(told),
        ]

    # Training ------------------------------------------------------------------------------------

    def train(self, *, resume: str | Path | None = None) -> Run:
        """Train, test the best state, and leave an MLflow run; on several ranks if asked.

        Ranks are processes that this one starts, so that it works alike from a script, a notebook
        and the command line. In a script that ``torchrun`` has started, this process is a rank.

        A job that SLURM starts again goes on with the run that it had begun.

        Args:
            resume: a run, by the first characters of its id, or a checkpoint file: go on with
                that run from its last whole checkpoint. The recipe has to be the run's.

        Raises:
            Interrupted: a signal asked for an end.
            KeyboardInterrupt: so did Ctrl-C.
            TrainingFailed: memory ran out, or the loss is not finite.
            Undelivered: all is done, but the store went away meanwhile.
        """
        options = self._in_use["trainer"]
        count = ranks.asked(options)
        if resume is None and slurm.restarted():
            run = record.run_of_this_job(self)
            if run is not None and run.status == "FINISHED":
                self.run_id = run.id
                return run
            resume = None if run is None else run.id
        if resume is not None:
            self.resume(resumption(resume, self.store))
        self._settle()
        several = count > 1 or int(options.get("num_nodes") or 1) > 1
        if several and "TORCHELASTIC_RUN_ID" not in os.environ:
            self._train_on_ranks(count)
        else:
            self.run_here()
        return self.result()

    def _train_on_ranks(self, count: int) -> None:
        outcome = ranks.launch(self.frozen, count, self.origin, self.resumption)
        self.run_id = outcome.run_id
        if outcome.code and outcome.told == signal.SIGINT:
            raise KeyboardInterrupt
        if outcome.code and outcome.told is not None:
            raise Interrupted(outcome.told, outcome.code if outcome.code == REQUEUED else None)
        if outcome.code or self.run_id is None:
            if self.run_id is not None:
                # The first rank may have been killed, or ended by torchrun for another's failure.
                record.mark_failed(self, self.run_id, outcome.traceback)
            raise ranks.RankFailed(outcome)

    def resume(self, resumption: Resumption) -> None:
        """Let the training go on from a checkpoint, in the run that the checkpoint is of.

        Raises:
            UserError: the run was another experiment.
        """
        if self._in_use["data"].get("batch_size") == "auto":
            found = {"batch_size": resumption.recipe["data"]["batch_size"]}
            self.recipe["data"] = self.recipe["data"] | found
            self._in_use["data"] = self._in_use["data"] | found
        self._settle()
        same_experiment(resumption, self.frozen)
        self.resumption = resumption

    def run_here(self, announce: Path | None = None) -> None:
        """Train in this process, alone or as one of the ranks that have been started.

        Args:
            announce: a file to write the id of the run to, as JSON, as soon as there is one.
        """
        self._settle()
        try:
            self._train_recorded(announce)
        except RuntimeError as error:
            if (sentence := out_of_memory(error, self.frozen)) is None:
                raise
            raise TrainingFailed(sentence) from error

    def _train_recorded(self, announce: Path | None) -> None:
        from lit_imgproc.tracking.ending import recorded
        from lit_imgproc.tracking.system import system_metrics

        with heard() as told:
            tracker = record.open_run(self, self.resumption.run_id if self.resumption else None)
            self.run_id = tracker.version if tracker.is_open else None  # on rank 0 alone
            with recorded(tracker, told), system_metrics(tracker):
                if self.run_id is not None:
                    if announce is not None:
                        announce.write_text(json.dumps({"run_id": self.run_id}))
                    record.log_experiment(self, tracker)
                if self.resumption is not None and self.resumption.checkpoint is None:
                    tracker.rewind({})
                trainer = self.trainer(tracker, told)
                try:
                    self._fit_and_test(trainer)
                finally:
                    tracker.publish("checkpoints")
                kept = _kept(trainer)
                if trainer.is_global_zero and kept:
                    record.log_model(self, tracker, Path(kept))
                self.run_id = trainer.strategy.broadcast(self.run_id)

    def _fit_and_test(self, trainer: "Trainer") -> None:
        last = None if self.resumption is None else self.resumption.checkpoint
        trainer.fit(self.module, datamodule=self.datamodule, ckpt_path=last, weights_only=True)
        if "test" in self.datamodule.splits():
            trainer.test(
                self.module,
                datamodule=self.datamodule,
                ckpt_path=_kept(trainer),
                weights_only=True,
                verbose=False,
            )

    def result(self) -> Run:
        """The run that this experiment left or is leaving, however it ended.

        Raises:
            Undelivered: its store does not answer.
        """
        assert self.run_id is not None
        try:
            return load_run(self.run_id, uri=self.store)
        except StoreUnavailable as error:
            raise Undelivered(
                f"run {self.run_id} has ended, but cannot be read back: {error}. "
                "`lit-imgproc sync` delivers what it has logged"
            ) from error

    def _settle(self) -> None:
        """Write down what the module settled itself: how pretrained weights see an image."""
        normalization = self.module.normalization
        settled = {
            "mean": normalization.mean.flatten().tolist(),
            "std": normalization.std.flatten().tolist(),
        }
        known = parameters(resolve("module", self.frozen["model"]["name"]))
        self.frozen["model"] |= {key: settled[key] for key in settled if key in known}

    @property
    def store(self) -> str:
        """The MLflow store that the run is recorded in."""
        return str(self.tracking["uri"])

    @property
    def tracking(self) -> dict[str, Any]:
        """Where to record: the local store, where the recipe says nothing."""
        return {**DEFAULT_TRACKING, **(self._in_use.get("tracking") or {})}


def _kept(trainer: "Trainer") -> str | None:
    """The file of the best state, or of the last where none is best; None where none is kept."""
    checkpoint = trainer.checkpoint_callback
    names = ("best_model_path", "last_model_path")
    return next((path for name in names if (path := getattr(checkpoint, name, ""))), None)


def _let_take_turns(options: dict[str, Any]) -> None:
    """Options of a trainer for networks that are trained in turn.

    Raises:
        UserError: one of them is for a single optimizer that Lightning moves itself.
    """
    if options.get("gradient_clip_val") or (options.get("accumulate_grad_batches") or 1) > 1:
        raise UserError(
            "trainer.gradient_clip_val and trainer.accumulate_grad_batches are not for networks "
            "that are trained in turn, which take a step of their own each: leave them out"
        )
    several = ranks.asked(options) > 1 or int(options.get("num_nodes") or 1) > 1
    if several and options.get("strategy", "auto") in ("auto", "ddp"):
        options["strategy"] = "ddp_find_unused_parameters_true"  # those of who has no turn


def _environment() -> list[Any]:
    """SLURM's ranks as they are, without Lightning's requeuing from within a signal handler."""
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    if TorchElasticEnvironment.detect() or not SLURMEnvironment.detect():
        return []
    return [SLURMEnvironment(auto_requeue=False)]


def _toy_data(datamodule: type[ImageDataModule]) -> Path:
    """The folder of a datamodule's toy data, written when it is first asked for."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lit_imgproc" / "toy"
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / datamodule.__name__.lower()
    with FileLock(cache / f"{folder.name}.lock"):
        if not folder.is_dir():
            unfinished = folder.with_suffix(".part")
            shutil.rmtree(unfinished, ignore_errors=True)
            datamodule.write_toy(unfinished)
            unfinished.rename(folder)
    return folder
