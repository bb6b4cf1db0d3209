"""Style transfer by optimisation: the pixels themselves are what is learned."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_imgproc.errors import UserError
from lit_imgproc.models.style_transfer.losses import (
    content_loss,
    gram,
    style_loss,
    total_variation,
)
from lit_imgproc.models.vgg import Filters, VGGFeatures

CONTENT_LAYERS = ("relu4_2",)
STYLE_LAYERS = {f"relu{block}_1": 1.0 for block in range(1, 6)}
"""As Gatys et al. have them, all of one weight."""
LEAST_SIDE = 64
"""In pixels, of the coarsest resolution."""
HISTORY = 20
"""Steps from which L-BFGS knows the curvature."""

Progress = Callable[[int, int], None]
"""Is told how many looks at the picture are done, and about how many there will be."""


@dataclass(frozen=True)
class Stylized:
    """What :func:`gatys` made.

    Attributes:
        image: ``[3, H, W]`` in [0, 1], on the device of the content.
        losses: of each look at the picture, from the coarsest resolution on: ``height``,
            ``content_loss``, ``style_loss``, ``tv`` and their weighted sum ``loss``.
    """

    image: Tensor
    losses: list[dict[str, float]]


@dataclass(frozen=True)
class _Objective:
    """What a picture is to be like, at one resolution."""

    features: VGGFeatures
    target: Mapping[str, Tensor]
    grams: Mapping[str, Tensor]
    style_layers: Mapping[str, float]
    weights: Mapping[str, float]

    def parts(self, picture: Tensor) -> dict[str, Tensor]:
        """Parts of the loss by name, not weighted, and their weighted sum as ``loss``."""
        seen = self.features(picture)
        parts = {
            "content_loss": content_loss(seen, self.target),
            "style_loss": style_loss(seen, self.grams, self.style_layers),
            "tv": total_variation(picture),
        }
        loss = torch.stack([self.weights[name] * value for name, value in parts.items()]).sum()
        return {"loss": loss, **parts}


def gatys(
    content: Tensor,
    style: Tensor,
    *,
    filters: Filters = "vgg16_hed",
    steps: int = 100,
    resolutions: int = 2,
    content_weight: float = 1.0,
    style_weight: float = 10.0,
    tv_weight: float = 0.1,
    content_layers: tuple[str, ...] = CONTENT_LAYERS,
    style_layers: Mapping[str, float] = STYLE_LAYERS,
    init: Literal["content", "noise"] = "content",
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> Stylized:
    """Redraw an image in the style of a picture (Gatys et al., arXiv 1508.06576).

    L-BFGS moves the pixels until VGG, with average pools, sees the content's features in a deep
    layer and the style's Gram matrices in five. A small picture is made first and then made
    larger, each the start of the next (arXiv 1611.07865): strokes that are large against what a
    layer of VGG sees come from there.

    Args:
        content: ``[3, H, W]`` in [0, 1], of any size.
        style: ``[3, h, w]`` in [0, 1], of any size; its strokes come out as large as they are.
        filters: of VGG: see :class:`~lit_imgproc.models.vgg.VGGFeatures`.
        steps: of L-BFGS at each resolution, about one look at the picture each.
        resolutions: how many, each of half the side of the next; none is smaller than
            :data:`LEAST_SIDE` pixels, unless the content is.
        content_weight: of the content's loss.
        style_weight: of the style's loss.
        tv_weight: of the total variation.
        content_layers: whose features are kept.
        style_layers: whose Gram matrices are wanted, and what each counts.
        init: where the pixels start.
        seed: of the noise.
        progress: see :data:`Progress`.

    Raises:
        UserError: layers that VGG does not have, or images too small for them.
    """
    if content.ndim != 3 or style.ndim != 3:
        raise UserError(
            f"one image [3, H, W] of the content and one of the style are needed; these are "
            f"{list(content.shape)} and {list(style.shape)}"
        )
    device = content.device
    features = VGGFeatures(filters, [*content_layers, *style_layers], pooling="average").to(device)
    weights = {"content_loss": content_weight, "style_loss": style_weight, "tv": tv_weight}
    picture, whole = content[None], style[None].to(device)
    if init == "noise":
        generator = torch.Generator().manual_seed(seed)
        picture = torch.rand(picture.shape, generator=generator).to(device)
    sizes = _sizes(content.shape[1], content.shape[2], resolutions)
    losses: list[dict[str, float]] = []
    for height, width in sizes:
        scale = height / content.shape[1]
        strokes = [max(LEAST_SIDE // 4, round(side * scale)) for side in style.shape[1:]]
        with torch.no_grad():
            kept = features(_resized(content[None], (height, width)))
            seen = features(_resized(whole, (strokes[0], strokes[1])))
        objective = _Objective(
            features,
            {name: kept[name] for name in content_layers},
            {name: gram(seen[name])[0] for name in style_layers},
            style_layers,
            weights,
        )
        picture = _resized(picture, (height, width))
        picture = _descend(objective, picture, steps, losses, progress, len(sizes) * steps)
    return Stylized(picture[0], losses)


def _descend(
    objective: _Objective,
    start: Tensor,
    steps: int,
    losses: list[dict[str, float]],
    progress: Progress,
    total: int,
) -> Tensor:
    """Move the pixels of a picture; each look adds its losses to a list."""
    # L-BFGS takes gradients as they lie in memory.
    picture = start.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [picture],
        max_iter=steps,
        max_eval=steps,
        history_size=HISTORY,
        tolerance_grad=0,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def look() -> Tensor:
        optimizer.zero_grad()
        parts = objective.parts(picture)
        torch.autograd.backward(parts["loss"])
        values = {name: float(value.detach()) for name, value in parts.items()}
        losses.append({"height": float(picture.shape[2]), **values})
        progress(len(losses), total)
        return parts["loss"]

    optimizer.step(look)  # type: ignore[no-untyped-call]
    return picture.detach().clamp(0, 1)


def _sizes(height: int, width: int, resolutions: int) -> list[tuple[int, int]]:
    """Heights and widths, coarse to fine."""
    sizes = [(height, width)]
    while len(sizes) < resolutions and min(sizes[0]) >= 2 * LEAST_SIDE:
        half = 2 ** len(sizes)
        sizes.insert(0, (round(height / half), round(width / half)))
    return sizes


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    if images.shape[2:] == size:
        return images
    return F.interpolate(images, size=size, mode="bicubic", antialias=True).clamp(0, 1)
