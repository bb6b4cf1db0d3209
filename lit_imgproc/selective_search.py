"""Selective search: boxes that may hold an object, of whatever class, from pixels alone.

Uijlings, van de Sande, Gevers and Smeulders, "Selective Search for Object Recognition", IJCV 104,
2013, https://doi.org/10.1007/s11263-013-0620-5. R-CNN (arXiv:1311.2524) and Fast R-CNN
(arXiv:1504.08083) tell the classes of such boxes.

An image is cut into small regions of like colour (Felzenszwalb and Huttenlocher, IJCV 59, 2004).
Again and again the two neighbours that are most alike become one, until one is left: ``n`` regions
make a tree of ``2n - 1``, and the box around each of these is a proposal. Several trees, of other
colours, other first regions and other similarities, are taken together.

Two things are not the paper's: a large image is searched in a smaller copy, and a box is left out
not only where it equals a better one but where it nearly does. Of 300 boxes an image that finds
more objects; ``benchmarks/selective_search.py`` measures how many.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from lit_imgproc.errors import UserError

Mode = Literal["fast", "single"]
Pixels = NDArray[np.uint8]
Values = NDArray[np.float64]
Numbers = NDArray[np.intp]

MODES: dict[Mode, tuple[tuple[str, ...], tuple[int, ...], tuple[str, ...]]] = {
    "fast": (("HSV", "Lab"), (50, 100), ("CTSF", "TSF")),
    "single": (("HSV",), (100,), ("CTSF",)),
}
"""The paper's: colour spaces, scales and similarities, of which each combination makes a tree.

The scale ``k`` is what Felzenszwalb's ``k`` is, and the pixels of a first region at least.
Similarities are of Colour, Texture, Size and Fill.
"""
SIGMA = 0.8
"""Of the blur before an image is cut into regions."""
COLOUR_BINS, TEXTURE_BINS = 25, 10
"""Of a histogram of one channel."""
DIRECTIONS = 8
LONGER_SIDE = 320
"""Larger images are searched in a copy of this size."""
LEAST_SIDE = 8
"""In pixels. No side of a box is shorter, but where the image's is."""
TWINS = 0.75
"""Of two boxes whose intersection over union is above this, the better one is kept."""
VERSION = 1
"""One more whenever the boxes of an image change, so that those kept on disk are made again."""


@dataclass(frozen=True)
class Regions:
    """Regions of an image.

    Attributes:
        boxes: ``[N,4]``, xyxy in pixels: edges.
        shares: ``[N]``, how much of the image each covers, in (0, 1].
        colours: ``[N,75]``, a histogram of each channel; a row sums up to 1.
        textures: ``[N,240]``, a histogram of each channel's slopes in each of eight directions; a
            row sums up to 1.
    """

    boxes: Values
    shares: Values
    colours: Values
    textures: Values

    def take(self, numbers: Numbers | int) -> Self:
        """Some of the regions, or one without the first axis."""
        return type(self)(
            self.boxes[numbers], self.shares[numbers], self.colours[numbers], self.textures[numbers]
        )

    def put(self, number: int, one: Self) -> None:
        """Write a region, without the first axis, over another."""
        self.boxes[number], self.shares[number] = one.boxes, one.shares
        self.colours[number], self.textures[number] = one.colours, one.textures


def selective_search(image: Pixels, *, mode: Mode = "fast", most: int) -> NDArray[np.float32]:
    """Propose boxes, the likeliest first; always the same ones of an image.

    Their order is the paper's: in each tree a region's rank, counted from the whole image down, is
    multiplied by a random number, and the least products of all trees come first.

    Args:
        image: uint8 ``[H,W,3]`` RGB, or grey as ``[H,W]`` or ``[H,W,1]``.
        mode: ``fast`` takes eight trees, ``single`` one.
        most: So many boxes at most; often there are less.

    Returns:
        float32 ``[P,4]``, xyxy in whole pixels of the image: edges, inside the image.

    Raises:
        UserError: It is no such image.
    """
    import cv2

    if image.ndim == 2:
        image = image[:, :, np.newaxis]
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3) or not image.size:
        raise UserError(
            "Selective search is of uint8 images [H,W], [H,W,1] or [H,W,3]; "
            f"got {image.dtype} of shape {list(image.shape)}."
        )
    height, width = image.shape[:2]
    scale = min(1.0, LONGER_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = np.broadcast_to(image, (height, width, 3))
    if scale < 1:
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    trees = list(_trees(np.ascontiguousarray(image), mode))
    random = np.random.default_rng(0)
    ranks = [random.random(len(tree)) * np.arange(len(tree), 0, -1) for tree in trees]
    boxes = np.concatenate(trees)[np.argsort(np.concatenate(ranks), kind="stable")]
    boxes = np.rint(boxes * ([width / size[0], height / size[1]] * 2))
    large = boxes[:, 2:] - boxes[:, :2] >= np.minimum(LEAST_SIDE, [width, height])
    return without_twins(boxes[large.all(1)], most).astype(np.float32)


def _trees(image: Pixels, mode: Mode) -> Iterator[Values]:
    """The boxes of each tree, the whole image last."""
    import cv2
    from skimage.segmentation import felzenszwalb

    codes = {"HSV": cv2.COLOR_RGB2HSV_FULL, "Lab": cv2.COLOR_RGB2LAB}
    spaces, scales, similarities = MODES[mode]
    for space in spaces:
        converted = np.asarray(cv2.cvtColor(image, codes[space]), np.uint8)
        bins = colour_bins(converted), texture_bins(converted)
        for scale in scales:
            labels = felzenszwalb(converted, scale=scale, sigma=SIGMA, min_size=scale)
            regions, pairs = describe(labels, *bins)
            for terms in similarities:
                yield group(regions, pairs, terms, labels.size)


def colour_bins(image: Pixels) -> Numbers:
    """The bin of each channel's value, int ``[3,H*W]``, from 0 to 24."""
    return image.reshape(-1, 3).T.astype(np.intp) * COLOUR_BINS // 256


def texture_bins(image: Pixels) -> Numbers:
    """The bin of each channel's slope in eight directions, int ``[24,H*W]``, from 0 to 9.

    Slopes are derivatives of a Gaussian of sigma 1. Downhill counts as flat, since it is uphill in
    the opposite direction. The last bin ends at the steepest of the image.
    """
    import cv2

    blurred = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 1)
    across = cv2.Sobel(blurred, cv2.CV_32F, 1, 0, ksize=1).reshape(-1, 3).T
    down = cv2.Sobel(blurred, cv2.CV_32F, 0, 1, ksize=1).reshape(-1, 3).T
    angles = np.arange(DIRECTIONS) * (2 * np.pi / DIRECTIONS)
    slopes = np.concatenate([np.cos(angle) * across + np.sin(angle) * down for angle in angles])
    steepest = float(slopes.max()) or 1.0
    return np.asarray(slopes * (TEXTURE_BINS / steepest), np.intp).clip(0, TEXTURE_BINS - 1)


def describe(labels: Numbers, colours: Numbers, textures: Numbers) -> tuple[Regions, Numbers]:
    """Measure the regions of a segmentation.

    Args:
        labels: ``[H,W]``, the number of each pixel's region, from 0 and without gaps.
        colours: Of :func:`colour_bins`.
        textures: Of :func:`texture_bins`.

    Returns:
        The regions, and which of them touch along an edge of a pixel: ``[E,2]``, each pair once.
    """
    count = int(labels.max()) + 1
    flat = labels.ravel()
    edges = np.empty((count, 4))
    for axis, places in enumerate(np.indices(labels.shape)[::-1]):
        edges[:, axis], edges[:, axis + 2] = np.inf, -np.inf
        np.minimum.at(edges[:, axis], flat, places.ravel())
        np.maximum.at(edges[:, axis + 2], flat, places.ravel() + 1)
    beside = ((labels[:, :-1], labels[:, 1:]), (labels[:-1], labels[1:]))
    pairs = np.concatenate([np.stack([one.ravel(), other.ravel()], 1) for one, other in beside])
    pairs = np.sort(pairs[pairs[:, 0] != pairs[:, 1]], 1)
    pairs = np.stack(np.divmod(np.unique(pairs[:, 0] * count + pairs[:, 1]), count), 1)
    shares = np.bincount(flat) / flat.size
    histograms = [
        _histograms(flat, bins, each, count)
        for bins, each in ((colours, COLOUR_BINS), (textures, TEXTURE_BINS))
    ]
    return Regions(edges, shares, *histograms), pairs


def _histograms(labels: Numbers, bins: Numbers, each: int, count: int) -> Values:
    """Of each region, the histograms of all rows of ``bins`` one after the other."""
    first = labels * each
    rows = [np.bincount(first + row, minlength=count * each).reshape(count, each) for row in bins]
    joined: Values = np.concatenate(rows, 1).astype(np.float64)
    joined /= joined.sum(1, keepdims=True)
    return joined


def similarity(one: Regions, others: Regions, terms: str, area: int) -> Values:
    """How alike two regions are: the sum of what the letters of ``terms`` stand for.

    - ``C``, ``T``: what their histograms of colours, or of textures, have in common.
    - ``S``: 1 less the share of the image that they cover, so that small regions grow first.
    - ``F``: 1 less the share that the box around both has beside them, so that gaps are filled.

    Args:
        one: One region or several.
        others: As many.
        terms: Some of the letters ``CTSF``.
        area: Pixels of the image.
    """
    shares = one.shares + others.shares
    found: Values = np.zeros(np.shape(shares))
    if "C" in terms:
        found += np.minimum(one.colours, others.colours).sum(-1)
    if "T" in terms:
        found += np.minimum(one.textures, others.textures).sum(-1)
    if "S" in terms:
        found += 1 - shares
    if "F" in terms:
        around = _around(one.boxes, others.boxes)
        found += 1 - ((around[..., 2:] - around[..., :2]).prod(-1) / area - shares)
    return found


def _around(one: Values, other: Values) -> Values:
    """The box around two boxes."""
    corners = np.minimum(one[..., :2], other[..., :2]), np.maximum(one[..., 2:], other[..., 2:])
    return np.concatenate(corners, -1)


def _merged(one: Regions, other: Regions) -> Regions:
    shares = one.shares + other.shares
    part, rest = one.shares / shares, other.shares / shares
    return Regions(
        _around(one.boxes, other.boxes),
        shares,
        part * one.colours + rest * other.colours,
        part * one.textures + rest * other.textures,
    )


def group(regions: Regions, pairs: Numbers, terms: str, area: int) -> Values:
    """Merge the two neighbours that are most alike until one region is left.

    Args:
        regions: The ``n`` regions of an image, none of which is without neighbours.
        pairs: Which of them are neighbours, ``[E,2]``.
        terms: What counts as alike; see :func:`similarity`.
        area: Pixels of the image.

    Returns:
        ``[2n-1,4]``: the boxes of the regions, and then of what they became, the whole image last.
    """
    count = len(regions.shares)
    tree = regions.take(np.minimum(np.arange(2 * count - 1), count - 1))  # room for all, copied
    neighbours: list[set[int]] = [set() for _ in range(count)]
    for one, other in pairs.tolist():
        neighbours[one].add(other)
        neighbours[other].add(one)
    alike = similarity(tree.take(pairs[:, 0]), tree.take(pairs[:, 1]), terms, area)
    queue = [(-how, *pair) for how, pair in zip(alike.tolist(), pairs.tolist(), strict=True)]
    heapq.heapify(queue)
    alive = set(range(count))
    for new in range(count, 2 * count - 1):
        while True:  # pairs of what has been merged since stay in the queue
            _, one, other = heapq.heappop(queue)
            if one in alive and other in alive:
                break
        alive -= {one, other}
        alive.add(new)
        tree.put(new, _merged(tree.take(one), tree.take(other)))
        near = neighbours[one] | neighbours[other]
        near -= {one, other}
        neighbours.append(near)
        for neighbour in near:
            neighbours[neighbour] -= {one, other}
            neighbours[neighbour].add(new)
        numbers = sorted(near)
        alike = similarity(tree.take(new), tree.take(np.array(numbers, np.intp)), terms, area)
        for how, neighbour in zip(alike.tolist(), numbers, strict=True):
            heapq.heappush(queue, (-how, neighbour, new))
    return tree.boxes


def without_twins(boxes: Values, most: int) -> Values:
    """The first ``most`` boxes that are not nearly equal to one before them; see :data:`TWINS`.

    Args:
        boxes: ``[N,4]``, xyxy, none without area, the best first.
        most: So many at most.
    """
    import torch
    from torchvision.ops import nms

    best_first = torch.arange(len(boxes), 0, -1, dtype=torch.float64)
    return np.asarray(boxes[nms(torch.from_numpy(boxes), best_first, TWINS).numpy()[:most]])
