"""Grad-CAM: where in an image the evidence for an answer lies."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_imgproc.errors import UserError


def grad_cam(
    score: Callable[[Tensor], Tensor],
    images: Tensor,
    layer: nn.Module,
    feature_map: Callable[[Tensor], Tensor] = lambda activation: activation,
    *,
    local: bool = False,
) -> Tensor:
    """Weigh the channels of a layer by the mean gradient of a score (arXiv 1610.02391).

    The forward pass up to the layer keeps no graph and the backward pass ends there, so that the
    cost is a forward pass and little more. Parameters get no gradients, and the mode of the network
    is not touched. It may be called under ``torch.inference_mode``.

    Args:
        score: images to one score an image ``[B]``; it must run ``layer`` exactly once.
        images: ``[B, C, H, W]``, as ``score`` takes them.
        layer: whose output is weighed.
        feature_map: lays that output out as ``[B, C, h, w]``; for tokens, drops what is no patch.
        local: weigh each place by its own gradient and not by the mean over all places: HiResCAM
            (arXiv 2011.08891). The mean cannot tell one of several like objects from the others.

    Returns:
        Maps ``[B, H, W]``, zero or above, not scaled: bilinear from the layer's size to the
        images'. Scale them by :func:`unit_range` to look at them.

    Raises:
        UserError: the score does not run the layer.
    """
    seen: list[Tensor] = []

    def cut(module: nn.Module, args: object, output: Tensor) -> Tensor:
        # From here on a graph is wanted; the layer's output becomes its leaf. The clone keeps an
        # in-place activation that follows from overwriting what is weighed.
        torch.set_grad_enabled(True)
        leaf = output.detach().clone().requires_grad_()
        seen.append(leaf)
        return leaf.clone()

    handle = layer.register_forward_hook(cut)
    try:
        with torch.inference_mode(False), torch.no_grad():
            scores = score(images.clone())
            if not seen:
                raise UserError(f"the layer {type(layer).__name__} took no part in the score")
            (gradient,) = torch.autograd.grad(scores.sum(), seen[-1])
    finally:
        handle.remove()
    activation, gradient = feature_map(seen[-1].detach()), feature_map(gradient)
    weights = gradient if local else gradient.mean((2, 3), keepdim=True)
    maps = (weights * activation).sum(1, keepdim=True).relu()
    return F.interpolate(
        maps.float(), size=images.shape[-2:], mode="bilinear", align_corners=False
    ).squeeze(1)


def unit_range(maps: Tensor) -> Tensor:
    """Scale each map ``[B, H, W]`` to [0, 1]; a map without any variation becomes zero."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp(min=torch.finfo(maps.dtype).tiny)
