"""Optimizers, the parameter groups they work on, and schedules of the learning rate.

An optimizer or a schedule of a recipe is a frozen dataclass: plain values that can be checked,
compared and recorded, with a ``build()`` that makes the torch object.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from lit_imgproc.errors import UserError

Fraction = Annotated[float, Ge(0), Le(1)]
"""From 0 to 1, both included."""
Decay = Annotated[float, Ge(0), Lt(1)]
"""The rate of a running mean: from 0 to below 1."""
Parameters = Iterable[Tensor] | Iterable[dict[str, Any]]
"""Parameters, or groups of them as ``parameter_groups`` makes them."""


@dataclass(frozen=True, kw_only=True)
class Optimizer(ABC):
    """What every optimizer of a recipe has.

    Attributes:
        lr: the learning rate at the top of the schedule.
        weight_decay: the decay of weights; ``parameter_groups`` spares norms and biases from it.
    """

    lr: Annotated[float, Gt(0)]
    weight_decay: Annotated[float, Ge(0)] = 0.0

    @abstractmethod
    def build(self, parameters: Parameters) -> torch.optim.Optimizer:
        """Make the torch optimizer; what a group sets itself wins over the values here."""


@dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """Stochastic gradient descent with momentum.

    Raises:
        UserError: Nesterov's momentum is asked for with a momentum of zero.

    Example:
        >>> SGD(lr=0.1, weight_decay=5e-4, nesterov=True).build(network.parameters())
    """

    momentum: Decay = 0.9
    nesterov: bool = False

    def __post_init__(self) -> None:
        if self.nesterov and not self.momentum:
            raise UserError("sgd: nesterov needs a momentum greater than 0.")

    def build(self, parameters: Parameters) -> torch.optim.Optimizer:
        """Make a ``torch.optim.SGD``, fused unless parameters are sharded."""
        groups: list[Any] = list(parameters)
        return _clippable(
            torch.optim.SGD(
                groups,
                lr=self.lr,
                momentum=self.momentum,
                weight_decay=self.weight_decay,
                nesterov=self.nesterov,
                # torch has a fused Adam for sharded parameters, but no fused SGD.
                fused=None if _sharded(groups) else True,
            )
        )


@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """Adam (https://arxiv.org/abs/1412.6980); its weight decay is an L2 penalty."""

    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: Annotated[float, Gt(0)] = 1e-8

    def build(self, parameters: Parameters) -> torch.optim.Optimizer:
        """Make a fused ``torch.optim.Adam``."""
        return _clippable(
            torch.optim.Adam(
                parameters,
                lr=self.lr,
                betas=self.betas,
                eps=self.eps,
                weight_decay=self.weight_decay,
                fused=True,
            )
        )


@dataclass(frozen=True, kw_only=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay (https://arxiv.org/abs/1711.05101)."""

    weight_decay: Annotated[float, Ge(0)] = 0.01
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: Annotated[float, Gt(0)] = 1e-8

    def build(self, parameters: Parameters) -> torch.optim.Optimizer:
        """Make a fused ``torch.optim.AdamW``."""
        return _clippable(
            torch.optim.AdamW(
                parameters,
                lr=self.lr,
                betas=self.betas,
                eps=self.eps,
                weight_decay=self.weight_decay,
                fused=True,
            )
        )


@dataclass(frozen=True, kw_only=True)
class RMSprop(Optimizer):
    """RMSprop as torch has it; Inception-v3 was trained with alpha 0.9, momentum 0.9 and eps 1."""

    momentum: Decay = 0.0
    alpha: Decay = 0.99
    eps: Annotated[float, Gt(0)] = 1e-8

    def build(self, parameters: Parameters) -> torch.optim.Optimizer:
        """Make a ``torch.optim.RMSprop``; torch has no fused one and takes foreach on GPUs."""
        return torch.optim.RMSprop(
            parameters,
            lr=self.lr,
            momentum=self.momentum,
            alpha=self.alpha,
            eps=self.eps,
            weight_decay=self.weight_decay,
        )


def _sharded(parameters: Iterable[Any]) -> bool:
    tensors = chain.from_iterable(p["params"] if isinstance(p, dict) else [p] for p in parameters)
    return any(isinstance(tensor, DTensor) for tensor in tensors)


def _clippable(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Leave the unscaling of mixed-precision gradients to the gradient scaler.

    A fused optimizer says that it unscales by itself, and Lightning then refuses to clip
    gradients under mixed precision. The fused kernel is as fast without.
    """
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    return optimizer


def parameter_groups(
    network: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    layer_groups: Sequence[Sequence[str]] | None = None,
    layer_decay: float | None = None,
) -> list[dict[str, Any]]:
    """Divide the parameters that need a gradient into groups for an optimizer.

    Norms, biases and whatever else has at most one dimension get no weight decay, nor do the
    parameters that the network names in ``no_weight_decay()`` as timm's do (position embeddings,
    class tokens). With ``layer_decay`` d, the learning rate of the layer group i of n is
    ``lr * d ** (n - 1 - i)`` (https://arxiv.org/abs/2106.08254).

    Args:
        network: whose parameters.
        lr: the learning rate of the last layer group.
        weight_decay: of the parameters that have one.
        layer_groups: names of parameters, stem first and head last; needed for ``layer_decay``.
        layer_decay: the factor from one layer group to the one before it.

    Returns:
        Groups with ``params``, ``lr``, ``weight_decay`` and a ``name``; each parameter is in
        exactly one of them.

    Raises:
        ValueError: ``layer_groups`` and the network's parameters are not the same names.
    """
    names = [name for name, _ in network.named_parameters()]
    if layer_decay is None or layer_groups is None:
        layer_groups, layer_decay = [names], 1.0
    layer_of = {name: i for i, group in enumerate(layer_groups) for name in group}
    if layer_of.keys() != set(names) or sum(map(len, layer_groups)) != len(names):
        raise ValueError("layer_groups do not hold every parameter of the network exactly once")

    spared: set[str] = set(getattr(network, "no_weight_decay", set)())
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and not name.endswith("bias") and name not in spared
            groups.setdefault((layer_of[name], decays), []).append(parameter)
    last = len(layer_groups) - 1
    return [
        {
            "params": parameters,
            "lr": lr * layer_decay ** (last - layer),
            "weight_decay": weight_decay if decays else 0.0,
            "name": f"layer{layer}/{'decay' if decays else 'no_decay'}",
        }
        for (layer, decays), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


@dataclass(frozen=True, kw_only=True)
class Schedule(ABC):
    """A learning rate over time, as a factor on the rate of every parameter group.

    A step is a step of the optimizer; epochs may be fractions.
    """

    @abstractmethod
    def factor(self, step: int, total_steps: int, steps_per_epoch: int) -> float:
        """Return the factor on the learning rate at ``step``, which counts from 0."""

    def build(
        self, optimizer: torch.optim.Optimizer, total_steps: int, steps_per_epoch: int
    ) -> LRScheduler:
        """Make a scheduler to be stepped after every step of the optimizer."""
        return LambdaLR(optimizer, lambda step: self.factor(step, total_steps, steps_per_epoch))


@dataclass(frozen=True, kw_only=True)
class Warmup(Schedule):
    """A linear rise of the rate before what the schedule is named for.

    Attributes:
        warmup_epochs: how long the rate rises.
        warmup_start: the factor it rises from.
    """

    warmup_epochs: Annotated[float, Ge(0)] = 0.0
    warmup_start: Fraction = 0.01

    def factor(self, step: int, total_steps: int, steps_per_epoch: int) -> float:
        """Rise from ``warmup_start`` to 1, then follow ``after_warmup``."""
        warmup = round(self.warmup_epochs * steps_per_epoch)
        if step < warmup:
            return self.warmup_start + (1 - self.warmup_start) * step / warmup
        return self.after_warmup(step, warmup, total_steps, steps_per_epoch)

    @abstractmethod
    def after_warmup(self, step: int, warmup: int, total_steps: int, steps_per_epoch: int) -> float:
        """Return the factor at a ``step`` that is not before ``warmup``."""


@dataclass(frozen=True, kw_only=True)
class Constant(Warmup):
    """A constant rate."""

    def after_warmup(self, step: int, warmup: int, total_steps: int, steps_per_epoch: int) -> float:
        """Stay at 1."""
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Cosine(Warmup):
    """Half a cosine from 1 to ``final`` over what the warm-up leaves (arXiv 1608.03983).

    Attributes:
        final: the factor at the end.
    """

    final: Fraction = 0.0

    def after_warmup(self, step: int, warmup: int, total_steps: int, steps_per_epoch: int) -> float:
        """Fall along a cosine and stay at its end."""
        progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
        return _cosine(1.0, self.final, progress)


@dataclass(frozen=True, kw_only=True)
class Poly(Warmup):
    """A power of what is left of the training, from 1 to 0: ParseNet (arXiv 1506.04579), DeepLab.

    Attributes:
        power: 1 falls along a line; the less, the later it falls.
    """

    power: Annotated[float, Gt(0)] = 0.9

    def after_warmup(self, step: int, warmup: int, total_steps: int, steps_per_epoch: int) -> float:
        """Fall to 0 at the end of what the warm-up leaves, and stay there."""
        progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
        return float((1 - progress) ** self.power)


@dataclass(frozen=True, kw_only=True)
class Linear(Schedule):
    """Constant, then along a line to 0, as CycleGAN's (https://arxiv.org/abs/1703.10593).

    Attributes:
        start: the share of the training after which the rate falls.
    """

    start: Annotated[float, Ge(0), Lt(1)] = 0.5

    def factor(self, step: int, total_steps: int, steps_per_epoch: int) -> float:
        """Stay at 1 until ``start``, then fall to 0 at the end, and stay there."""
        return min(1.0, max(0.0, (1 - step / total_steps) / (1 - self.start)))


@dataclass(frozen=True, kw_only=True)
class Step(Warmup):
    """Falls by ``gamma`` at milestones, which count from the first epoch, warm-up included.

    Attributes:
        milestones: the epochs at which it falls.
        every: or the number of epochs between two falls.
        gamma: the factor of each fall.

    Raises:
        UserError: not exactly one of ``milestones`` and ``every`` is given.
    """

    milestones: tuple[Annotated[float, Gt(0)], ...] = ()
    every: Annotated[float, Gt(0)] | None = None
    gamma: Annotated[float, Gt(0), Lt(1)] = 0.1

    def __post_init__(self) -> None:
        if bool(self.milestones) == (self.every is not None):
            raise UserError("step: give either milestones (a list of epochs) or every (epochs).")

    def after_warmup(self, step: int, warmup: int, total_steps: int, steps_per_epoch: int) -> float:
        """Fall by ``gamma`` for each milestone that is reached."""
        if self.every is not None:
            falls = step // max(1, round(self.every * steps_per_epoch))
        else:
            falls = sum(step >= round(epoch * steps_per_epoch) for epoch in self.milestones)
        return float(self.gamma**falls)


@dataclass(frozen=True, kw_only=True)
class OneCycle(Schedule):
    """Up along a cosine and down again (https://arxiv.org/abs/1708.07120).

    The rates are those of ``torch.optim.lr_scheduler.OneCycleLR``; the momentum stays as it is.

    Attributes:
        pct_start: the part of the steps in which the rate rises.
        div_factor: the top over the first rate.
        final_div_factor: the first over the last rate.
    """

    pct_start: Annotated[float, Gt(0), Lt(1)] = 0.3
    div_factor: Annotated[float, Ge(1)] = 25.0
    final_div_factor: Annotated[float, Ge(1)] = 1e4

    def factor(self, step: int, total_steps: int, steps_per_epoch: int) -> float:
        """Rise to 1, fall to the last rate and stay there."""
        first = 1 / self.div_factor
        top = self.pct_start * total_steps - 1
        if step <= top:
            return _cosine(first, 1.0, step / top if top else 1.0)
        top = max(0.0, top)
        progress = min(1.0, (step - top) / max(1.0, total_steps - 1 - top))
        return _cosine(1.0, first / self.final_div_factor, progress)


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
