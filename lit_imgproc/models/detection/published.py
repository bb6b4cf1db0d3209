"""torchvision's own detectors, by their names there.

With ``weights: pretrained`` they start from what torchvision trained on COCO, and with
``trunk_weights: pretrained`` from a trunk that was trained on ImageNet.
"""

import inspect
from typing import Annotated, Any, NamedTuple, cast

import torchvision
from annotated_types import Ge, Interval
from torch import nn

from lit_imgproc.models.backbones import State, WeightsUnavailable, replace_first_conv
from lit_imgproc.models.detection.networks import Padding, describe
from lit_imgproc.models.named import named
from lit_imgproc.models.pyramid import freeze_norms, freeze_up_to

Count = Annotated[int, Ge(1)]
Share = Annotated[float, Interval(ge=0, le=1)]


class Trunk(NamedTuple):
    """Names in torchvision's detectors on one kind of trunk."""

    first_conv: str
    explained: str
    """Fine enough to tell neighbours apart, and deep enough to know what they are."""
    frozen: str
    """The last layer that torchvision's own training leaves as ImageNet made it."""


RESNET = Trunk("backbone.body.conv1", "backbone.body.layer3", "backbone.body.layer1")
MOBILENET = Trunk("backbone.body.0.0", "backbone.body.12", "backbone.body.6")
VGG = Trunk("backbone.features.0", "backbone.extra.0", "backbone.features.2")
SSDLITE = Trunk("backbone.features.0.0.0", "backbone.features.1", "backbone.features.0.0")

TRUNKS = {
    "fasterrcnn_resnet50_fpn": RESNET,
    "fasterrcnn_resnet50_fpn_v2": RESNET,
    "fasterrcnn_mobilenet_v3_large_fpn": MOBILENET,
    "fasterrcnn_mobilenet_v3_large_320_fpn": MOBILENET,
    "maskrcnn_resnet50_fpn": RESNET,
    "maskrcnn_resnet50_fpn_v2": RESNET,
    "retinanet_resnet50_fpn": RESNET,
    "retinanet_resnet50_fpn_v2": RESNET,
    "fcos_resnet50_fpn": RESNET,
    "ssd300_vgg16": VGG,
    "ssdlite320_mobilenet_v3_large": SSDLITE,
}


def _torchvision(
    _model: str,
    num_classes: Count,
    in_channels: Count = 3,
    frozen_stem: bool = False,
    frozen_norms: bool = False,
    score_thresh: Share | None = None,
    nms_thresh: Share | None = None,
    detections_per_img: Count | None = None,
) -> nn.Module:
    """From torchvision.

    Args:
        num_classes: K.
        in_channels: C.
        frozen_stem: the first stages of the trunk stay as they are, as in torchvision's training.
        frozen_norms: batch norms of the trunk keep their statistics, scales and shifts.
        score_thresh: the least score of a detection; None takes torchvision's, as for the others.
        nms_thresh: detections of a class that overlap more are of the same object.
        detections_per_img: detections an image, at most.
    """
    given = {
        "score_thresh": score_thresh,
        "nms_thresh": nms_thresh,
        "detections_per_img": detections_per_img,
    }
    prefix = "box_" if "rcnn" in _model else ""
    network: Any = torchvision.models.get_model(
        _model,
        weights=None,
        weights_backbone=None,
        num_classes=num_classes + 1,
        **{f"{prefix}{name}": value for name, value in given.items() if value is not None},
    )
    trunk, scaling = TRUNKS[_model], network.transform
    replace_first_conv(network, trunk.first_conv, in_channels)
    network.transform = Padding(scaling.size_divisible)
    if frozen_norms:
        network.backbone = freeze_norms(network.backbone)
    if frozen_stem:
        layers, _, last = trunk.frozen.rpartition(".")
        freeze_up_to(network.get_submodule(layers), last)
    described = {
        "architecture": _model,
        "source": "torchvision",
        "first_conv": trunk.first_conv,
        "attribution_layer": trunk.explained,
        "mean": scaling.image_mean,
        "std": scaling.image_std,
    }
    describe(network, described)
    return cast(nn.Module, network)


def imagenet_trunk(architecture: str) -> State:
    """The trunk of one of torchvision's detectors as it was trained on ImageNet.

    Returns:
        The part of its state dict that is called ``backbone``. What is not of the trunk in it, a
        pyramid say, is untrained.

    Raises:
        WeightsUnavailable: it is not on this machine and cannot be downloaded.
    """
    builder = torchvision.models.get_model_builder(architecture)
    weights = inspect.signature(builder).parameters["weights_backbone"].default
    if weights is None:
        weights = torchvision.models.ResNet50_Weights.IMAGENET1K_V1
    try:
        network: Any = builder(weights=None, weights_backbone=weights)
    except (OSError, RuntimeError) as error:
        raise WeightsUnavailable(
            f"The ImageNet weights of the trunk of {architecture} are not on this machine and "
            "could not be downloaded: fetch them on a machine with a network and give "
            f"trunk_weights the file. The library said: {str(error).strip().splitlines()[0]}"
        ) from error
    return cast(State, network.backbone.state_dict())


fasterrcnn_resnet50_fpn = named(
    _torchvision,
    "fasterrcnn_resnet50_fpn",
    "Faster R-CNN with ResNet-50 and FPN (arXiv 1506.01497), 41,755,286 parameters for COCO.",
)
fasterrcnn_resnet50_fpn_v2 = named(
    _torchvision,
    "fasterrcnn_resnet50_fpn_v2",
    "Faster R-CNN as of arXiv 2111.11429, 43,712,278 parameters for COCO.",
)
fasterrcnn_mobilenet_v3_large_fpn = named(
    _torchvision,
    "fasterrcnn_mobilenet_v3_large_fpn",
    "Faster R-CNN with MobileNetV3-Large and FPN, 19,386,354 parameters for COCO.",
)
fasterrcnn_mobilenet_v3_large_320_fpn = named(
    _torchvision,
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "Faster R-CNN with MobileNetV3-Large and FPN, tuned for images of 320 pixels.",
)
maskrcnn_resnet50_fpn = named(
    _torchvision,
    "maskrcnn_resnet50_fpn",
    "Mask R-CNN with ResNet-50 and FPN (arXiv 1703.06870), 44,401,393 parameters for COCO.",
)
maskrcnn_resnet50_fpn_v2 = named(
    _torchvision,
    "maskrcnn_resnet50_fpn_v2",
    "Mask R-CNN as of arXiv 2111.11429, 46,359,409 parameters for COCO.",
)
retinanet_resnet50_fpn = named(
    _torchvision,
    "retinanet_resnet50_fpn",
    "RetinaNet with ResNet-50 and FPN (arXiv 1708.02002), 34,014,999 parameters for COCO.",
)
retinanet_resnet50_fpn_v2 = named(
    _torchvision,
    "retinanet_resnet50_fpn_v2",
    "RetinaNet with group norms and the GIoU loss (arXiv 1912.02424), 38,198,935 parameters.",
)
fcos_resnet50_fpn = named(
    _torchvision,
    "fcos_resnet50_fpn",
    "FCOS with ResNet-50 and FPN (arXiv 1904.01355), 32,269,600 parameters for COCO.",
)
ssd300_vgg16 = named(
    _torchvision,
    "ssd300_vgg16",
    "SSD with VGG-16 (arXiv 1512.02325) for images of 300x300, 35,641,826 parameters for COCO.",
)
ssdlite320_mobilenet_v3_large = named(
    _torchvision,
    "ssdlite320_mobilenet_v3_large",
    "SSDlite with MobileNetV3-Large (arXiv 1801.04381) for images of 320x320, 3,440,060 for COCO.",
)
