"""A training that is cut off wherever one likes, and what is left of it: for tests of resume."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from lightning.pytorch import Callback
from mlflow.tracking import MlflowClient

from lit_imgproc.recipes.experiment import Experiment

MOMENTS = (
    "on_train_epoch_start", "on_train_batch_start", "on_before_backward", "on_after_backward",
    "on_before_optimizer_step", "on_before_zero_grad", "on_train_batch_end", "on_step_end",
    "on_validation_start", "on_validation_epoch_start", "on_validation_batch_start",
    "on_validation_batch_end", "on_validation_epoch_end", "on_validation_end",
    "on_train_epoch_end", "on_train_end", "on_fit_end", "on_save_checkpoint",
    "on_test_start", "on_test_batch_end", "on_test_end",
)  # fmt: skip


class CutOff(BaseException):
    """What no handler of the package takes for an ending of its own."""


class Bomb(Callback):
    """Cut the training off at the ``moment``-th hook that is called."""

    def __init__(self, moment):
        self.moment = moment
        self.seen = []

    def __getattribute__(self, name):
        if name in MOMENTS:
            return lambda *args, **kwargs: self.hook(name)
        return super().__getattribute__(name)

    def hook(self, name):
        self.seen.append(name)
        if len(self.seen) == self.moment:
            raise CutOff(name)


@contextmanager
def bomb(moment, first=True) -> Iterator[Bomb]:
    """Let every training have the bomb among its callbacks."""
    it = Bomb(moment)
    callbacks = Experiment._callbacks

    def with_bomb(self, told):
        mine = callbacks(self, told)
        return [it, *mine] if first else [*mine, it]

    with (
        patch.object(Experiment, "_callbacks", with_bomb),
        patch("lit_imgproc.recipes.record.log_model", lambda *args: None),
    ):
        yield it


def state(run):
    """The last state of a run, without what says how it came about."""
    saved = torch.load(run.last_checkpoint(), weights_only=True)
    kept = ("state_dict", "current_model_state", "averaging_state", "optimizer_states",
            "lr_schedulers", "global_step", "epoch", "callbacks", "loops", "logged")  # fmt: skip
    return {key: saved[key] for key in kept if key in saved}


def points(store, run_id):
    """Every point of every metric that is a function of the training: (step, value), in order."""
    client = MlflowClient(store.uri)
    found = {}
    for key in client.get_run(run_id).data.metrics:
        if not key.startswith(("system/", "speed/")):
            history = client.get_metric_history(run_id, key)
            found[key] = sorted((point.step, point.value) for point in history)
    return found


def differences(one, other, path=""):
    """Where two nested states differ, bit for bit."""
    if isinstance(one, torch.Tensor):
        same = isinstance(other, torch.Tensor) and torch.equal(one, other)
        return [] if same else [path]
    if isinstance(one, dict) and isinstance(other, dict):
        keys = list(dict.fromkeys([*one, *other]))
        pairs = [(one.get(key), other.get(key), f"{path}/{key}") for key in keys]
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
        if len(one) != len(other):
            return [path]
        pairs = [(a, b, f"{path}/{i}") for i, (a, b) in enumerate(zip(one, other, strict=True))]
    else:
        return [] if one == other else [path]
    return [place for pair in pairs for place in differences(*pair)]
