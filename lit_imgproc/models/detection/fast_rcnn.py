"""Fast R-CNN: one pass of the trunk an image, and a vector of each proposed region (1504.08083)."""

from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Len, Lt
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import RoIPool, batched_nms, clip_boxes_to_image

from lit_imgproc.errors import UserError
from lit_imgproc.models.backbones import State
from lit_imgproc.models.detection.networks import Count, Padding, Share, finish
from lit_imgproc.models.detection.regions import draw, match, usable
from lit_imgproc.models.pyramid import FeaturePyramid, Stride

Rate = Annotated[float, Ge(0), Lt(1)]
Ranks = Annotated[list[Count], Len(2, 2)]
Target = dict[str, Tensor]

POOLED = 7
"""Cells a side that each region is pooled to."""
BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
"""One over the usual deviation of the four numbers that move a region onto its object."""


class FastRCNN(nn.Module):
    """Fast R-CNN (arXiv 1504.08083) on proposals that the data bring: set ``data.proposals``.

    The paper's is ``vgg16`` at stride 16, which is its last convolution, frozen to stride 2.

    Called with ``images``, a list of float ``[C, h, w]``; ``targets``, torchvision's, with labels
    from 1; and ``proposals``, a list of float ``[P, 4]``, xyxy in pixels of the images, best first.
    In training it gives ``loss_classifier`` and ``loss_box_reg``, in evaluation torchvision's
    dicts.

    Args:
        trunk: timm's name of it.
        num_classes: K.
        in_channels: C.
        stride: of the trunk's level that regions are cut from.
        head_channels: of the two fully connected layers over each region.
        drop_rate: dropout after each of them.
        frozen_to: the trunk stays as it is up to its level of this stride.
        frozen_norms: batch norms of the trunk keep their statistics, scales and shifts.
        max_proposals: that are looked at in an image.
        regions_per_image: regions that are learned from.
        foreground_share: of objects among them.
        foreground_iou: the IoU with an object from which a region is learned as it.
        background_iou: the IoU with an object from which a region is learned as background: 0 for
            all that are no objects. With more, images without objects teach nothing.
        svd_ranks: singular values that evaluation keeps of the two fully connected layers, such as
            the paper's 1024 and 256, which is faster and a little less accurate.
        box_score_thresh: the least score of a detection.
        box_nms_thresh: detections of a class that overlap more are of the same object.
        box_detections_per_img: detections an image, at most.

    Raises:
        UserError: timm has no such trunk, it has no such level, or a rank is more than a layer has.
    """

    takes_proposals: ClassVar[bool] = True
    transform: Padding

    def __init__(
        self,
        trunk: str,
        num_classes: Count,
        in_channels: Count = 3,
        stride: Stride = 16,
        head_channels: Count = 4096,
        drop_rate: Rate = 0.5,
        frozen_to: Stride | None = None,
        frozen_norms: bool = False,
        max_proposals: Count = 2000,
        regions_per_image: Count = 64,
        foreground_share: Share = 0.25,
        foreground_iou: Annotated[float, Gt(0), Lt(1)] = 0.5,
        background_iou: Share = 0.1,
        svd_ranks: Ranks | None = None,
        box_score_thresh: Share = 0.05,
        box_nms_thresh: Share = 0.3,
        box_detections_per_img: Count = 100,
    ) -> None:
        super().__init__()
        self.backbone = FeaturePyramid(trunk, in_channels, [stride], None, "pool")
        self.roi_pool = RoIPool(POOLED, 1 / stride)
        self.fc6 = nn.Linear(self.backbone.out_channels * POOLED**2, head_channels)
        self.fc7 = nn.Linear(head_channels, head_channels)
        self.drop = nn.Dropout(drop_rate)
        self.cls_score = nn.Linear(head_channels, num_classes + 1)
        self.bbox_pred = nn.Linear(head_channels, 4 * (num_classes + 1))
        for layer, deviation in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=deviation)
            nn.init.zeros_(layer.bias)
        self.box_coder = BoxCoder(BOX_WEIGHTS)
        self.max_proposals = max_proposals
        self.regions_per_image = regions_per_image
        self.foreground_share = foreground_share
        self.foreground_iou = foreground_iou
        self.background_iou = background_iou
        self.score_thresh = box_score_thresh
        self.nms_thresh = box_nms_thresh
        self.detections_per_img = box_detections_per_img
        self.svd_ranks = svd_ranks
        for layer, rank in zip((self.fc6, self.fc7), svd_ranks or (), strict=False):
            if rank > min(layer.weight.shape):
                shape = "x".join(map(str, layer.weight.shape))
                raise UserError(f"svd_ranks: {rank} is more than a layer of {shape} has")
        self._compressed: tuple[object, tuple[nn.Module, nn.Module]] | None = None
        finish(self, self.backbone, frozen_to, frozen_norms)

    def take_from_classifier(self, state: State) -> None:
        """Let the fully connected layers start from those of timm's VGG, where it is the trunk."""
        for layer, name in ((self.fc6, "pre_logits.fc1"), (self.fc7, "pre_logits.fc2")):
            weight = state.get(f"{name}.weight")  # of a convolution as large as its input
            if weight is not None and weight.numel() == layer.weight.numel():
                with torch.no_grad():
                    layer.weight.copy_(weight.flatten(1))
                    layer.bias.copy_(state[f"{name}.bias"])

    def forward(
        self,
        images: list[Tensor],
        targets: list[Target] | None = None,
        proposals: list[Tensor] | None = None,
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training, what was found in evaluation: see the class."""
        assert proposals is not None
        padded, _ = self.transform(images)
        (features,) = self.backbone(padded.tensors).values()
        regions = [
            usable(boxes[: self.max_proposals], *size)
            for boxes, size in zip(proposals, padded.image_sizes, strict=True)
        ]
        if self.training:
            assert targets is not None
            drawn = [self.sample(*pair) for pair in zip(regions, targets, strict=True)]
            regions, labels, codes = (list(part) for part in zip(*drawn, strict=True))
            logits, moves = self.heads(features, regions)
            return losses(logits, moves, torch.cat(labels), torch.cat(codes))
        logits, moves = self.heads(features, regions)
        counts = [len(boxes) for boxes in regions]
        each = zip(
            logits.split_with_sizes(counts),
            moves.split_with_sizes(counts),
            regions,
            padded.image_sizes,
            strict=True,
        )
        return [self.detect(*one) for one in each]

    def sample(self, regions: Tensor, target: Target) -> tuple[Tensor, Tensor, Tensor]:
        """Draw what is learned from in one image, of its regions and its objects themselves.

        Returns:
            Regions ``[R, 4]``, objects first; their labels ``[R]``, 0 for background; and what
            moves each onto its object ``[R, 4]``, which means nothing for background.
        """
        objects = target["boxes"].float()
        regions = torch.cat([regions, objects])
        overlap, matched = match(regions, objects)
        found, background = draw(
            overlap,
            self.regions_per_image,
            self.foreground_share,
            self.foreground_iou,
            self.background_iou,
        )
        chosen = torch.cat([found, background])
        labels = torch.zeros(len(chosen), dtype=torch.int64, device=regions.device)
        labels[: len(found)] = target["labels"][matched[found]]
        regions = regions[chosen]
        aims = objects[matched[chosen]] if len(objects) else regions
        return regions, labels, self.box_coder.encode_single(aims, regions)

    def heads(self, features: Tensor, regions: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits ``[R, K + 1]`` and moves ``[R, K + 1, 4]`` of the regions of all images."""
        vectors = self.roi_pool(features, regions).flatten(1)
        for layer in self.fully_connected():
            vectors = self.drop(F.relu(layer(vectors)))
        return self.cls_score(vectors), self.bbox_pred(vectors).unflatten(1, (-1, 4))

    def detect(
        self, logits: Tensor, moves: Tensor, regions: Tensor, size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """What was found in one image, by torchvision's names, best first."""
        scores = logits.float().softmax(1)
        boxes = self.box_coder.decode_single(moves.float().flatten(1), regions)
        boxes = boxes.reshape(*scores.shape, 4)
        return best_of_each_class(
            clip_boxes_to_image(boxes[:, 1:], size),
            scores[:, 1:],
            self.score_thresh,
            self.nms_thresh,
            self.detections_per_img,
        )

    def fully_connected(self) -> tuple[nn.Module, nn.Module]:
        """The two layers over each region; in evaluation, compressed where that is asked for."""
        if self.training or self.svd_ranks is None:
            return self.fc6, self.fc7
        weights = self.fc6.weight, self.fc7.weight
        state = [(weight._version, weight.device, weight.dtype) for weight in weights]
        if self._compressed is None or self._compressed[0] != state:
            first, second = self.svd_ranks
            with torch.inference_mode(False):  # an explanation may differentiate it later
                layers = truncated_svd(self.fc6, first), truncated_svd(self.fc7, second)
            self._compressed = state, layers
        return self._compressed[1]


def losses(logits: Tensor, moves: Tensor, labels: Tensor, codes: Tensor) -> dict[str, Tensor]:
    """The multi-task loss of arXiv 1504.08083, both parts a mean over all regions.

    Args:
        logits: ``[R, K + 1]``.
        moves: ``[R, K + 1, 4]``.
        labels: int64 ``[R]``, 0 for background.
        codes: ``[R, 4]``, the moves that are right.

    Returns:
        ``loss_classifier``, cross-entropy, and ``loss_box_reg``, smooth L1 of the moves of the
        right class, of objects alone. Both are 0 where there are no regions.
    """
    count = max(1, len(labels))
    objects = torch.where(labels > 0)[0]
    distance = F.smooth_l1_loss(moves[objects, labels[objects]], codes[objects], reduction="sum")
    return {
        "loss_classifier": F.cross_entropy(logits, labels, reduction="sum") / count,
        "loss_box_reg": distance / count,
    }


def best_of_each_class(
    boxes: Tensor, scores: Tensor, score_thresh: float, nms_thresh: float, most: int
) -> dict[str, Tensor]:
    """Detections of one image: enough of a score, and none that another of its class overlaps.

    Args:
        boxes: ``[P, K, 4]``, where each class sees the object of a region.
        scores: ``[P, K]``.
        score_thresh: the least score.
        nms_thresh: the greatest IoU of two detections of a class.
        most: detections, of all classes.

    Returns:
        ``boxes`` ``[N, 4]``, ``labels`` ``[N]`` from 1 and ``scores`` ``[N]``, best first.
    """
    regions, labels = torch.where(scores > score_thresh)
    boxes, scores = boxes[regions, labels], scores[regions, labels]
    kept = batched_nms(boxes, scores, labels, nms_thresh)[:most]
    return {"boxes": boxes[kept], "labels": labels[kept] + 1, "scores": scores[kept]}


def truncated_svd(linear: nn.Linear, rank: int) -> nn.Sequential:
    """A layer as two smaller ones, with the greatest singular values of its weight.

    With all of them it is the same layer. With ``rank`` of them, of n inputs and m outputs, it
    takes ``rank * (n + m)`` multiplications and not ``n * m``, and its weight differs by the
    greatest singular value that was left out, in the spectral norm.

    Args:
        linear: the layer, ``[m, n]``.
        rank: how many singular values are kept.
    """
    u, s, v = torch.linalg.svd(linear.weight.detach().float(), full_matrices=False)
    weight = linear.weight
    first = nn.Linear(linear.in_features, rank, bias=False, device=weight.device)
    second = nn.Linear(rank, linear.out_features, linear.bias is not None, device=weight.device)
    with torch.no_grad():
        first.weight.copy_(s[:rank, None] * v[:rank])
        second.weight.copy_(u[:, :rank])
        if linear.bias is not None:
            second.bias.copy_(linear.bias)
    return nn.Sequential(first, second).to(weight.dtype)
