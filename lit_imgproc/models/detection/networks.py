"""Detectors on any trunk of timm.

They are torchvision's modules, with its names of weights, and are called like them:
``network(images, targets)`` gives losses in training and what was found in evaluation. But images
come normalized and scaled already (the module and the datamodule do that), and a network only pads
them to one size. Class 0 is the background, as torchvision has it: a network for K classes has
K + 1. torchvision's own networks are in :mod:`lit_imgproc.models.detection.published`.
"""

from collections.abc import Sequence
from typing import Annotated, Any

from annotated_types import Ge, Gt, Interval, Len
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign
from typing_extensions import override

from lit_imgproc.errors import UserError
from lit_imgproc.models.pyramid import FeaturePyramid, Stride, freeze_norms, freeze_up_to, stage_of

Count = Annotated[int, Ge(1)]
Share = Annotated[float, Interval(ge=0, le=1)]
Strides = Annotated[list[Stride], Len(1)]
AnchorSizes = Annotated[list[Annotated[list[Annotated[float, Gt(0)]], Len(1)]], Len(1)]
Ratios = Annotated[list[Annotated[float, Gt(0)]], Len(1)]

FPN_STRIDES: Strides = [4, 8, 16, 32]
RETINA_STRIDES: Strides = [8, 16, 32]
HALVES: Ratios = [0.5, 1.0, 2.0]

HEADS = {
    "roi_heads.box_predictor.cls_score": 1,
    "roi_heads.box_predictor.bbox_pred": 4,
    "roi_heads.mask_predictor.mask_fcn_logits": 1,
    "head.classification_head.cls_logits": 1,
    "head.classification_head.module_list": 1,
    "cls_score": 1,
    "bbox_pred": 4,
}
"""Layers of detectors that have outputs for each class, and how many."""


class Padding(GeneralizedRCNNTransform):  # type: ignore[misc]  # untyped
    """Pads images to one size, each side a multiple of ``size_divisible``, and does nothing else.

    It stands where torchvision's networks normalize and scale, too.
    """

    def __init__(self, size_divisible: int = 32) -> None:
        super().__init__(1, 1, [], [], size_divisible)

    @override
    def forward(
        self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[ImageList, list[dict[str, Tensor]] | None]:
        sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
        padded = self.batch_images(images, size_divisible=self.size_divisible)
        return ImageList(padded, sizes), targets

    @override
    def __repr__(self) -> str:
        return f"{type(self).__name__}(size_divisible={self.size_divisible})"


def faster_rcnn(
    trunk: str,
    num_classes: Count,
    in_channels: Count = 3,
    strides: Strides = FPN_STRIDES,
    fpn_channels: Count | None = 256,
    head_channels: Count = 1024,
    anchor_sizes: AnchorSizes | None = None,
    aspect_ratios: Ratios = HALVES,
    frozen_to: Stride | None = None,
    frozen_norms: bool = False,
    rpn_post_nms_top_n_train: Count = 2000,
    rpn_post_nms_top_n_test: Count = 1000,
    rpn_batch_size_per_image: Count = 256,
    box_batch_size_per_image: Count = 512,
    box_score_thresh: Share = 0.05,
    box_nms_thresh: Share = 0.5,
    box_detections_per_img: Count = 100,
) -> nn.Module:
    """Faster R-CNN (arXiv 1506.01497) with a feature pyramid (arXiv 1612.03144).

    Args:
        trunk: timm's name of it.
        num_classes: K.
        in_channels: C.
        strides: of the trunk's levels that are taken; the pyramid has one more, twice as coarse.
        fpn_channels: of each level of the pyramid; None takes one level of the trunk as it is, as
            in the paper, where it is that of stride 16 of VGG-16.
        head_channels: of the two fully connected layers over each region.
        anchor_sizes: the square root of the areas of the anchors, in pixels, a list a level of the
            pyramid; None takes eight times its stride. ``lit-imgproc data anchors`` fits them.
        aspect_ratios: height over width of the anchors.
        frozen_to: the trunk stays as it is up to its level of this stride.
        frozen_norms: batch norms of the trunk keep their statistics, scales and shifts, as they
            have to where a batch has few images.
        rpn_post_nms_top_n_train: regions an image that the second stage draws from in training.
        rpn_post_nms_top_n_test: regions an image that the second stage looks at.
        rpn_batch_size_per_image: anchors that the first stage learns from.
        box_batch_size_per_image: regions that the second stage learns from.
        box_score_thresh: the least score of a detection.
        box_nms_thresh: detections of a class that overlap more are of the same object.
        box_detections_per_img: detections an image, at most.
    """
    backbone = FeaturePyramid(trunk, in_channels, strides, fpn_channels, "pool")
    network = _two_stages(
        FasterRCNN,
        backbone,
        num_classes,
        head_channels,
        anchors(anchor_sizes or _usual(backbone), aspect_ratios, backbone.strides),
        (rpn_post_nms_top_n_train, rpn_post_nms_top_n_test),
        rpn_batch_size_per_image=rpn_batch_size_per_image,
        box_batch_size_per_image=box_batch_size_per_image,
        box_score_thresh=box_score_thresh,
        box_nms_thresh=box_nms_thresh,
        box_detections_per_img=box_detections_per_img,
    )
    return finish(network, backbone, frozen_to, frozen_norms)


def mask_rcnn(
    trunk: str,
    num_classes: Count,
    in_channels: Count = 3,
    strides: Strides = FPN_STRIDES,
    fpn_channels: Count = 256,
    head_channels: Count = 1024,
    mask_channels: Count = 256,
    anchor_sizes: AnchorSizes | None = None,
    aspect_ratios: Ratios = HALVES,
    frozen_to: Stride | None = None,
    frozen_norms: bool = False,
    rpn_post_nms_top_n_train: Count = 2000,
    rpn_post_nms_top_n_test: Count = 1000,
    rpn_batch_size_per_image: Count = 256,
    box_batch_size_per_image: Count = 512,
    box_score_thresh: Share = 0.05,
    box_nms_thresh: Share = 0.5,
    box_detections_per_img: Count = 100,
) -> nn.Module:
    """Mask R-CNN (arXiv 1703.06870): Faster R-CNN with a mask of 28x28 for each object.

    Args:
        trunk: timm's name of it.
        num_classes: K.
        in_channels: C.
        strides: see :func:`faster_rcnn`, as for the others.
        fpn_channels: of each level of the pyramid.
        head_channels: of the two fully connected layers over each region.
        mask_channels: of the four convolutions over each object.
        anchor_sizes: of the anchors, in pixels.
        aspect_ratios: of the anchors.
        frozen_to: of the trunk.
        frozen_norms: of the trunk.
        rpn_post_nms_top_n_train: regions an image that the second stage draws from in training.
        rpn_post_nms_top_n_test: regions an image that the second stage looks at.
        rpn_batch_size_per_image: anchors that the first stage learns from.
        box_batch_size_per_image: regions that the second stage learns from; those of them that
            are objects are what masks are learned from.
        box_score_thresh: the least score of a detection.
        box_nms_thresh: detections of a class that overlap more are of the same object.
        box_detections_per_img: detections an image, at most.
    """
    backbone = FeaturePyramid(trunk, in_channels, strides, fpn_channels, "pool")
    network = _two_stages(
        MaskRCNN,
        backbone,
        num_classes,
        head_channels,
        anchors(anchor_sizes or _usual(backbone), aspect_ratios, backbone.strides),
        (rpn_post_nms_top_n_train, rpn_post_nms_top_n_test),
        rpn_batch_size_per_image=rpn_batch_size_per_image,
        box_batch_size_per_image=box_batch_size_per_image,
        box_score_thresh=box_score_thresh,
        box_nms_thresh=box_nms_thresh,
        box_detections_per_img=box_detections_per_img,
        mask_roi_pool=MultiScaleRoIAlign(backbone.names, output_size=14, sampling_ratio=2),
        mask_head=MaskRCNNHeads(fpn_channels, (mask_channels,) * 4, 1),
        mask_predictor=MaskRCNNPredictor(mask_channels, mask_channels, num_classes + 1),
    )
    return finish(network, backbone, frozen_to, frozen_norms)


def retinanet(
    trunk: str,
    num_classes: Count,
    in_channels: Count = 3,
    strides: Strides = RETINA_STRIDES,
    fpn_channels: Count = 256,
    anchor_sizes: AnchorSizes | None = None,
    aspect_ratios: Ratios = HALVES,
    frozen_to: Stride | None = None,
    frozen_norms: bool = False,
    score_thresh: Share = 0.05,
    nms_thresh: Share = 0.5,
    detections_per_img: Count = 300,
) -> nn.Module:
    """RetinaNet (arXiv 1708.02002): one stage, with the focal loss.

    Args:
        trunk: timm's name of it.
        num_classes: K.
        in_channels: C.
        strides: of the trunk's levels that are taken; the pyramid has two more, coarser ones.
        fpn_channels: of each level of the pyramid.
        anchor_sizes: in pixels, a list a level of the pyramid; None takes three, from four times
            its stride on, a third of an octave apart.
        aspect_ratios: height over width of the anchors.
        frozen_to: the trunk stays as it is up to its level of this stride.
        frozen_norms: batch norms of the trunk stay as they are.
        score_thresh: the least score of a detection.
        nms_thresh: detections of a class that overlap more are of the same object.
        detections_per_img: detections an image, at most.
    """
    backbone = FeaturePyramid(trunk, in_channels, strides, fpn_channels, "p6p7")
    thirds = [[4 * stride * 2 ** (k / 3) for k in range(3)] for stride in backbone.strides]
    network = RetinaNet(
        backbone,
        num_classes + 1,
        anchor_generator=anchors(anchor_sizes or thirds, aspect_ratios, backbone.strides),
        score_thresh=score_thresh,
        nms_thresh=nms_thresh,
        detections_per_img=detections_per_img,
    )
    return finish(network, backbone, frozen_to, frozen_norms)


def fcos(
    trunk: str,
    num_classes: Count,
    in_channels: Count = 3,
    strides: Strides = RETINA_STRIDES,
    fpn_channels: Count = 256,
    frozen_to: Stride | None = None,
    frozen_norms: bool = False,
    score_thresh: Share = 0.2,
    nms_thresh: Share = 0.6,
    detections_per_img: Count = 100,
) -> nn.Module:
    """FCOS (arXiv 1904.01355): one stage, without anchors.

    Args:
        trunk: timm's name of it.
        num_classes: K.
        in_channels: C.
        strides: of the trunk's levels that are taken; the pyramid has two more, coarser ones.
        fpn_channels: of each level of the pyramid: 64 or more, a multiple of 32.
        frozen_to: the trunk stays as it is up to its level of this stride.
        frozen_norms: batch norms of the trunk stay as they are.
        score_thresh: the least score of a detection.
        nms_thresh: detections of a class that overlap more are of the same object.
        detections_per_img: detections an image, at most.
    """
    if fpn_channels % 32 or fpn_channels < 64:
        raise UserError(f"fpn_channels={fpn_channels}: FCOS norms them in 32 groups of 2 or more")
    backbone = FeaturePyramid(trunk, in_channels, strides, fpn_channels, "p6p7")
    cells = [[float(stride)] for stride in backbone.strides]
    network = FCOS(
        backbone,
        num_classes + 1,
        anchor_generator=anchors(cells, [1.0], backbone.strides),
        score_thresh=score_thresh,
        nms_thresh=nms_thresh,
        detections_per_img=detections_per_img,
    )
    return finish(network, backbone, frozen_to, frozen_norms)


def _two_stages(
    kind: Any,
    backbone: FeaturePyramid,
    num_classes: int,
    head_channels: int,
    generator: AnchorGenerator,
    regions: tuple[int, int],
    **own: Any,
) -> nn.Module:
    """Torchvision's network of two stages on a pyramid; ``own`` are arguments of its own.

    Before they are rid of doubles, as many ``regions`` of each level are looked at as are left of
    all of them.
    """
    train, test = regions
    made: nn.Module = kind(
        backbone,
        rpn_anchor_generator=generator,
        rpn_pre_nms_top_n_train=train,
        rpn_pre_nms_top_n_test=test,
        rpn_post_nms_top_n_train=train,
        rpn_post_nms_top_n_test=test,
        box_roi_pool=MultiScaleRoIAlign(backbone.names, output_size=7, sampling_ratio=2),
        box_head=TwoMLPHead(backbone.out_channels * 7 * 7, head_channels),
        box_predictor=FastRCNNPredictor(head_channels, num_classes + 1),
        **own,
    )
    return made


def _usual(backbone: FeaturePyramid) -> AnchorSizes:
    return [[8.0 * stride] for stride in backbone.strides]


def anchors(sizes: AnchorSizes, ratios: Ratios, strides: Sequence[int]) -> AnchorGenerator:
    """Anchors of each level of a pyramid.

    Raises:
        UserError: there are not as many lists of sizes as levels, or they are of several lengths.
    """
    if len(sizes) != len(strides) or len({len(level) for level in sizes}) > 1:
        raise UserError(
            f"anchor_sizes {sizes}: one list for each of the {len(strides)} levels, of strides "
            f"{', '.join(map(str, strides))}, all of one length"
        )
    return AnchorGenerator(tuple(map(tuple, sizes)), (tuple(ratios),) * len(sizes))


def describe(network: nn.Module, cfg: dict[str, Any]) -> None:
    """Say what a detector is made of, in timm's terms: see :mod:`lit_imgproc.models.backbones`."""
    modules = dict(network.named_modules())
    heads = tuple(name for name in HEADS if name in modules)
    network.pretrained_cfg = cfg | {"classifier": heads}  # type: ignore[assignment]


def finish(
    network: Any, backbone: FeaturePyramid, frozen_to: Stride | None, frozen_norms: bool
) -> nn.Module:
    """Take scaling and normalizing out, freeze what is to stay, and say what it is made of."""
    network.transform = Padding()
    cfg = backbone.body.pretrained_cfg
    if frozen_norms:
        backbone.body = freeze_norms(backbone.body)
    if frozen_to is not None:
        freeze_up_to(backbone.body, stage_of(backbone.body, frozen_to))
    first = cfg["first_conv"]
    # The finest levels know little of what they see, and the coarsest cannot tell neighbours apart.
    explained = backbone.strides[min(1, len(backbone.names) - 1)]
    described = {
        "trunk": f"{cfg['architecture']}.{cfg['tag']}" if cfg.get("tag") else cfg["architecture"],
        "first_conv": f"backbone.body.{first}",
        "attribution_layer": f"backbone.body.{stage_of(backbone.body, explained)}",
        "mean": cfg["mean"],
        "std": cfg["std"],
    }
    describe(network, described)
    made: nn.Module = network
    return made
