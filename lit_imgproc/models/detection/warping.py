"""Regions as images of one size, with something of what is around them (arXiv 1311.2524)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def warp(image: Tensor, boxes: Tensor, size: int, context: int) -> Tensor:
    """Warp boxes to squares, whatever their aspect ratio: appendix A of R-CNN (arXiv 1311.2524).

    A box is first made larger, so that ``context`` pixels on each side of the square are of what
    is around it. Where that is beyond the image the square is 0, which of a normalized image is
    the mean.

    Args:
        image: float ``[C, H, W]``.
        boxes: float ``[P, 4]``, xyxy in pixels of the image, at least a pixel either way.
        size: S, of the squares, in pixels.
        context: of S, on each side; less than half of it.

    Returns:
        Squares ``[P, C, S, S]``, interpolated bilinearly.
    """
    height, width = image.shape[-2:]
    # Where the centres of the square's pixels lie, from 0 to 1 over the box itself.
    centres = torch.arange(size, device=image.device, dtype=torch.float32) + 0.5
    along = (centres - context) / (size - 2 * context)
    sides = boxes[:, 2:] - boxes[:, :2]
    x = boxes[:, 0:1] + along * sides[:, 0:1]  # [P, S]
    y = boxes[:, 1:2] + along * sides[:, 1:2]
    inside_x, inside_y = (x >= 0) & (x <= width), (y >= 0) & (y <= height)
    across = (2 * x / width - 1)[:, None, :].expand(-1, size, -1)
    down = (2 * y / height - 1)[:, :, None].expand(-1, -1, size)
    squares = F.grid_sample(
        image.float().expand(len(boxes), -1, -1, -1),
        torch.stack([across, down], -1),
        padding_mode="border",
        align_corners=False,
    )
    return squares * (inside_y[:, :, None] & inside_x[:, None, :])[:, None]
