"""Whole images of any size through a trained network, in bounded memory."""

from collections.abc import Callable
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_imgproc.models.style_transfer.module import STRIDE, AdaIN, Style, StyleTransfer
from lit_imgproc.models.style_transfer.networks import EPS, Statistics, statistics_of
from lit_imgproc.models.style_transfer.tiles import patches, spans, tiled

TILE, MARGIN, BLEND = 512, 96, 16
"""In pixels. Nothing that these networks make of a pixel depends on one further away than 80, but
by statistics of the whole image."""
PATCH, PATCHES = 256, 16
"""Of what the statistics of instance norms are measured, a megapixel in all."""

Tick = Callable[[int, int], None]
"""Is told how many looks at a tile are done, and how many there will be."""


def redraw(
    module: StyleTransfer,
    image: Tensor,
    *,
    tile: int = TILE,
    progress: Tick = lambda done, total: None,
) -> Tensor:
    """Redraw an image in the style that a network knows.

    An image that is larger than a tile is redrawn tile by tile. Instance norms would then see
    other statistics in each tile, which shows as seams; here all tiles have those of patches from
    all over the image, at its own resolution. So a seam cannot be seen, and the whole differs from
    what the network makes of it at once as far as the patches differ from the whole.

    Args:
        module: in eval mode, where it is to compute.
        image: ``[3, H, W]`` in [0, 1].
        tile: side of a tile in pixels, a multiple of 4.
        progress: see :data:`Tick`.

    Returns:
        ``[3, H, W]`` in [0, 1], on the device of the image.
    """
    height, width = image.shape[1:]
    if max(height, width) <= tile + 2 * MARGIN:
        progress(0, 1)
        made: Tensor = module(image[None].to(module.device))[0]
        progress(1, 1)
        return made.to(image).clamp(0, 1)
    look = _counted(
        lambda part: module(part.to(module.device)).to(image.device),
        len(spans(height, tile, MARGIN)) * len(spans(width, tile, MARGIN)),
        progress,
    )
    side = min(PATCH, height, width)
    sample = patches(image, side, PATCHES).to(module.device)
    with statistics_of(module.network, module.normalization(sample)):
        return tiled(look, image, tile=tile, margin=MARGIN, blend=BLEND).clamp(0, 1)


def redraw_as(
    module: AdaIN,
    image: Tensor,
    style: Style,
    *,
    alpha: float = 1.0,
    tile: int = TILE,
    progress: Tick = lambda done, total: None,
) -> Tensor:
    """Redraw an image in any style.

    Of an image that is larger than a tile, all tiles are encoded once for the statistics of the
    whole and once more to be decoded: the result is that of the whole image.

    Args:
        module: in eval mode, where it is to compute.
        image: ``[3, H, W]`` in [0, 1].
        style: of :meth:`AdaIN.style_of`.
        alpha: how strong it is, from 0 to 1.
        tile: side of a tile in pixels, a multiple of 8.
        progress: see :data:`Tick`.

    Returns:
        ``[3, H, W]`` in [0, 1], on the device of the image.
    """
    height, width = image.shape[1:]
    missing = [-side % STRIDE for side in (height, width)]
    padded = F.pad(image[None], [0, missing[1], 0, missing[0]], mode="replicate")[0]
    tiles = len(spans(height, tile, MARGIN)) * len(spans(width, tile, MARGIN))
    encode = _counted(lambda part: module.encode(part.to(module.device)), 2 * tiles, progress)
    own = _statistics(encode, padded, tile)

    def look(part: Tensor) -> Tensor:
        return module.decode(encode(part), style, alpha, own).to(image.device)

    made = tiled(look, padded, tile=tile, margin=MARGIN, blend=BLEND)
    return made[:, :height, :width].clamp(0, 1)


def _statistics(encode: Callable[[Tensor], Tensor], image: Tensor, tile: int) -> Statistics:
    """Those of the features of a whole image, from tile to tile."""
    height, width = image.shape[1:]
    sums = squares = torch.zeros((), dtype=torch.float64)
    for row, column in product(spans(height, tile, MARGIN), spans(width, tile, MARGIN)):
        features = encode(image[None, :, row.seen, column.seen])
        inside = [
            slice((span.first - span.seen.start) // STRIDE, (span.last - span.seen.start) // STRIDE)
            for span in (row, column)
        ]
        own = features[:, :, inside[0], inside[1]].double()
        sums = sums.to(own.device) + own.sum((2, 3), keepdim=True)
        squares = squares.to(own.device) + own.square().sum((2, 3), keepdim=True)
        kind = features.dtype
    count = height * width / STRIDE**2
    mean = sums / count
    variance = (squares / count - mean.square()).clamp_min(0)
    return Statistics(mean.to(kind), (variance + EPS).sqrt().to(kind))


def _counted(
    look: Callable[[Tensor], Tensor], total: int, progress: Tick
) -> Callable[[Tensor], Tensor]:
    """The same function, which tells how often it has been called."""
    done = 0
    progress(0, total)

    def counted(part: Tensor) -> Tensor:
        nonlocal done
        result = look(part)
        done += 1
        progress(done, total)
        return result

    return counted
