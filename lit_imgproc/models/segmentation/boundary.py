"""How well boundaries between classes are found (Csurka et al., BMVC 2013, doi 10.5244/C.27.32).

A pixel is on the boundary of its class where one of its four neighbours in the image is of another
class. Of each class, precision is the share of predicted boundary pixels that have a true boundary
pixel of the class within some pixels, recall the share of true ones that have a predicted one, and
F1 their harmonic mean.

Csurka et al. take F1 of each image and average. Here boundary pixels are counted over the whole
split first, as those of regions are for the intersection over union: an image weighs as much as it
has boundary, and a class that is missed in an image needs no convention.

What is not labelled has no known boundary:

- a true boundary is between two classes, not between a class and ignored pixels;
- a predicted one counts only where it is known of all pixels in reach whether they are on a true
  boundary.

So where annotators left a band of ignored pixels along all objects, as in PASCAL VOC, nearly no
true boundary is left, and this measure says nothing.
"""

from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import pad

from lit_imgproc.models.segmentation.batch import IGNORE

NOWHERE = -1
"""In a map of boundaries: no boundary goes through this pixel."""


def boundary_counts(prediction: Tensor, mask: Tensor, classes: int, tolerance: int) -> Tensor:
    """Count boundary pixels of each class, and those that have a match.

    The counts of batches, and of ranks, add up.

    Args:
        prediction: int64 ``[B, H, W]``: a class of each pixel.
        mask: int64 ``[B, H, W]``: the true class, 255 where there is none.
        classes: K, the number of classes.
        tolerance: the greatest distance of a match in pixels, Euclidean.

    Returns:
        int64 ``[4, K]``: predicted boundary pixels, those of them near a true one, true boundary
        pixels, and those of them near a predicted one.
    """
    # A margin as wide as what is looked at, so that no place leaves its image.
    around = tolerance + 1
    width = mask.shape[-1] + 2 * around
    maps = _boundary(prediction), _boundary(mask), torch.where(mask == IGNORE, IGNORE, NOWHERE)
    found, there, ignored = (pad(each, [around] * 4, value=NOWHERE).flatten() for each in maps)
    # Only places on boundaries are looked at: a few percent of all, whatever the number of classes.
    predicted, true = ((each != NOWHERE).nonzero().squeeze(1) for each in (found, there))
    # Whether a pixel is on a boundary depends on its neighbours: one further than the tolerance.
    unknown = _near(predicted, ignored, torch.full_like(predicted, IGNORE), around, width)
    predicted = predicted[~unknown]
    counts = []
    for places, own, other in ((predicted, found, there), (true, there, found)):
        labels = own[places]
        matched = labels[_near(places, other, labels, tolerance, width)]
        counts += [torch.bincount(each, minlength=classes) for each in (labels, matched)]
    return torch.stack(counts)


def boundary_f1(counts: Tensor) -> tuple[Tensor, Tensor]:
    """F1 of each class, float64 ``[K]``, and which have a boundary in truth or prediction.

    Args:
        counts: the sum of what :func:`boundary_counts` gave, int64 ``[4, K]``.
    """
    predicted, precise, true, recalled = counts.double()
    precision, recall = precise / predicted.clamp(min=1), recalled / true.clamp(min=1)
    # Without any match both are 0, and so is F1.
    f1 = 2 * precision * recall / (precision + recall).clamp(min=1e-300)
    return f1, predicted + true > 0


def _boundary(labels: Tensor) -> Tensor:
    """The labels ``[B, H, W]`` of pixels on a boundary, and :data:`NOWHERE` elsewhere."""
    edge = torch.zeros_like(labels, dtype=torch.bool)
    for axis in (1, 2):
        last = labels.shape[axis] - 1
        one, next_one = labels.narrow(axis, 0, last), labels.narrow(axis, 1, last)
        change = (one != next_one) & (one != IGNORE) & (next_one != IGNORE)
        edge.narrow(axis, 0, last).logical_or_(change)
        edge.narrow(axis, 1, last).logical_or_(change)
    return torch.where(edge, labels, NOWHERE)


def _near(places: Tensor, labels: Tensor, wanted: Tensor, radius: int, width: int) -> Tensor:
    """Whether places ``[N]`` have the label that each wants within a radius: bool ``[N]``.

    Args:
        places: indices into the labels.
        labels: ``[B * H * width]``, rows one after another.
        wanted: ``[N]``, a label for each place.
        radius: in pixels, Euclidean.
        width: the length of a row.
    """
    near = torch.zeros_like(places, dtype=torch.bool)
    reach = range(-radius, radius + 1)
    for y, x in product(reach, reach):
        if y * y + x * x <= radius * radius:
            near |= labels[places + (y * width + x)] == wanted
    return near
