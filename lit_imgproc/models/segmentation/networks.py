"""Segmentation networks of segmentation-models-pytorch (smp) and of torchvision.

They give logits ``[B, K, H, W]`` of normalized images ``[B, C, H, W]``. The state dicts are those
of the libraries. U-Net, U-Net++ and DeepLabV3+ stand on any trunk of timm whose levels they can
use, SegFormer on its own; torchvision's networks are as it publishes them.
"""

import inspect
from difflib import get_close_matches
from typing import Annotated, Any, Literal, cast

import segmentation_models_pytorch as smp
import timm
import torch.nn.functional as F
import torchvision
from annotated_types import Ge, Len
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from lit_imgproc.errors import UserError
from lit_imgproc.models.backbones import replace_first_conv
from lit_imgproc.models.named import named

Count = Annotated[int, Ge(1)]
Widths = Annotated[tuple[Count, ...], Len(5, 5)]
Rates = tuple[Count, Count, Count]
MixTransformer = Literal["mit_b0", "mit_b1", "mit_b2", "mit_b3", "mit_b4", "mit_b5"]


def unet(
    trunk: str,
    num_classes: Count,
    in_channels: Count = 3,
    decoder_channels: Widths = (256, 128, 64, 32, 16),
) -> nn.Module:
    """U-Net (arXiv 1505.04597) with a trunk as its contracting path.

    Its convolutions are padded and followed by batch norms; that of the paper is
    :func:`lit_imgproc.models.segmentation.unet_2015.unet_2015`.

    Args:
        trunk: timm's name of it.
        num_classes: K.
        in_channels: C.
        decoder_channels: of the five levels of the expanding path, coarse to fine.

    Raises:
        UserError: timm knows no such trunk, or it has no such levels.
    """
    network = _on_timm(smp.Unet, trunk, num_classes, in_channels, decoder_channels=decoder_channels)
    return _finish(network, 32, "decoder.blocks.0")


def unet_plus_plus(
    trunk: str,
    num_classes: Count,
    in_channels: Count = 3,
    decoder_channels: Widths = (256, 128, 64, 32, 16),
) -> nn.Module:
    """U-Net++ (arXiv 1807.10165): a U-Net whose skip connections are decoders themselves.

    Args:
        trunk: timm's name of it.
        num_classes: K.
        in_channels: C.
        decoder_channels: see :func:`unet`.

    Raises:
        UserError: timm knows no such trunk, or it has no such levels.
    """
    network = _on_timm(
        smp.UnetPlusPlus, trunk, num_classes, in_channels, decoder_channels=decoder_channels
    )
    return _finish(network, 32, "decoder.blocks.x_0_0")


def deeplabv3_plus(
    trunk: str,
    num_classes: Count,
    in_channels: Count = 3,
    output_stride: Literal[8, 16] = 16,
    decoder_channels: Count = 256,
    atrous_rates: Rates = (6, 12, 18),
) -> nn.Module:
    """DeepLabV3+ (arXiv 1802.02611): atrous separable convolutions over a dilated trunk.

    The weights do not depend on the output stride: a network that was trained at 16 is evaluated
    at 8, as in the paper, by building it so.

    Args:
        trunk: timm's name of it.
        num_classes: K.
        in_channels: C.
        output_stride: of the trunk's last level, which is dilated instead of being strided.
        decoder_channels: of the pyramid of atrous convolutions and of the decoder.
        atrous_rates: of the pyramid at output stride 16; at 8 they are doubled, which are the same
            distances in the image.

    Raises:
        UserError: timm knows no such trunk, or it has no such levels or cannot be dilated.
    """
    network = _on_timm(
        smp.DeepLabV3Plus,
        trunk,
        num_classes,
        in_channels,
        encoder_output_stride=output_stride,
        decoder_channels=decoder_channels,
        decoder_atrous_rates=tuple(rate * 16 // output_stride for rate in atrous_rates),
    )
    return _finish(network, output_stride, "decoder.aspp")


def segformer(
    num_classes: Count, trunk: MixTransformer = "mit_b0", in_channels: Count = 3
) -> nn.Module:
    """SegFormer (arXiv 2105.15203), B0 to B5 by its trunk: 3.8 to 84.7 million parameters.

    Args:
        num_classes: K.
        trunk: the Mix Transformer. The decoder has 256 channels over B0 and B1 and 768 over the
            others, as in the paper.
        in_channels: C.
    """
    network: Any = smp.Segformer(
        trunk,
        encoder_weights=None,
        in_channels=in_channels,
        classes=num_classes,
        decoder_segmentation_channels=256 if trunk in ("mit_b0", "mit_b1") else 768,
    )
    network.pretrained_cfg = {
        "trunk": trunk,
        "trunk_source": "smp",
        "trunk_module": "encoder",
        "first_conv": "encoder.patch_embed1.proj",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
    }
    return _finish(network, 32, "decoder.fuse_stage")


class Published(nn.Module):
    """A segmentation network of torchvision, with its names of weights.

    Called with ``[B, C, H, W]``; gives logits ``[B, K, H, W]``, and in training a pair of them
    where there is an auxiliary head.

    Args:
        network: FCN or DeepLabV3 as torchvision makes it.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.backbone: nn.Module = network.backbone
        self.classifier: nn.Module = network.classifier
        self.aux_classifier: nn.Module | None = network.aux_classifier

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Logits, see the class."""
        size = images.shape[-2:]

        def enlarged(logits: Tensor) -> Tensor:
            return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)

        features = self.backbone(images)
        logits = enlarged(self.classifier(features["out"]))
        if self.training and self.aux_classifier is not None:
            return logits, enlarged(self.aux_classifier(features["aux"]))
        return logits


def _torchvision(
    _model: str, num_classes: Count, in_channels: Count = 3, auxiliary: bool = True
) -> nn.Module:
    """From torchvision.

    Args:
        num_classes: K.
        in_channels: C.
        auxiliary: whether an FCN head on a middle layer learns along: in training the network
            gives its logits second.
    """
    made: Any = torchvision.models.get_model(
        _model, weights=None, weights_backbone=None, num_classes=num_classes, aux_loss=auxiliary
    )
    network: Any = Published(made)
    trunk = _model.partition("_")[2]
    builder = torchvision.models.get_model_builder(_model)
    trunk_weights = inspect.signature(builder).parameters["weights_backbone"].default
    first_conv = "backbone.0.0" if trunk == "mobilenet_v3_large" else "backbone.conv1"
    replace_first_conv(network, first_conv, in_channels)
    network.pretrained_cfg = {
        "architecture": _model,
        "source": "torchvision",
        "trunk": trunk,
        "trunk_source": "torchvision",
        "trunk_weights": str(trunk_weights),
        "trunk_module": "backbone",
        "first_conv": first_conv,
        "classifier": ("classifier.4", "aux_classifier"),
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
    }
    explained = "classifier.2" if _model.startswith("fcn") else "classifier.0"
    return _finish(network, 1, explained)


fcn_resnet50 = named(
    _torchvision,
    "fcn_resnet50",
    "FCN (arXiv 1411.4038) on a dilated ResNet-50, 35,322,218 parameters for 21 classes.",
)
fcn_resnet101 = named(
    _torchvision,
    "fcn_resnet101",
    "FCN (arXiv 1411.4038) on a dilated ResNet-101, 54,314,346 parameters for 21 classes.",
)
deeplabv3_resnet50 = named(
    _torchvision,
    "deeplabv3_resnet50",
    "DeepLabV3 (arXiv 1706.05587) on ResNet-50, 42,004,074 parameters for 21 classes.",
)
deeplabv3_resnet101 = named(
    _torchvision,
    "deeplabv3_resnet101",
    "DeepLabV3 (arXiv 1706.05587) on ResNet-101, 60,996,202 parameters for 21 classes.",
)
deeplabv3_mobilenet_v3_large = named(
    _torchvision,
    "deeplabv3_mobilenet_v3_large",
    "DeepLabV3 (arXiv 1706.05587) on MobileNetV3-Large, 11,029,328 parameters for 21 classes.",
)


def _on_timm(
    make: Any, trunk: str, num_classes: int, in_channels: int, **arguments: Any
) -> nn.Module:
    """A network of smp on a trunk of timm, untrained, with what is known of the trunk."""
    if not timm.is_model(trunk):
        near = get_close_matches(trunk, timm.list_models(), n=3)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise UserError(f"timm has no model {trunk}, which was to be the trunk.{hint}")
    published = timm.get_pretrained_cfg(trunk)
    if published is not None and published.fixed_input_size:
        arguments["strict_img_size"] = False  # those that can take other sizes than their own do
    try:
        network: Any = make(
            f"tu-{trunk}",
            encoder_weights=None,
            in_channels=in_channels,
            classes=num_classes,
            **arguments,
        )
    except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError) as e:
        stride = arguments.get("encoder_output_stride")
        dilated = f" and to be dilated to stride {stride}" if stride else ""
        raise UserError(
            f"timm's {trunk} cannot be the trunk of {make.__name__}: a trunk has to have levels of "
            f"strides 4, 8, 16 and so on for images of any size{dilated}; resnet50 is one."
        ) from e
    trained: Any = network.encoder.model
    cfg = trained.pretrained_cfg
    names = {name for name, _ in trained.named_modules()}
    first = cfg["first_conv"]
    network.pretrained_cfg = {
        "trunk": f"{cfg['architecture']}.{cfg['tag']}" if cfg.get("tag") else cfg["architecture"],
        "trunk_source": "timm",
        "trunk_module": "encoder.model",
        # Some wrappers of timm flatten the names.
        "first_conv": f"encoder.model.{first if first in names else first.replace('.', '_')}",
        "mean": cfg["mean"],
        "std": cfg["std"],
    }
    return cast(nn.Module, network)


def _finish(network: Any, divisor: int, attribution_layer: str) -> nn.Module:
    """Say what sizes a network takes, and what it is made of."""
    network.divisor, network.remainder, network.margin = divisor, 0, 0
    network.pretrained_cfg = {
        "classifier": ("segmentation_head.0",),
        **network.pretrained_cfg,
        "attribution_layer": attribution_layer,
    }
    return cast(nn.Module, network)
