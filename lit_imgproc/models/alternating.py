"""Modules of several networks that are trained in turn, such as a generator and a discriminator."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch.core.optimizer import LightningOptimizer, do_nothing_closure
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from typing_extensions import override

from lit_imgproc import optim
from lit_imgproc.errors import UserError
from lit_imgproc.models.base import Batch, ImageModule


class AlternatingModule(ImageModule):
    """A module whose players are trained in turn, each by an optimizer of its own.

    A family says who plays (:meth:`players`) and what happens in a batch (:meth:`play`). A step is
    a batch, however many optimizers there are and however often each moves in it: Lightning, which
    would count every move, is told of one, so that ``trainer.max_steps``, checkpoints, schedules
    and everything logged count batches.

    Example:
        The turn of one player in :meth:`play`:

        >>> with self.turn("discriminator"):  # doctest: +SKIP
        ...     self.descend("discriminator", loss)
    """

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    @abstractmethod
    def players(self) -> dict[str, nn.Module]:
        """The networks that are trained, by name, always in the same order."""

    @abstractmethod
    def play(self, batch: Batch) -> Tensor:
        """Train the players with a batch and log their losses.

        Returns:
            The sum of all losses, a detached scalar: where it is not finite, one of them was not.
        """

    def optimizer_of(self, player: str) -> optim.Optimizer:
        """What moves a player; the same for all, unless a family says otherwise."""
        return self.optimizer

    @override
    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizers: list[Any] = []
        schedulers: list[Any] = []
        for name, network in self.players().items():
            own = self.optimizer_of(name)
            groups = optim.parameter_groups(network, lr=own.lr, weight_decay=own.weight_decay)
            for group in groups:
                group["name"] = f"{name}/{group['name']}"
            optimizers.append(own.build(groups))
            if self.schedule is not None:
                total, epoch = self.planned_steps()
                scheduler = self.schedule.build(
                    optimizers[-1], total_steps=total, steps_per_epoch=epoch
                )
                schedulers.append({"scheduler": scheduler, "name": f"lr-{name}"})
        return optimizers, schedulers

    @override
    def configure_model(self) -> None:
        if self.device_mesh is not None:
            raise UserError(
                "networks that are trained in turn are not sharded: set trainer.strategy=auto"
            )

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        for optimizer in self._optimizers().values():  # Lightning sets these before each batch
            optimizer._on_before_step = do_nothing_closure
            optimizer._on_after_step = do_nothing_closure
        # What is logged in some batches only would be repeated in those between.
        results = self.trainer._results
        assert results is not None
        results.reset(metrics=False, fx="training_step")
        loss = self.play(batch)
        for scheduler in _listed(self.lr_schedulers()):
            scheduler.step()
        steps = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        steps.increment_ready()
        steps.increment_completed()
        return {"loss": loss}

    @contextmanager
    def turn(self, player: str) -> Iterator[None]:
        """Within it, the parameters of this player alone need gradients."""
        resting = [
            parameter
            for name, network in self.players().items()
            if name != player
            for parameter in network.parameters()
            if parameter.requires_grad
        ]
        for parameter in resting:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in resting:
                parameter.requires_grad_(True)

    def descend(self, player: str, loss: Tensor) -> None:
        """Move a player one step down a loss."""
        optimizer = self._optimizers()[player]
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    def _optimizers(self) -> dict[str, LightningOptimizer]:
        return dict(zip(self.players(), _listed(self.optimizers()), strict=True))


def _listed(one_or_several: Any) -> list[Any]:
    """What Lightning gives: a list, of one its member, of none nothing."""
    if one_or_several is None:
        return []
    return list(one_or_several) if isinstance(one_or_several, list) else [one_or_several]
