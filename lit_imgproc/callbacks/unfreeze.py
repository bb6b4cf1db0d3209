"""Gradual unfreezing: the head first, then the trunk, layer group by layer group."""

from typing import Annotated

import torch
from annotated_types import Ge
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.optim import SGD, Optimizer
from typing_extensions import override

from lit_imgproc.errors import UserError
from lit_imgproc.models.backbones import layer_groups
from lit_imgproc.models.base import ImageModule


class GradualUnfreeze(Callback):
    """Train the head alone, then free one more group of layers, from the head towards the stem.

    Howard and Ruder (arXiv 1801.06146). All weights belong to the optimizer from the start; a
    frozen one has no gradient and so is not moved, and its batch norm keeps its statistics.

    Args:
        epochs_per_group: epochs between one group and the next.
    """

    def __init__(self, *, epochs_per_group: Annotated[int, Ge(1)] = 1) -> None:
        self.epochs_per_group = epochs_per_group

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        strategy = trainer.strategy
        if isinstance(strategy, DDPStrategy) and not strategy._ddp_kwargs.get(
            "find_unused_parameters"
        ):
            raise UserError(
                "the unfreeze callback leaves weights without gradients, which DDP must be told: "
                "set trainer.strategy=ddp_find_unused_parameters_true"
            )

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_epoch_start(trainer, pl_module)  # for an epoch that goes on

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set what is free in this epoch; a function of the epoch alone, so that it resumes."""
        assert isinstance(pl_module, ImageModule)
        groups = layer_groups(pl_module.network)
        free = 1 + trainer.current_epoch // self.epochs_per_group
        learning = {name for group in groups[-free:] for name in group}
        for name, parameter in pl_module.network.named_parameters():
            parameter.requires_grad_(name in learning)
            if name in learning:
                _start_momentum(trainer.optimizers, parameter)


def _start_momentum(optimizers: list[Optimizer], parameter: nn.Parameter) -> None:
    """Let a weight begin with zero momentum where its neighbours have some already.

    Torch's fused SGD cannot step weights with and without a buffer together; a buffer of zeros is
    what the first step would start from.
    """
    for optimizer in optimizers:
        if isinstance(optimizer, SGD) and any(g["momentum"] for g in optimizer.param_groups):
            optimizer.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
