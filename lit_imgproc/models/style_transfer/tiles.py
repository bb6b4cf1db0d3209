"""Images of any size, tile by tile, without seams."""

from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

Redraw = Callable[[Tensor], Tensor]
"""From images ``[B, C, h, w]`` to images ``[B, 3, h, w]``."""


class Span(NamedTuple):
    """A tile along one side of an image, in pixels.

    Attributes:
        first: where it begins.
        last: where it ends, this pixel excluded; the next one begins here.
        seen: where what a network is shown begins and ends: the tile and what surrounds it.
    """

    first: int
    last: int
    seen: slice


def spans(length: int, tile: int, margin: int) -> list[Span]:
    """Divide a length into tiles, each with a margin on both sides as far as there is one.

    Args:
        length: in pixels.
        tile: of a tile, in pixels; the last one may be shorter.
        margin: in pixels.
    """
    return [
        Span(
            first,
            last := min(first + tile, length),
            slice(max(first - margin, 0), min(last + margin, length)),
        )
        for first in range(0, length, tile)
    ]


def tiled(redraw: Redraw, image: Tensor, *, tile: int, margin: int, blend: int = 0) -> Tensor:
    """Redraw an image tile by tile.

    Where no pixel depends on one further away than ``margin - blend``, the result is that of the
    whole image, if ``tile`` and ``margin`` are multiples of a network's stride. Where some do, the
    difference of neighbouring tiles is spread over the ``2 * blend`` pixels round their seam.

    Beside the image and the result there are ``tile + 2 * margin`` pixels squared in memory, and
    what the network makes of them.

    Args:
        redraw: sees one tile and its margins at a time.
        image: ``[C, H, W]``.
        tile: side of a tile in pixels.
        margin: how far around a tile the network sees.
        blend: half of the width in which neighbours are mixed, at most half a tile.

    Returns:
        ``[3, H, W]``, float32, on the device of the image.
    """
    height, width = image.shape[1:]
    made = torch.zeros(3, height, width, device=image.device)
    for row, column in product(spans(height, tile, margin), spans(width, tile, margin)):
        part = redraw(image[None, :, row.seen, column.seen])[0].float()
        ramps = _ramp(row, blend, height).to(part)[:, None] * _ramp(column, blend, width).to(part)
        made[:, row.seen, column.seen] += part * ramps
    return made


def patches(image: Tensor, side: int, count: int) -> Tensor:
    """About ``count`` patches, evenly spaced over an image.

    Args:
        image: ``[C, H, W]``.
        side: of a patch in pixels, no larger than the image.
        count: at least one is taken.

    Returns:
        ``[N, C, side, side]``.
    """
    height, width = image.shape[1:]
    rows = max(1, min(count, round((count * height / width) ** 0.5)))
    columns = max(1, count // rows)
    places = product(_places(height, side, rows), _places(width, side, columns))
    return torch.stack([image[:, y : y + side, x : x + side] for y, x in places])


def _places(length: int, side: int, count: int) -> list[int]:
    """Where ``count`` patches begin, each in the middle of its share of a length."""
    share = length / count
    return [
        min(max(round((number + 0.5) * share - side / 2), 0), length - side)
        for number in range(count)
    ]


def _ramp(span: Span, blend: int, length: int) -> Tensor:
    """What a tile counts along one side of what was seen; those of all tiles add up to one."""
    at = torch.arange(span.seen.start, span.seen.stop) + 0.5
    counts = torch.ones(len(at))
    for edge, inwards in ((span.first, 1), (span.last, -1)):
        if 0 < edge < length:
            inside = inwards * (at - edge)
            counts *= (inside / (2 * blend) + 0.5).clamp(0, 1) if blend else (inside > 0).float()
    return counts
