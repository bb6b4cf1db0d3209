"""Style without its colours: what is redrawn keeps those of the content (arXiv 1606.05897)."""

import torch
from torch import Tensor

LEAST = 1e-5
"""The least variance of a direction of colours that is scaled."""
_YIQ = torch.tensor(
    [[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]],
    dtype=torch.float64,
)


def luminance(images: Tensor) -> Tensor:
    """Images ``[..., 3, H, W]`` in [0, 1] without colours, still of three channels."""
    grey = torch.einsum("c,...chw->...hw", _YIQ[0].to(images), images)
    return grey.unsqueeze(-3).expand_as(images)


def match_luminance(style: Tensor, content: Tensor) -> Tensor:
    """A grey style ``[3, h, w]`` with the mean and deviation of the content's luminance.

    Both are colour images, and so is the result in form: its channels are the same. It may leave
    [0, 1] a little.
    """
    ours, theirs = luminance(style), luminance(content)
    scale = theirs.std(correction=0) / ours.std(correction=0).clamp_min(LEAST)
    return (ours - ours.mean()) * scale + theirs.mean()


def with_colours_of(drawn: Tensor, content: Tensor) -> Tensor:
    """The luminance of one image and the colours of another, both ``[..., 3, H, W]``.

    In YIQ, so that what was grey in the content is grey.
    """
    grey = luminance(content)
    return (luminance(drawn) + content - grey).clamp(0, 1)


def match_colours(style: Tensor, content: Tensor) -> Tensor:
    """A style ``[3, h, w]`` whose colours have the mean and covariance of the content's.

    A linear map of colours does it, ``S_c^(1/2) S_s^(-1/2)`` of the covariances: of all that do,
    "image analogies" takes it since it moves colours no further than is needed. The result may
    leave [0, 1] a little.
    """
    ours, theirs = style.flatten(1).double(), content.flatten(1).double()
    means = ours.mean(1, keepdim=True), theirs.mean(1, keepdim=True)
    colours = _root(theirs.cov(correction=0), 0.5) @ _root(ours.cov(correction=0), -0.5)
    return (colours @ (ours - means[0]) + means[1]).view(style.shape).to(style)


def _root(covariance: Tensor, power: float) -> Tensor:
    """A power of a symmetric matrix."""
    values, vectors = torch.linalg.eigh(covariance)
    result: Tensor = (vectors * values.clamp_min(LEAST) ** power) @ vectors.T
    return result
