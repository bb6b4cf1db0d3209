"""Small classes for recipes to name, as ``stand_ins:Learner``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval, Predicate
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from torch import nn

from lit_imgproc.optim import Optimizer


def _even(value: int) -> bool:
    if value % 2:
        raise ValueError("an even number is needed", "2 is one")
    return True


@dataclass(frozen=True)
class Crop:
    size: int
    scale: tuple[float, float] = (0.5, 1.0)


class Net(nn.Module):
    def __init__(self, *, num_classes: int, in_channels: int = 3, depth: int = 2) -> None:
        super().__init__()
        self.num_classes, self.in_channels, self.depth = num_classes, in_channels, depth


class Learner(LightningModule):
    """Learns nothing.

    Args:
        network: what computes.
        rate: how fast,
            over two lines.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        num_classes: int,
        rate: Annotated[float, Gt(0)],
        optimizer: Optimizer | None = None,
        mode: Literal["fast", "slow"] = "fast",
        share: Annotated[float, Interval(ge=0, lt=1)] = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        folder: Path | None = None,
        flag: bool = False,
        crop: Crop | None = None,
        pairs: Annotated[int, Predicate(_even)] = 2,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        weights: str | None = None,
        limit: Annotated[int, Ge(1)] | Literal["all"] | None = None,
    ) -> None:
        super().__init__()
        self.network, self.num_classes, self.rate, self.optimizer = (
            network,
            num_classes,
            rate,
            optimizer,
        )
        self.betas, self.folder, self.crop, self.limit = betas, folder, crop, limit


class Data(LightningDataModule):
    def __init__(self, *, root: str, batch_size: int = 32, seed: int = 0) -> None:
        super().__init__()
        self.root, self.batch_size, self.seed = root, batch_size, seed


class Quiet(Callback):
    def __init__(self, every: int = 1) -> None:
        self.every = every


def open_network(num_classes: int, **options: int) -> nn.Module:
    """A function that takes any keyword."""
    return nn.Linear(options.get("width", 1), num_classes)
