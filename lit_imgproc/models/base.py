"""What every module of the package offers, beside Lightning's own steps."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from typing_extensions import override

from lit_imgproc import optim
from lit_imgproc.errors import UserError
from lit_imgproc.models.backbones import attribution_layer, feature_map
from lit_imgproc.models.targets import Box, Target, Targets

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lit_imgproc.pictures import Picture

Batch = dict[str, Any]


class Normalization(nn.Module):
    """The first layer of a module: ``(image - mean) / std`` for each channel.

    It lies inside the module so that what is exported takes images in [0, 1] and what is explained
    is seen in image space. Images are ``[B, C, H, W]``, volumes ``[B, C, D, H, W]``.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or min(std, default=0) <= 0:
            raise UserError(
                f"mean {list(mean)} and std {list(std)}: one value a channel is needed, std above 0"
            )
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Normalize images ``[B, C, H, W]`` or volumes ``[B, C, D, H, W]``."""
        shape = (1, -1) + (1,) * (image.ndim - 2)
        return (image - self.mean.view(shape)) / self.std.view(shape)


def choose_normalization(
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    known: tuple[Sequence[float], Sequence[float]] | None,
    weights: str | None = None,
) -> Normalization:
    """The normalization that was asked for, or else the one that weights were trained with.

    Args:
        mean: of each channel of [0, 1] images.
        std: likewise.
        known: of the weights, where they say it.
        weights: what they are, for the message.

    Raises:
        UserError: there is none.
    """
    if mean is not None and std is not None:
        return Normalization(mean, std)
    if known is not None:
        return Normalization(*known)
    if weights is not None:
        raise UserError(
            f"{weights} does not say how its images were normalized: set model.mean and model.std"
        )
    raise UserError("mean and std are needed: one value a channel, of images in [0, 1]")


class ImageModule(LightningModule):
    """The base of every LightningModule here: eight-bit batches, sharding, the shared contract.

    A family defines ``network``, ``normalization``, ``optimizer`` and ``schedule``, and overrides
    what differs. Its ``validation_step`` may return ``{"wrong": values}``, how wrong it is of each
    image ``[B]``, on the device: ``callbacks.explain`` looks for the worst ones by it.
    """

    network: nn.Module
    normalization: Normalization
    optimizer: optim.Optimizer
    schedule: optim.Schedule | None
    class_names: list[str]
    """Of families that know classes."""
    volumetric: bool = False
    """Whether it looks at volumes ``[B, C, D, H, W]``."""
    localized: ClassVar[bool] = False
    """Whether what it answers lies somewhere in the image, as an object or a region does, and is
    not said of the image as a whole."""

    # What training needs -------------------------------------------------------------------------

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Turn eight-bit images into floats in [0, 1], here on the device and not in the worker."""
        for key in ("image", "target"):
            images = batch.get(key)
            if isinstance(images, list):  # of several sizes
                batch = {**batch, key: [self._floats(one) for one in images]}
            elif images is not None:
                batch = {**batch, key: self._floats(images)}
        return batch

    def _floats(self, image: Tensor) -> Tensor:
        if image.dtype != torch.uint8:
            return image
        # Workers lay pixels out in rows; weights, unless they are told, do not.
        floats = image.to(self.normalization.mean.dtype, memory_format=torch.contiguous_format)
        return floats.div_(255)

    @override
    def on_train_start(self) -> None:
        self.on_train_epoch_start()  # for an epoch that goes on

    def on_train_epoch_start(self) -> None:
        """Keep the statistics of frozen batch norms: what does not learn must not drift either."""
        for layer in self.network.modules():
            own = list(layer.parameters(recurse=False))
            if isinstance(layer, nn.modules.batchnorm._BatchNorm) and own:
                layer.train(any(p.requires_grad for p in own))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the optimizer moves, in groups: norms and biases get no weight decay."""
        return optim.parameter_groups(
            self.network, lr=self.optimizer.lr, weight_decay=self.optimizer.weight_decay
        )

    @override
    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = self.optimizer.build(self.parameter_groups())
        if self.schedule is None:
            return optimizer
        total, epoch = self.planned_steps()
        scheduler = self.schedule.build(optimizer, total_steps=total, steps_per_epoch=epoch)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def configure_model(self) -> None:
        """Shard the network's layers over the ranks under ``trainer.strategy=model_parallel``."""
        mesh = self.device_mesh
        if mesh is None:
            return
        if mesh["tensor_parallel"].size() != 1:
            raise UserError(
                "networks here are sharded over data-parallel ranks, not split by tensor: set "
                "trainer.strategy=model_parallel, or data_parallel_size to the number of ranks "
                "and tensor_parallel_size to 1"
            )
        from torch.distributed.fsdp import FSDPModule, fully_shard

        if isinstance(self.network, FSDPModule):
            return  # sharded by the fit; this is the test that follows it
        # Shards are cut from contiguous weights only: `channels_last` gives way here.
        self.network.to(memory_format=torch.contiguous_format)
        for layer in _callable_children(self.network):
            if any(True for _ in layer.parameters()):
                fully_shard(layer, mesh=mesh["data_parallel"])
        fully_shard(self.network, mesh=mesh["data_parallel"])

    def planned_steps(self) -> tuple[int, int]:
        """Optimizer steps of the whole fit and of one epoch, for schedules.

        Computed without ``trainer.estimated_stepping_batches``, which sets the loaders up and so
        loses the position of a resumed one (Lightning issue 20550).
        """
        trainer = self.trainer
        datamodule: Any = getattr(trainer, "datamodule", None)
        if not hasattr(datamodule, "steps_per_epoch"):
            total = int(trainer.estimated_stepping_batches)
            return total, max(1, total // max(1, trainer.max_epochs or 1))
        batches = datamodule.steps_per_epoch(trainer.world_size)
        limit = trainer.limit_train_batches
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        epoch = max(1, math.ceil(batches / trainer.accumulate_grad_batches))
        epochs = trainer.max_epochs if trainer.max_epochs is not None else -1
        ends = [n for n in (epochs * epoch, trainer.max_steps) if n >= 0]
        if not ends:
            raise UserError("a schedule needs an end: set trainer.max_epochs or trainer.max_steps")
        return max(1, min(ends)), epoch

    # What the tracker, the explanations and the export ask for -----------------------------------

    def attribution_fn(self, target: Targets = None) -> Callable[[Tensor], Tensor]:
        """A function from images ``[B, C, H, W]`` in [0, 1] to one score an image ``[B]``.

        An explanation differentiates it.
        """
        raise UserError(
            f"{type(self).__name__} has nothing that an explanation could differentiate"
        )

    def confidence_fn(self, target: Targets = None) -> Callable[[Tensor], Tensor]:
        """A function from images to how sure the network is of the target, in [0, 1]: ``[B]``.

        What an explanation is measured by.
        """
        raise UserError(f"{type(self).__name__} does not say how sure it is")

    def attribution_targets(
        self, batch: Batch, label: int | None = None, box: Box | None = None
    ) -> list[Target | None]:
        """What is to be explained of each image: what the network answers, or what is asked for.

        Args:
            batch: images on the module's device.
            label: the class to explain; None takes the answer that stands out most.
            box: where to explain it, xyxy in pixels of the batch's images; None takes where the
                network finds it.

        Returns:
            One an image; None where the network finds nothing.

        Raises:
            UserError: what the network says is of an image as a whole, and there is a box.
        """
        raise UserError(f"{type(self).__name__} does not say what could be explained")

    def attribution_layer(self) -> nn.Module:
        """The layer whose activations a class activation map weighs."""
        return attribution_layer(self.network)

    def feature_map(self, activation: Tensor) -> Tensor:
        """Lay out what :meth:`attribution_layer` puts out as ``[B, C, h, w]``."""
        return feature_map(self.network, activation)

    def draw(self, batch: Batch, output: Any) -> "Picture":
        """A picture of a batch and of what ``predict_step`` says of it, uint8 ``[H, W, 3]``."""
        raise UserError(f"{type(self).__name__} does not draw its predictions")

    def figures(self) -> Mapping[str, "Figure"]:
        """Figures of the evaluation that has just ended, by name, such as a confusion matrix."""
        return {}

    def export_network(self) -> nn.Module:
        """The network to export, in eval mode: images in [0, 1] in, predictions out."""
        raise UserError(f"{type(self).__name__} does not export a network yet")


def _callable_children(network: nn.Module) -> list[nn.Module]:
    """The layers that a forward pass calls: containers that cannot be called are opened."""
    layers: list[nn.Module] = []
    for child in network.children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            layers += _callable_children(child)
        else:
            layers.append(child)
    return layers
