"""R-CNN: a CNN looks at each proposed region by itself (arXiv 1311.2524)."""

from collections.abc import Iterable
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_iou, clip_boxes_to_image

from lit_imgproc.errors import UserError
from lit_imgproc.models.backbones import (
    Normalization,
    attribution_layer,
    feature_map,
    first_convs,
    head_modules,
    pretrained_normalization,
)
from lit_imgproc.models.detection.fast_rcnn import Target, best_of_each_class
from lit_imgproc.models.detection.networks import Count, Share
from lit_imgproc.models.detection.rcnn_fit import MOVED_FROM, Fitted, Objects, Study
from lit_imgproc.models.detection.regions import draw, match, usable
from lit_imgproc.models.detection.warping import warp
from lit_imgproc.models.pyramid import freeze_norms
from lit_imgproc.models.weights import load_weights

MAP_SIDE = 6
"""Boxes are moved by a map of at most so many cells a side, which is AlexNet's last pooling."""
AT_ONCE = 128
"""So many regions go through the trunk together."""
NO_WEIGHTS = (1.0, 1.0, 1.0, 1.0)


class RegionCNN(nn.Module):
    """R-CNN (arXiv 1311.2524) with any classifier as its trunk.

    Each region is warped to a square, with some of what is around it. The trunk is trained to tell
    the classes and background apart. Then, by :meth:`fit`, a linear SVM of each class is fitted to
    the vectors before its last layer, and a ridge regression that moves boxes to the map of its
    last convolution. Until then the trunk's own softmax stands in, as in the paper's appendix B.

    Called with ``images``, a list of float ``[C, h, w]``; ``targets``, torchvision's, with labels
    from 1; and ``proposals``, a list of float ``[P, 4]``, xyxy in pixels of the images. In training
    it gives ``loss_classifier``, in evaluation torchvision's dicts; scores of SVMs are the sigmoid
    of the margin.

    Args:
        trunk: a classifier, whose last layer is replaced.
        num_classes: K.
        crop_size: side of the squares, in pixels.
        context: of them, on each side, that are of what is around the region.
        frozen_norms: batch norms of the trunk keep their statistics, scales and shifts.
        max_proposals: that are looked at in an image.
        regions: that a training batch has, of all its images together.
        foreground_share: of them, that are objects.
        foreground_iou: the IoU with an object from which a region is learned as it, and below which
            as background.
        svm_cost: C of the SVMs.
        box_ridge: the strength of the penalty on what moves boxes.
        box_score_thresh: the least score of a detection.
        box_nms_thresh: detections of a class that overlap more are of the same object.
        box_detections_per_img: detections an image, at most.

    Raises:
        UserError: the last layer of the trunk is not linear, or there is more context than square.
    """

    takes_proposals: ClassVar[bool] = True

    def __init__(
        self,
        trunk: nn.Module,
        num_classes: Count,
        crop_size: Count = 227,
        context: Annotated[int, Ge(0)] = 16,
        frozen_norms: bool = False,
        max_proposals: Count = 2000,
        regions: Count = 128,
        foreground_share: Share = 0.25,
        foreground_iou: Annotated[float, Gt(0), Lt(1)] = 0.5,
        svm_cost: Annotated[float, Gt(0)] = 0.001,
        box_ridge: Annotated[float, Gt(0)] = 1000.0,
        box_score_thresh: Share = 0.05,
        box_nms_thresh: Share = 0.3,
        box_detections_per_img: Count = 100,
    ) -> None:
        super().__init__()
        if 2 * context >= crop_size:
            raise UserError(f"context={context} on both sides leaves nothing of {crop_size} pixels")
        self.head, *_ = head_modules(trunk)
        head = trunk.get_submodule(self.head)
        if not isinstance(head, nn.Linear):
            raise UserError(f"the last layer of {type(trunk).__name__} is not linear")
        trunk.set_submodule(self.head, nn.Linear(head.in_features, num_classes + 1))
        layer = attribution_layer(trunk)
        names = {id(module): name for name, module in trunk.named_modules()}
        self.layer = names[id(layer)]
        (first,) = first_convs(trunk)
        channels = trunk.get_parameter(f"{first}.weight").shape[1]
        mean, std = pretrained_normalization(trunk)
        self.pretrained_cfg = {
            "first_conv": f"trunk.{first}",
            "classifier": (f"trunk.{self.head}", "fitted"),
            "attribution_layer": f"trunk.{self.layer}",
            "mean": mean,
            "std": std,
        }
        self.trunk: nn.Module = freeze_norms(trunk) if frozen_norms else trunk
        self.crop_size = crop_size
        self.context = context
        self.max_proposals = max_proposals
        self.regions = regions
        self.foreground_share = foreground_share
        self.foreground_iou = foreground_iou
        self.svm_cost = svm_cost
        self.box_ridge = box_ridge
        self.score_thresh = box_score_thresh
        self.nms_thresh = box_nms_thresh
        self.detections_per_img = box_detections_per_img
        self.num_classes = num_classes
        self.box_coder = BoxCoder(NO_WEIGHTS)
        with torch.no_grad():
            self.trunk.eval()
            _, _, cells = self.look(torch.zeros(1, channels, crop_size, crop_size))
            self.trunk.train()
        self.fitted = Fitted(num_classes, head.in_features, cells.shape[1])

    def load_trunk(self, source: str) -> Normalization | None:
        """Load weights of the classifier; see :func:`lit_imgproc.models.weights.load_weights`."""
        return load_weights(self.trunk, source).normalization

    # The trunk -----------------------------------------------------------------------------------

    def forward(
        self,
        images: list[Tensor],
        targets: list[Target] | None = None,
        proposals: list[Tensor] | None = None,
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """The loss in training, what was found in evaluation: see the class."""
        assert proposals is not None
        regions = [
            usable(boxes[: self.max_proposals], *image.shape[-2:])
            for image, boxes in zip(images, proposals, strict=True)
        ]
        if self.training:
            assert targets is not None
            crops, labels = self.sample(images, regions, targets)
            if not len(crops):
                nothing = torch.stack([p.sum() for p in self.trunk.parameters()]).sum() * 0
                return {"loss_classifier": nothing}
            return {"loss_classifier": F.cross_entropy(self.look(crops)[1], labels)}
        return [self.detect(*pair) for pair in zip(images, regions, strict=True)]

    def sample(
        self, images: list[Tensor], regions: list[Tensor], targets: list[Target]
    ) -> tuple[Tensor, Tensor]:
        """Squares ``[R, C, S, S]`` to learn from, of all images together, and labels ``[R]``.

        Objects themselves are among the regions. Labels are 0 for background.
        """
        regions = [
            torch.cat([own, target["boxes"].float()])
            for own, target in zip(regions, targets, strict=True)
        ]
        matches = [
            match(own, target["boxes"].float())
            for own, target in zip(regions, targets, strict=True)
        ]
        labels = [
            target["labels"][matched] * (overlap >= self.foreground_iou)
            if len(target["labels"])
            else matched
            for (overlap, matched), target in zip(matches, targets, strict=True)
        ]
        overlap = torch.cat([overlap for overlap, _ in matches])
        chosen = torch.cat(
            draw(overlap, self.regions, self.foreground_share, self.foreground_iou, 0.0)
        )
        drawn = torch.zeros(len(overlap), dtype=torch.bool, device=overlap.device)
        drawn[chosen] = True
        parts = drawn.split_with_sizes([len(own) for own in regions])
        crops = [
            self.warp(image, own[part])
            for image, own, part in zip(images, regions, parts, strict=True)
            if part.any()
        ]
        return torch.cat(crops) if crops else images[0][:0], torch.cat(labels)[drawn]

    def warp(self, image: Tensor, boxes: Tensor) -> Tensor:
        """Regions of an image as the trunk sees them."""
        return warp(image, boxes, self.crop_size, self.context)

    def look(self, crops: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Vectors ``[P, D]``, logits ``[P, K + 1]`` and flat maps ``[P, F]`` of squares."""
        seen: dict[str, Tensor] = {}

        def at_head(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen["vectors"], seen["logits"] = inputs[0], output

        def at_layer(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen["maps"] = output

        hooks = [
            self.trunk.get_submodule(self.head).register_forward_hook(at_head),
            self.trunk.get_submodule(self.layer).register_forward_hook(at_layer),
        ]
        try:
            self.trunk(crops)
        finally:
            for hook in hooks:
                hook.remove()
        maps = feature_map(self.trunk, seen["maps"])
        side = [min(MAP_SIDE, length) for length in maps.shape[-2:]]
        return seen["vectors"], seen["logits"], F.adaptive_max_pool2d(maps, side).flatten(1)

    def look_at(self, image: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same of the regions of an image, of any number."""
        pieces = [boxes[first : first + AT_ONCE] for first in range(0, len(boxes), AT_ONCE)]
        parts = [self.look(self.warp(image, piece)) for piece in pieces]
        if not parts:
            widths = (self.fitted.svm_weight.shape[1], self.num_classes + 1)
            empty = [image.new_zeros(0, n) for n in (*widths, self.fitted.box_weight.shape[2])]
            return empty[0], empty[1], empty[2]
        vectors, logits, maps = (torch.cat(some).float() for some in zip(*parts, strict=True))
        return vectors, logits, maps

    def detect(self, image: Tensor, regions: Tensor) -> dict[str, Tensor]:
        """What was found in one image, by torchvision's names, best first."""
        vectors, logits, maps = self.look_at(image, regions)
        fitted, classes = self.fitted, self.num_classes
        if fitted.done:
            scores = F.linear(vectors, fitted.svm_weight, fitted.svm_bias).sigmoid()
            moves = F.linear(maps, fitted.box_weight.flatten(0, 1), fitted.box_bias.flatten())
            boxes = self.box_coder.decode_single(moves, regions).reshape(-1, classes, 4)
            boxes = clip_boxes_to_image(boxes, image.shape[-2:])
        else:
            scores = logits.softmax(1)[:, 1:]
            boxes = regions[:, None].expand(-1, classes, -1)
        return best_of_each_class(
            boxes, scores, self.score_thresh, self.nms_thresh, self.detections_per_img
        )

    # What is fitted to its features --------------------------------------------------------------

    @torch.no_grad()
    def objects(self, image: Tensor, target: Target) -> Objects:
        """Look at the objects of an image, in evaluation mode: see :meth:`Fitted.fit`."""
        vectors, _, _ = self.look_at(image, target["boxes"].float())
        return vectors.half().cpu(), target["labels"].cpu() - 1

    @torch.no_grad()
    def study(self, image: Tensor, proposals: Tensor, target: Target) -> Study:
        """Look at the proposed regions of an image, in evaluation mode: see :meth:`Fitted.fit`."""
        regions = usable(proposals[: self.max_proposals], *image.shape[-2:])
        vectors, _, maps = self.look_at(image, regions)
        objects, labels = target["boxes"].float(), target["labels"] - 1
        overlap = torch.zeros(len(regions), self.num_classes, device=image.device)
        if len(objects):
            which = labels.expand(len(regions), -1)
            overlap = overlap.scatter_reduce(1, which, box_iou(regions, objects), "amax")
        best, matched = match(regions, objects)
        near = torch.where(best >= MOVED_FROM)[0]
        codes = self.box_coder.encode_single(objects[matched[near]], regions[near])
        return Study(
            vectors.half().cpu(),
            overlap.cpu(),
            maps[near].half().cpu(),
            codes.cpu(),
            labels[matched[near]].cpu(),
        )

    def fit(self, objects: Iterable[Objects], proposed: Iterable[Study]) -> dict[str, float]:
        """Fit SVMs and what moves boxes: see :meth:`Fitted.fit`."""
        costs = {"svm_cost": self.svm_cost, "box_ridge": self.box_ridge}
        return self.fitted.fit(objects, proposed, **costs)
