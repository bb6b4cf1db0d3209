"""Any trunk of timm as a feature pyramid, in torchvision's terms."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Literal, cast

import timm
from timm.layers.norm_act import freeze_batch_norm_2d
from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import (
    FeaturePyramidNetwork,
    LastLevelMaxPool,
    LastLevelP6P7,
)

from lit_imgproc.errors import UserError

Stride = Literal[2, 4, 8, 16, 32]


class FeaturePyramid(nn.Module):
    """A trunk of timm with the top-down layers of Lin et al. (arXiv 1612.03144) over it.

    Attributes:
        body: The trunk.
        fpn: What is over it.
        out_channels: Of every level.
        names: Of the levels that come from the trunk, fine to coarse.
        strides: Of all levels, fine to coarse.

    Args:
        trunk: timm's name of it.
        in_channels: Of the images.
        strides: Of the levels of the trunk that are taken, fine to coarse.
        channels: Of every level of the pyramid; ``None`` takes one level of the trunk as it is.
        extra: What coarser levels are made by: ``pool`` halves the last one (Faster R-CNN), and
            ``p6p7`` convolves two more (RetinaNet, FCOS).

    Raises:
        UserError: timm knows no such trunk, or it has no levels of these strides; or they are
            several, and no pyramid.
    """

    def __init__(
        self,
        trunk: str,
        in_channels: int,
        strides: Sequence[int],
        channels: int | None,
        extra: Literal["pool", "p6p7"],
    ) -> None:
        super().__init__()
        self.body: Any = timm_features(trunk, in_channels, strides)
        self.fpn: FeaturePyramidNetwork | None = None
        self.names = [str(level) for level in range(len(strides))]
        given = self.body.feature_info.channels()
        if channels is None:
            if len(strides) > 1:
                raise UserError(
                    f"strides {list(strides)} without fpn_channels: several levels need a pyramid"
                )
            self.out_channels, self.strides = given[0], list(strides)
            return
        pool = extra == "pool"
        block = LastLevelMaxPool() if pool else LastLevelP6P7(channels, channels)
        self.fpn = FeaturePyramidNetwork(given, channels, block)
        self.out_channels = channels
        self.strides = [*strides, *(strides[-1] * 2 ** (k + 1) for k in range(1 if pool else 2))]

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """Levels ``[B, channels, h, w]`` of images ``[B, C, H, W]``, by name, fine to coarse."""
        maps = self.body(images)
        if str(getattr(self.body, "output_fmt", "NCHW")).endswith("NHWC"):
            maps = [one.permute(0, 3, 1, 2) for one in maps]
        levels = OrderedDict(zip(self.names, maps, strict=True))
        return levels if self.fpn is None else cast("OrderedDict[str, Tensor]", self.fpn(levels))


def timm_features(trunk: str, in_channels: int, strides: Sequence[int]) -> Any:
    """A network of timm, untrained, that gives its levels of certain strides, as a list.

    Raises:
        UserError: timm knows no such network, or it has no levels of these strides.
    """
    if not timm.is_model(trunk):
        raise UserError(f"timm has no model {trunk}, which was to be the trunk.")
    try:
        every: Any = timm.create_model(trunk, features_only=True)
        reductions = every.feature_info.reduction()
    except (RuntimeError, AttributeError) as error:
        raise UserError(f"timm's {trunk} has no levels that a pyramid could stand on.") from error
    missing = [stride for stride in strides if reductions.count(stride) != 1]
    if missing or sorted(strides) != list(strides):
        raise UserError(
            f"strides {list(strides)}: fine to coarse, of the levels of {trunk}, which are "
            f"{', '.join(map(str, reductions))}."
        )
    return timm.create_model(
        trunk,
        features_only=True,
        in_chans=in_channels,
        out_indices=[reductions.index(stride) for stride in strides],
    )


def stage_of(body: Any, stride: int) -> str:
    """The name of the last module of a trunk of timm that works at a stride.

    Raises:
        UserError: it has no level of this stride.
    """
    found = [level["module"] for level in body.feature_info.info if level["reduction"] == stride]
    if not found:
        has = ", ".join(str(level["reduction"]) for level in body.feature_info.info)
        raise UserError(f"the trunk has no level of stride {stride}: it has {has}")
    names = {name for name, _ in body.named_modules()}
    # Some wrappers of timm flatten the names.
    return str(found[-1] if found[-1] in names else found[-1].replace(".", "_"))


def freeze_norms(trunk: nn.Module) -> nn.Module:
    """The trunk with batch norms that keep their statistics, scales and shifts.

    Few images are in a batch of a detector, so that statistics of it would say little.
    """
    frozen: nn.Module = freeze_batch_norm_2d(trunk)  # type: ignore[no-untyped-call]
    return frozen


def freeze_up_to(trunk: nn.Module, last: str) -> None:
    """Let the parameters of a trunk, from the image up to a module, stay as they are."""
    trunk.get_submodule(last)  # which has to be there
    reached = False
    for name, module in trunk.named_modules():
        within = name == last or name.startswith(f"{last}.")
        if reached and not within:
            return
        reached = reached or within
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)
