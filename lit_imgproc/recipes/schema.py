"""A constructor's signature is the schema: every value of a recipe is checked against it."""

import json
from collections.abc import Set
from dataclasses import dataclass, is_dataclass
from functools import cache
from typing import Annotated, Any, Literal

import annotated_types as at
from pydantic import ValidationError

from lit_imgproc.errors import UserError
from lit_imgproc.recipes import references
from lit_imgproc.recipes.compose import Composed
from lit_imgproc.recipes.registry import names, resolve, suggest
from lit_imgproc.recipes.signature import (
    Parameter,
    Parameters,
    check,
    choices,
    construct,
    describe,
    parameters,
)
from lit_imgproc.recipes.text import KeyPath, Mistake, RecipeError

FACTS = frozenset(
    {"num_classes", "class_names", "class_counts", "in_channels", "out_channels", "mean", "std"}
    | {"value_range", "image_size", "multilabel", "seed"}
)
"""Parameters that a recipe may leave open: the data, or the recipe's seed, fills them."""

OWNED = {
    "logger": "every run is logged to MLflow: see `tracking:`",
    "callbacks": "callbacks have their own block: `callbacks:`",
    "default_root_dir": "set tracking.artifacts",
    "enable_checkpointing": "set callbacks.checkpoint; null switches it off",
    "enable_autolog_hparams": "the whole recipe is always logged",
    "use_distributed_sampler": "the datamodule divides its images among the ranks",
    "plugins": "precision, devices and strategy have keys of their own",
    "barebones": "every run is logged",
    "model_registry": "set tracking.register",
    "fast_dev_run": "use --toy, or trainer.limit_train_batches",
}
"""Trainer options that are decided elsewhere, and where."""


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """A figure that a recipe reaches: what was measured here, or what was published."""

    value: float
    tolerance: Annotated[float, at.Ge(0)] | None = None
    source: Literal["measured", "published"]
    seeds: Annotated[int, at.Ge(1)] = 1


@dataclass(frozen=True, kw_only=True)
class Header:
    """The ``recipe:`` block: what the recipe is, for people."""

    title: str
    system: str
    family: str | None = None
    paper: str | None = None
    notes: str | None = None
    expects: dict[str, Expectation] | None = None


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """The ``tracking:`` block: where the run is recorded, and under which names."""

    experiment: str = "default"
    run_name: str | None = None
    uri: str | None = None
    artifacts: str | None = None
    tags: dict[str, str] | None = None
    register: str | None = None
    alias: str | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The top level; blocks that are built by name, and the trainer's, are checked further."""

    extends: str | list[str] | None = None
    recipe: Header | None = None
    seed: Annotated[int, at.Ge(0)] = 0
    model: Any
    data: Any
    trainer: dict[str, Any] | None = None
    callbacks: dict[str, Any] | None = None
    tracking: Tracking | None = None
    toy: dict[str, Any] | None = None


@cache
def trainer_parameters() -> Parameters:
    """What a recipe can set of Lightning's Trainer, with the choices that its signature omits."""
    from lightning.pytorch import Trainer
    from lightning.pytorch.strategies import Strategy, StrategyRegistry

    # Ranks are started by this package, never by a strategy.
    own_ranks = ("ddp_fork", "ddp_spawn", "ddp_notebook")
    known = {n for n in StrategyRegistry if not n.startswith(own_ranks)} | {*names("strategy")}
    strategies = ("auto", *sorted(known))
    choices: dict[str, Any] = {
        "accelerator": Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"],
        "strategy": Literal[strategies] | Strategy,
        "gradient_clip_algorithm": Literal["norm", "value"] | None,
        "profiler": Literal["simple", "advanced", "pytorch"] | None,
    }
    return Parameters(
        (name, Parameter(choices.get(name, parameter.annotation), required=False))
        for name, parameter in parameters(Trainer).items()
        if name not in OWNED
    )


def validate(composed: Composed, *, data_only: bool = False) -> None:
    """Check every value of a recipe against the constructor that it will reach.

    Imports the classes that the recipe names, builds nothing, touches no data and no device.

    Args:
        composed: The recipe.
        data_only: Whether it may go without a model, since its data alone are looked at.

    Raises:
        RecipeError: with all mistakes, a line each.
    """
    values, unset = references.resolve(composed.values, environment=True)
    checker = _Checker(composed.values)
    checker.recipe(values, {"model"} if data_only else set())
    mistakes: list[Mistake] = []
    for found in (composed.mistakes, unset, checker.mistakes):
        # What could not be replaced is not a value of a wrong type as well.
        known = {mistake.path for mistake in mistakes}
        mistakes += [mistake for mistake in found if mistake.path not in known]
    if mistakes:
        raise RecipeError([composed.line(mistake) for mistake in mistakes])


class _Checker:
    """Walks a recipe and collects its mistakes."""

    def __init__(self, written: dict[str, Any]) -> None:
        self.written = written
        self.mistakes: list[Mistake] = []

    def report(self, path: KeyPath, sentence: str) -> None:
        """Note a mistake."""
        self.mistakes.append(Mistake(path, sentence))

    def recipe(self, values: dict[str, Any], optional: Set[str]) -> None:
        """Check the top level and everything below it."""
        self.keys(values, parameters(Recipe), (), optional)
        for key, kind in (("model", "module"), ("data", "datamodule")):
            if key in values:
                self.block(values[key], kind, (key,))
        if isinstance(callbacks := values.get("callbacks"), dict):
            for name, block in callbacks.items():
                self.block(block, "callback", ("callbacks", name))
        if isinstance(trainer := values.get("trainer"), dict):
            self.keys(trainer, trainer_parameters(), ("trainer",))

    def block(self, block: Any, kind: str, path: KeyPath) -> None:
        """Check a block that is built by its name."""
        if not isinstance(block, dict):
            form = "a block of its arguments" if kind == "callback" else "a block {name: …}"
            self.report(path, f"got {self.shown(block, path)}; {form} is needed")
            return
        name = block.get("name")
        if not isinstance(name, str):
            what = "missing" if "name" not in block else f"got {_shown(name)}"
            self.report((*path, "name"), f"{what}; the name of a {kind} is needed")
            return
        try:
            target = resolve(kind, name)
        except UserError as error:
            self.report((*path, "name"), f"got {self.shown(name, (*path, 'name'))}; {error}")
            return
        before = len(self.mistakes)
        self.keys({k: v for k, v in block.items() if k != "name"}, parameters(target), path)
        if is_dataclass(target) and len(self.mistakes) == before:
            # Plain values, such as an optimizer: what they refuse together shows now.
            try:
                construct(target, block)
            except UserError as error:
                self.report(path, str(error))

    def keys(
        self,
        given: dict[str, Any],
        allowed: Parameters,
        path: KeyPath,
        optional: Set[str] = FACTS,
    ) -> None:
        """Check the keys of a block and the value of each."""
        for key, parameter in allowed.items():
            if parameter.required and key not in given and key not in optional:
                needed = describe(parameter.annotation)
                self.report((*path, key), f"missing; {needed} is needed")
        for key, value in given.items():
            if key in allowed:
                self.value(value, allowed[key], (*path, key))
            elif path == ("trainer",) and key in OWNED:
                self.report((*path, key), f"not set here; {OWNED[key]}")
            elif not allowed.open:
                hint = suggest(key, allowed) or ";"
                self.report((*path, key), f"unknown key{hint} allowed: {', '.join(allowed)}")

    def value(self, value: Any, parameter: Parameter, path: KeyPath) -> None:
        """Check one value: a nested block, or plain data by its annotation."""
        if isinstance(value, dict) and parameter.kind:
            self.block(value, parameter.kind, path)
        elif isinstance(value, dict) and parameter.structure:
            self.keys(value, parameters(parameter.structure), path)
        elif isinstance(value, dict) and parameter.structures:
            for key, item in value.items():
                self.value(item, Parameter(parameter.structures, True), (*path, key))
        else:
            self.plain(value, parameter.annotation, path)

    def plain(self, value: Any, annotation: Any, path: KeyPath) -> None:
        try:
            check(annotation, value, as_text=self.from_environment(path))
        except ValidationError as error:
            # A check of the annotation's own speaks for itself, one sentence an argument; not of
            # a value from the environment, which it may quote.
            own = [e["ctx"]["error"] for e in error.errors() if e["type"] == "value_error"]
            own = [] if self.from_environment(path) else own
            hint = suggest(str(value), choices(annotation))
            needed = f"{describe(annotation)} is needed{hint}"
            for sentence in own[0].args if own else [needed]:
                self.report(path, f"got {self.shown(value, path)}; {sentence}")

    def from_environment(self, path: KeyPath) -> bool:
        """Whether the value there is, or holds, what environment variables say."""
        return "${oc.env:" in str(self.at(path))

    def at(self, path: KeyPath) -> Any:
        """What the recipe says there, with references to the environment as they are written."""
        value: Any = self.written
        for key in path:
            value = value[key]
        return value

    def shown(self, value: Any, path: KeyPath) -> str:
        """The value for a sentence; never the content of an environment variable."""
        return f"the value of {self.at(path)}" if self.from_environment(path) else _shown(value)


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"
