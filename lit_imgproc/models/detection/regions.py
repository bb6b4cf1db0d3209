"""Regions of an image that may hold an object: which object it is, and which are learned from."""

import torch
from torch import Tensor
from torchvision.ops import box_iou, clip_boxes_to_image


def usable(boxes: Tensor, height: int, width: int) -> Tensor:
    """The parts of boxes that lie in an image, without those of less than a pixel either way.

    Args:
        boxes: ``[P, 4]``, xyxy.
        height: of the image.
        width: of the image.
    """
    inside: Tensor = clip_boxes_to_image(boxes.float(), (height, width))
    return inside[((inside[:, 2:] - inside[:, :2]) >= 1).all(1)]


def match(regions: Tensor, objects: Tensor) -> tuple[Tensor, Tensor]:
    """The object that each region overlaps most.

    Args:
        regions: ``[P, 4]``, xyxy.
        objects: ``[N, 4]``, xyxy; there may be none.

    Returns:
        The IoU with it ``[P]`` and its index ``[P]``; both 0 where there are no objects.
    """
    if not len(objects):
        nothing = torch.zeros(len(regions), device=regions.device)
        return nothing, nothing.long()
    best = box_iou(regions, objects).max(1)
    return best.values, best.indices


def draw(
    overlap: Tensor, count: int, share: float, foreground: float, background: float
) -> tuple[Tensor, Tensor]:
    """Draw regions to learn from, objects and background, without replacement.

    Args:
        overlap: ``[P]``, the IoU of each region with the object it overlaps most.
        count: how many in all, at most.
        share: of objects among them; where there are fewer, background stands in.
        foreground: the IoU from which a region is its object, and below which it is background.
        background: the IoU from which it is; what overlaps less is not drawn.

    Returns:
        The indices of the objects, and those of the background.
    """
    objects = torch.where(overlap >= foreground)[0]
    rest = torch.where((overlap < foreground) & (overlap >= background))[0]
    objects = _some(objects, round(count * share))
    return objects, _some(rest, count - len(objects))


def _some(indices: Tensor, count: int) -> Tensor:
    return indices[torch.randperm(len(indices), device=indices.device)[:count]]
