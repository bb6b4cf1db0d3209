"""Losses of segmentation, and their weighted sum.

They are written here because those of segmentation_models_pytorch 0.6.0, measured, do other things:

- its Dice and Tversky losses are means over all classes, where those that are not in the batch
  count 0: with 3 of the 21 classes of PASCAL VOC in a batch, such a loss is at most 1/7, and its
  weight against cross-entropy changes from batch to batch;
- its focal loss asks a sigmoid for each class, while the classes here share a softmax, and is NaN
  where every pixel is ignored;
- its Lovász loss is no scalar where every pixel is ignored, refuses a single class, and waits for
  the GPU once a class;
- none of them takes a weight for each pixel.

All take logits ``[B, K, *S]`` of images or volumes and masks int64 ``[B, *S]`` in which 255 is
ignored, compute in float32 at least, and are 0, with gradients of 0, where nothing is asked.
"""

from collections.abc import Mapping
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_imgproc.errors import UserError
from lit_imgproc.models.segmentation.batch import IGNORE

LossName = Literal["cross_entropy", "dice", "focal", "tversky", "lovasz"]


class SegmentationLoss(nn.Module):
    """A weighted sum of losses.

    - ``cross_entropy``: of each pixel; its mean.
    - ``focal``: cross-entropy times ``(1 - p) ** focal_gamma``, with p the probability of the true
      class, so that what is right already counts less (arXiv 1708.02002); its mean.
    - ``dice``: 1 - 2 TP / (2 TP + FP + FN), of sums of probabilities (arXiv 1606.04797).
    - ``tversky``: 1 - TP / (TP + alpha FP + beta FN), which with a beta above alpha asks for what
      is missed more than for what is too much (arXiv 1706.05721).
    - ``lovasz``: the Lovász extension of 1 - IoU, which is convex in the errors and equal to
      1 - IoU where probabilities are 0 and 1 (arXiv 1705.08790).

    The last three compare regions. They are taken of each class over the whole batch of a process,
    and averaged over the classes that are in its masks, the background among them: of a class that
    is not there, a score of a region says nothing. V-Net squares the probabilities in Dice's
    denominator; here they are not, as in nnU-Net (arXiv 1809.10486).

    The first two are weighted means: each pixel counts by the class weight of its class times its
    own weight, and the sum is divided by the sum of these weights over the pixels that are not
    ignored, as torch does with class weights. So the size of the loss, and the learning rate that
    fits it, depend neither on how many pixels are labelled nor on the scale of the weights: weights
    of one everywhere are the same as none. U-Net (arXiv 1505.04597) adds up instead. The regions
    take no weights: each class counts the same in them, however small it is.

    Args:
        parts: name of a loss -> its weight in the sum, above 0.
        class_weights: float32 ``[K]``, of cross-entropy and focal loss; None is 1 for each.
        focal_gamma: 0 makes the focal loss cross-entropy.
        tversky_alpha: what a false positive counts, above 0.
        tversky_beta: what a false negative counts, above 0; with both at 0.5 it is Dice.

    Raises:
        UserError: there are no parts, one is unknown, or its weight is not above 0.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        parts: Mapping[LossName, float],
        class_weights: Tensor | None = None,
        focal_gamma: float = 2.0,
        tversky_alpha: float = 0.3,
        tversky_beta: float = 0.7,
    ) -> None:
        super().__init__()
        allowed = get_args(LossName)
        wrong = [
            f"loss.{name}: {weight} is not a weight; give a number above 0, or leave the part out."
            if name in allowed
            else f"loss.{name}: there is no such part; allowed: {', '.join(allowed)}."
            for name, weight in parts.items()
            if name not in allowed or not 0 < weight < float("inf")
        ]
        if not parts:
            wrong = [f"loss: has no parts; give at least one of {', '.join(allowed)}."]
        if wrong:
            raise UserError("\n".join(wrong))
        self.weights = dict(parts)
        self.focal_gamma = focal_gamma
        self.tversky_alpha, self.tversky_beta = tversky_alpha, tversky_beta
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, logits: Tensor, mask: Tensor, weight: Tensor | None = None) -> Tensor:
        """The sum of the parts; for the arguments see :meth:`parts`."""
        return torch.stack(list(self.parts(logits, mask, weight).values())).sum()

    def parts(
        self, logits: Tensor, mask: Tensor, weight: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Each part, times its weight.

        Args:
            logits: ``[B, K, *S]``.
            mask: int64 ``[B, *S]`` of classes, or 255.
            weight: float32 ``[B, *S]``, at least 0: how much each pixel counts in cross-entropy
                and focal loss.
        """
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        values: dict[str, Tensor] = {}
        for name, share in self.weights.items():
            if name in ("cross_entropy", "focal"):
                gamma = self.focal_gamma if name == "focal" else 0.0
                value = _pixel_loss(logits, mask, weight, self.class_weights, gamma)
            elif name == "lovasz":
                value = _lovasz(logits, mask)
            elif name == "dice":
                value = _tversky(logits, mask, 0.5, 0.5)
            else:
                value = _tversky(logits, mask, self.tversky_alpha, self.tversky_beta)
            values[name] = share * value
        return values


def _pixel_loss(
    logits: Tensor,
    mask: Tensor,
    weight: Tensor | None,
    class_weights: Tensor | None,
    gamma: float,
) -> Tensor:
    """Focal loss, or with a gamma of 0 cross-entropy: its weighted mean."""
    # Unreduced, which is 0 at ignored pixels: torch's own mean is NaN where all are ignored, and on
    # GPUs adds up in an order that changes from run to run.
    losses = F.cross_entropy(logits, mask, ignore_index=IGNORE, reduction="none")
    if gamma:
        # Away from 0, where the derivative of a power below 1 is infinite.
        wrong = -torch.expm1(-losses)
        losses = losses * wrong.clamp(min=torch.finfo(wrong.dtype).eps) ** gamma
    counted = mask != IGNORE
    weights = counted.to(losses.dtype)
    if class_weights is not None:
        weights = weights * class_weights.to(losses.dtype)[mask.where(counted, 0)]
    if weight is not None:
        weights = weights * weight
    total = weights.sum()
    return (losses * weights).sum() / total.where(total > 0, 1)


def _tversky(logits: Tensor, mask: Tensor, alpha: float, beta: float) -> Tensor:
    """1 less the mean Tversky index of the classes that are there."""
    classes = logits.shape[1]
    space = [0, *range(2, logits.ndim)]
    mask = mask.unsqueeze(1)
    numbers = torch.arange(classes, device=mask.device).view(1, -1, *[1] * (mask.ndim - 2))
    truth = mask == numbers
    probabilities = logits.softmax(1) * (mask != IGNORE)
    right = (probabilities * truth).sum(space)
    too_much = probabilities.sum(space) - right
    size = truth.sum(space)
    missed = size - right
    there = size > 0
    index = right / (right + alpha * too_much + beta * missed).where(there, 1)
    return ((1 - index) * there).sum() / there.sum().clamp(min=1)


def _lovasz(logits: Tensor, mask: Tensor) -> Tensor:
    """The mean Lovász extension of 1 - IoU of the classes that are there."""
    counted = mask != IGNORE
    probabilities = logits.softmax(1).movedim(1, -1)[counted]
    truth = mask[counted]
    # Which classes are there is asked once, so that only their errors need be sorted.
    sizes = torch.bincount(truth, minlength=logits.shape[1]).tolist()
    losses = [
        _lovasz_of_class(probabilities[:, number], truth == number, size)
        for number, size in enumerate(sizes)
        if size
    ]
    return torch.stack(losses).mean() if losses else logits.sum() * 0


def _lovasz_of_class(probability: Tensor, truth: Tensor, size: int) -> Tensor:
    """The Lovász extension for one class.

    Errors are taken one after the other, the largest first, and each counts by how much 1 - IoU
    grows as its pixel becomes wrong too. This growth is computed as such, not as a difference of
    two IoUs: among a million pixels these differ in the last digits of float32 only.

    Args:
        probability: ``[P]``, of the class at the counted pixels.
        truth: bool ``[P]``.
        size: how many are true, at least 1.
    """
    errors, order = (truth.to(probability.dtype) - probability).abs().sort(descending=True)
    truth = truth[order]
    # Whole numbers: exact at any number of pixels, and deterministic on GPUs.
    missed = truth.cumsum(0)
    union = size + torch.arange(1, len(truth) + 1, device=truth.device) - missed
    # A true pixel leaves the intersection; any other joins the union, which was one less before.
    growth = torch.where(
        truth,
        1 / union.to(errors.dtype),
        (size - missed) / (union.to(errors.dtype) * (union - 1).clamp(min=1)),
    )
    return (errors * growth).sum()  # a dot product would be half precision under autocast
