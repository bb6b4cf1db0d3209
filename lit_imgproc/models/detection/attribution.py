"""What an explanation of a detection differentiates."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from lit_imgproc.models.objects import Detections
from lit_imgproc.models.targets import Box, Target

ALL = 1_000_000
"""More detections than any network makes of an image."""


@dataclass(frozen=True)
class BoxTarget(Target):
    """An object that an explanation is asked for.

    Attributes:
        label: Its class, an index of the class names.
        box: xyxy, in pixels of the images that are explained.
    """

    box: Sequence[float]


def object_target(
    found: Detections, label: int | None = None, box: Box | None = None
) -> BoxTarget | None:
    """What there is to explain of one image: None where nothing is found.

    Args:
        found: In the image, best first.
        label: The class; None takes any.
        box: Where, xyxy in pixels of the image; None takes the object that is surest.
    """
    labels, boxes = found["labels"], found["boxes"]
    if box is not None and label is not None:
        return BoxTarget(label, box)
    if box is not None:
        overlap = box_iou(boxes, boxes.new_tensor([box]))[:, 0]
        there = bool((overlap > 0).any())
        return BoxTarget(int(labels[overlap.argmax()]), box) if there else None
    for k, corners in zip(labels.tolist(), boxes.tolist(), strict=True):
        if label in (None, k):
            return BoxTarget(k, corners)
    return None


def matched_score(
    network: nn.Module,
    look: Callable[[list[Tensor]], list[Detections]],
    target: BoxTarget | Sequence[BoxTarget] | None = None,
) -> Callable[[Tensor], Tensor]:
    """A function from images ``[B, C, H, W]`` to the score of one object in each ``[B]``.

    The score is the similarity of D-RISE (arXiv 2006.03204) with a class that is sure: over all
    boxes that are found, the greatest product of the class's probability and the IoU with the box
    asked for. It can be differentiated, the place of the found box included, and is 0 with a
    gradient of 0 where nothing of the class touches the box. So that it falls gradually and does
    not vanish where an object is hardly seen, boxes of any score are looked at, and all of them;
    masks are not made.

    Args:
        network: A detector of torchvision or one like them, in eval mode.
        look: What it finds in images ``[C, H, W]``, labels from 0.
        target: The same for all images, or one an image; None stands for what the network is most
            sure of, which has an IoU of 1 with itself.
    """

    def score(images: Tensor) -> Tensor:
        with _unfiltered(network):
            found = look(list(images))
        targets = target if isinstance(target, Sequence) else [target] * len(found)
        return torch.stack([_of_one(*pair) for pair in zip(found, targets, strict=True)])

    return score


def _of_one(found: Detections, target: BoxTarget | None) -> Tensor:
    scores = found["scores"]
    if target is None:
        # The sum of nothing is 0 and still hangs on the network, as a gradient needs it.
        return scores.max() if len(scores) else scores.sum()
    box = torch.tensor([target.box], dtype=scores.dtype, device=scores.device)
    boxes = found["boxes"]
    overlap = torch.where(found["labels"] == target.label, box_iou(boxes.detach(), box)[:, 0], 0)
    worth = (scores.detach() * overlap).nan_to_num()  # nan: of boxes without any area
    if not worth.any():
        return scores.sum() * 0
    best = worth.argmax()
    # Of this box alone: a gradient of 0 times that of a box without any area would be nan.
    similarity: Tensor = scores[best] * box_iou(boxes[best][None], box)[0, 0]
    return similarity


@contextmanager
def _unfiltered(network: nn.Module) -> Iterator[None]:
    """Let boxes of any score through, as many as there are, and make no masks of them."""
    heads: Any = getattr(network, "roi_heads", network)
    changed: dict[str, Any] = {"score_thresh": 0.0, "detections_per_img": ALL}
    if hasattr(heads, "mask_roi_pool"):
        changed["mask_roi_pool"] = None
    before = {name: getattr(heads, name) for name in changed}
    try:
        for name, value in changed.items():
            setattr(heads, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(heads, name, value)
