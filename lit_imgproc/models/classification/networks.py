"""Networks that classify images, one function a name of the registry.

Each function makes an ``nn.Module`` that takes normalized images ``[B, C, H, W]`` to logits
``[B, K]``. Parameters are counted for K = 1000 and C = 3 where nothing else is said.
"""

from typing import Annotated, Any, Literal, cast

from annotated_types import Ge, Gt, Lt
from torch import nn

from lit_imgproc.models.backbones import create_timm, create_torchvision
from lit_imgproc.models.classification.small import CifarResNet, ConvNet
from lit_imgproc.models.named import named

Count = Annotated[int, Gt(0)]
Rate = Annotated[float, Ge(0), Lt(1)]
ImageSize = Count | tuple[Count, Count]
"""A side in pixels, or height and width."""

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
# torchvision's own Inception builders turn ImageNet's normalization into this (transform_input).
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


# AlexNet and VGG ---------------------------------------------------------------------------------

_LAST_RELU = {"vgg11": 19, "vgg13": 23, "vgg16": 29, "vgg19": 35}
_LAST_RELU |= {"vgg11_bn": 27, "vgg13_bn": 33, "vgg16_bn": 42, "vgg19_bn": 51, "alexnet": 11}


def _alexnet_or_vgg(
    _model: str, num_classes: Count, in_channels: Count = 3, drop_rate: Rate = 0.5
) -> nn.Module:
    """From torchvision; images of 63 pixels or more for AlexNet, of 32 or more for VGG.

    Args:
        num_classes: K.
        in_channels: C.
        drop_rate: dropout between the fully connected layers.
    """
    return create_torchvision(
        _model,
        num_classes,
        in_channels,
        first_conv="features.0",
        heads=["classifier.6"],
        attribution_layer=f"features.{_LAST_RELU[_model]}",  # before the last pooling
        **IMAGENET,
        dropout=drop_rate,
    )


alexnet = named(_alexnet_or_vgg, "alexnet", "AlexNet as in arXiv 1404.5997, 61,100,840 parameters.")
vgg11 = named(_alexnet_or_vgg, "vgg11", "VGG-11 (arXiv 1409.1556), 132,863,336 parameters.")
vgg13 = named(_alexnet_or_vgg, "vgg13", "VGG-13 (arXiv 1409.1556), 133,047,848 parameters.")
vgg16 = named(_alexnet_or_vgg, "vgg16", "VGG-16 (arXiv 1409.1556), 138,357,544 parameters.")
vgg19 = named(_alexnet_or_vgg, "vgg19", "VGG-19 (arXiv 1409.1556), 143,667,240 parameters.")
vgg11_bn = named(_alexnet_or_vgg, "vgg11_bn", "VGG-11 with batch norm, 132,868,840 parameters.")
vgg13_bn = named(_alexnet_or_vgg, "vgg13_bn", "VGG-13 with batch norm, 133,053,736 parameters.")
vgg16_bn = named(_alexnet_or_vgg, "vgg16_bn", "VGG-16 with batch norm, 138,365,992 parameters.")
vgg19_bn = named(_alexnet_or_vgg, "vgg19_bn", "VGG-19 with batch norm, 143,678,248 parameters.")


# Inception ---------------------------------------------------------------------------------------


def googlenet(
    num_classes: Count, in_channels: Count = 3, auxiliary: bool = True, drop_rate: Rate = 0.2
) -> nn.Module:
    """GoogLeNet (arXiv 1409.4842) with batch norm, 13,004,888 parameters.

    Args:
        num_classes: K.
        in_channels: C.
        auxiliary: add two heads; in training the network then returns a tuple, the logits and
            those of the two, which the paper weighs 0.3. Without them it has 6,624,904 parameters.
        drop_rate: dropout before the classifier.
    """
    return create_torchvision(
        "googlenet",
        num_classes,
        in_channels,
        first_conv="conv1.conv",
        heads=["fc", "aux1", "aux2"],
        attribution_layer="inception5b",
        **HALF,
        aux_logits=auxiliary,
        init_weights=True,
        dropout=drop_rate,
    )


def inception_v3(
    num_classes: Count, in_channels: Count = 3, auxiliary: bool = True, drop_rate: Rate = 0.5
) -> nn.Module:
    """Inception-v3 (arXiv 1512.00567), 27,161,264 parameters; images of 75 pixels or more.

    Args:
        num_classes: K.
        in_channels: C.
        auxiliary: add a head, which in training needs images of 299 pixels; the network then
            returns a tuple, the logits and those of the head, which torchvision's recipe weighs
            0.4. Without it the network has 23,834,568 parameters.
        drop_rate: dropout before the classifier.
    """
    return create_torchvision(
        "inception_v3",
        num_classes,
        in_channels,
        first_conv="Conv2d_1a_3x3.conv",
        heads=["fc", "AuxLogits"],
        attribution_layer="Mixed_7c",
        **HALF,
        aux_logits=auxiliary,
        init_weights=True,
        dropout=drop_rate,
    )


# ResNet ------------------------------------------------------------------------------------------


def _resnet(
    _model: str,
    num_classes: Count,
    in_channels: Count = 3,
    drop_path_rate: Rate = 0.0,
    stem: Literal["imagenet", "cifar"] = "imagenet",
) -> nn.Module:
    """Version 1.5, where the 3x3 convolution of a bottleneck has the stride.

    Args:
        num_classes: K.
        in_channels: C.
        drop_path_rate: the greatest rate of stochastic depth.
        stem: ``cifar`` keeps the size of small images: a 3x3 convolution and no pooling.
    """
    network: Any = create_timm(_model, num_classes, in_channels, drop_path_rate=drop_path_rate)
    if stem == "cifar":
        network.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        network.maxpool = nn.Identity()
    return cast(nn.Module, network)


resnet18 = named(_resnet, "resnet18", "ResNet-18 (arXiv 1512.03385), 11,689,512 parameters.")
resnet34 = named(_resnet, "resnet34", "ResNet-34 (arXiv 1512.03385), 21,797,672 parameters.")
resnet50 = named(_resnet, "resnet50", "ResNet-50 (arXiv 1512.03385), 25,557,032 parameters.")
resnet101 = named(_resnet, "resnet101", "ResNet-101 (arXiv 1512.03385), 44,549,160 parameters.")
resnet152 = named(_resnet, "resnet152", "ResNet-152 (arXiv 1512.03385), 60,192,808 parameters.")


def _cifar_resnet(_model: str, num_classes: Count, in_channels: Count = 3) -> nn.Module:
    """For images of about 32 pixels; parameters are counted for 10 classes.

    Args:
        num_classes: K.
        in_channels: C.
    """
    return CifarResNet(int(_model.removeprefix("resnet")), num_classes, in_channels)


resnet20 = named(_cifar_resnet, "resnet20", "ResNet-20 of CIFAR, 269,722 parameters.")
resnet32 = named(_cifar_resnet, "resnet32", "ResNet-32 of CIFAR, 464,154 parameters.")
resnet44 = named(_cifar_resnet, "resnet44", "ResNet-44 of CIFAR, 658,586 parameters.")
resnet56 = named(_cifar_resnet, "resnet56", "ResNet-56 of CIFAR, 853,018 parameters.")
resnet110 = named(_cifar_resnet, "resnet110", "ResNet-110 of CIFAR, 1,727,962 parameters.")


# EfficientNet ------------------------------------------------------------------------------------


def timm(
    model: str,
    num_classes: Count,
    in_channels: Count = 3,
    drop_rate: Rate = 0.0,
    drop_path_rate: Rate = 0.0,
    image_size: ImageSize | None = None,
) -> nn.Module:
    """Any classifier of timm by its name there.

    Args:
        model: timm's name, such as ``convnext_tiny``.
        num_classes: K.
        in_channels: C.
        drop_rate: dropout before the classifier.
        drop_path_rate: the greatest rate of stochastic depth.
        image_size: of the images; only networks that are made for one size care.
    """
    return create_timm(
        model,
        num_classes,
        in_channels,
        drop_rate=drop_rate,
        drop_path_rate=drop_path_rate,
        image_size=image_size,
    )


def _efficientnet(
    _model: str,
    num_classes: Count,
    in_channels: Count = 3,
    drop_rate: Rate = 0.0,
    drop_path_rate: Rate = 0.0,
) -> nn.Module:
    """From timm; the paper trains with a drop rate of 0.2 to 0.5 and a drop path rate of 0.2.

    Args:
        num_classes: K.
        in_channels: C.
        drop_rate: dropout before the classifier.
        drop_path_rate: the greatest rate of stochastic depth.
    """
    return timm(_model, num_classes, in_channels, drop_rate, drop_path_rate)


efficientnet_b0 = named(
    _efficientnet,
    "efficientnet_b0",
    "EfficientNet-B0 (arXiv 1905.11946), 5,288,548 parameters, 224 px.",
)
efficientnet_b1 = named(
    _efficientnet,
    "efficientnet_b1",
    "EfficientNet-B1 (arXiv 1905.11946), 7,794,184 parameters, 240 px.",
)
efficientnet_b2 = named(
    _efficientnet,
    "efficientnet_b2",
    "EfficientNet-B2 (arXiv 1905.11946), 9,109,994 parameters, 260 px.",
)
efficientnet_b3 = named(
    _efficientnet,
    "efficientnet_b3",
    "EfficientNet-B3 (arXiv 1905.11946), 12,233,232 parameters, 300 px.",
)
efficientnet_b4 = named(
    _efficientnet,
    "efficientnet_b4",
    "EfficientNet-B4 (arXiv 1905.11946), 19,341,616 parameters, 380 px.",
)
efficientnet_b5 = named(
    _efficientnet,
    "efficientnet_b5",
    "EfficientNet-B5 (arXiv 1905.11946), 30,389,784 parameters, 456 px.",
)
efficientnet_b6 = named(
    _efficientnet,
    "efficientnet_b6",
    "EfficientNet-B6 (arXiv 1905.11946), 43,040,704 parameters, 528 px.",
)
efficientnet_b7 = named(
    _efficientnet,
    "efficientnet_b7",
    "EfficientNet-B7 (arXiv 1905.11946), 66,347,960 parameters, 600 px.",
)
# With the padding of TensorFlow, since only so are there published weights.
efficientnetv2_s = named(
    _efficientnet,
    "tf_efficientnetv2_s",
    "EfficientNetV2-S (arXiv 2104.00298), 21,458,488 parameters.",
)
efficientnet_lite0 = named(
    _efficientnet, "tf_efficientnet_lite0", "EfficientNet-Lite0, 4,652,008 parameters, 224 px."
)
efficientnet_lite1 = named(
    _efficientnet, "tf_efficientnet_lite1", "EfficientNet-Lite1, 5,416,680 parameters, 240 px."
)
efficientnet_lite2 = named(
    _efficientnet, "tf_efficientnet_lite2", "EfficientNet-Lite2, 6,092,072 parameters, 260 px."
)


# Vision transformers -----------------------------------------------------------------------------


def _vit(
    _model: str,
    num_classes: Count,
    in_channels: Count = 3,
    drop_rate: Rate = 0.0,
    drop_path_rate: Rate = 0.0,
    image_size: ImageSize = 224,
) -> nn.Module:
    """From timm; on small data it needs pretrained weights or DeiT's training (arXiv 2012.12877).

    Args:
        num_classes: K.
        in_channels: C.
        drop_rate: dropout before the classifier.
        drop_path_rate: the greatest rate of stochastic depth.
        image_size: of the images; multiples of the side of a patch.
    """
    return timm(_model, num_classes, in_channels, drop_rate, drop_path_rate, image_size)


vit_ti_16 = named(
    _vit, "vit_tiny_patch16_224", "ViT-Ti/16 (arXiv 2010.11929), 5,717,416 parameters."
)
vit_s_16 = named(
    _vit, "vit_small_patch16_224", "ViT-S/16 (arXiv 2010.11929), 22,050,664 parameters."
)
vit_b_16 = named(
    _vit, "vit_base_patch16_224", "ViT-B/16 (arXiv 2010.11929), 86,567,656 parameters."
)
vit_b_32 = named(
    _vit, "vit_base_patch32_224", "ViT-B/32 (arXiv 2010.11929), 88,224,232 parameters."
)
vit_l_16 = named(
    _vit, "vit_large_patch16_224", "ViT-L/16 (arXiv 2010.11929), 304,326,632 parameters."
)


# Small ones --------------------------------------------------------------------------------------

test_resnet = named(_resnet, "test_resnet", "timm's tiny ResNet for tests, 0.5 M parameters.")
test_efficientnet = named(
    _efficientnet, "test_efficientnet", "timm's tiny EfficientNet for tests, 0.4 M parameters."
)
test_vit = named(_vit, "test_vit", "timm's tiny ViT for tests, 0.4 M parameters.")


def convnet(num_classes: Count, in_channels: Count = 3, drop_rate: Rate = 0.2) -> nn.Module:
    """A small fast network for small images, 41,338 parameters for 10 classes of grey ones.

    Args:
        num_classes: K.
        in_channels: C; images of 12 pixels or more.
        drop_rate: dropout before the classifier.
    """
    return ConvNet(num_classes, in_channels, drop_rate)
