"""Segmentation networks of MONAI, for volumes.

They give logits ``[B, K, D, H, W]`` of normalized volumes ``[B, C, D, H, W]``, whose sides are
multiples of ``divisor``. Levels are halved, so that the coarsest has to have more than one voxel
for norms of instances.
"""

from typing import Annotated, Any, Literal, cast

from annotated_types import Ge, Interval, Len
from torch import nn

from lit_imgproc.extras import require
from lit_imgproc.models.segmentation.networks import Count

Rate = Annotated[float, Interval(ge=0, le=1)]
VolumeNorm = Literal["batch", "instance"]


def unet_3d(
    num_classes: Count,
    in_channels: Count = 1,
    channels: Annotated[tuple[Count, ...], Len(3)] = (16, 32, 64, 128, 256),
    num_res_units: Annotated[int, Ge(0)] = 2,
    norm: VolumeNorm = "instance",
    dropout: Rate = 0.0,
) -> nn.Module:
    """U-Net of residual units (Kerfoot et al., 2018, doi 10.1007/978-3-030-12029-0_40).

    It has 4,806,481 parameters for two classes, and 4,808,917 with batch norms, as in MONAI's
    example of the spleen. Levels are halved by strided convolutions.

    Args:
        num_classes: K.
        in_channels: C.
        channels: of the levels, fine to coarse.
        num_res_units: convolutions of each residual unit; 0 makes plain convolutions of them.
        norm: after each convolution. Those of instances do not depend on the batch, which is small
            where volumes are large; those of batches have scales and shifts.
        dropout: share of values, after each norm.

    Raises:
        UserError: MONAI is not installed.
    """
    network: Any = require("monai.networks.nets", "medical").UNet(
        spatial_dims=3,
        in_channels=in_channels,
        out_channels=num_classes,
        channels=channels,
        strides=(2,) * (len(channels) - 1),
        num_res_units=num_res_units,
        norm=norm,
        dropout=dropout,
    )
    units = ("model.0.conv.unit0.conv", "model.0.residual") if num_res_units else ("model.0.conv",)
    network.pretrained_cfg = {
        "first_conv": units,
        "classifier": ("model.2",),
        # Back up from the coarsest level, together with the one before it.
        "attribution_layer": "model." + "1.submodule." * (len(channels) - 2) + "2",
    }
    return _finish(network, 2 ** (len(channels) - 1))


def basic_unet_3d(
    num_classes: Count,
    in_channels: Count = 1,
    channels: tuple[Count, Count, Count, Count, Count, Count] = (32, 32, 64, 128, 256, 32),
    norm: VolumeNorm = "instance",
    dropout: Rate = 0.0,
) -> nn.Module:
    """U-Net of two convolutions a level (Falk et al., 2019, doi 10.1038/s41592-018-0261-2).

    It has 5,749,410 parameters for two classes. Levels are halved by pooling.

    Args:
        num_classes: K.
        in_channels: C.
        channels: of the five levels, fine to coarse, and of the last features.
        norm: after each convolution, with scales and shifts; see :func:`unet_3d`.
        dropout: share of values, after each norm.

    Raises:
        UserError: MONAI is not installed.
    """
    network: Any = require("monai.networks.nets", "medical").BasicUNet(
        spatial_dims=3,
        in_channels=in_channels,
        out_channels=num_classes,
        features=channels,
        norm=(norm, {"affine": True}),
        dropout=dropout,
    )
    network.pretrained_cfg = {
        "first_conv": "conv_0.conv_0.conv",
        "classifier": ("final_conv",),
        "attribution_layer": "upcat_4",
    }
    return _finish(network, 16)


def _finish(network: Any, divisor: int) -> nn.Module:
    network.divisor, network.remainder, network.margin = divisor, 0, 0
    return cast(nn.Module, network)
