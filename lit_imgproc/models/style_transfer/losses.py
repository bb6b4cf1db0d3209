"""What images are compared by in style transfer: features of VGG, and how smooth they are.

Features are dictionaries by layer, as :class:`~lit_imgproc.models.vgg.VGGFeatures` gives them, and
every loss is a mean over the images of a batch.

A difference is told against what it is a difference from, so that layers count alike whatever the
size of their activations, which differ a thousandfold between filters: an image without any
feature of what is wanted has a loss of 1 a layer. The papers' weights, which are for one set of
filters, become others for that reason.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from lit_imgproc.models.style_transfer.networks import Statistics, channel_statistics

Features = Mapping[str, Tensor]
LEAST = 1e-12
"""The least square that a difference is told against."""


def gram(features: Tensor) -> Tensor:
    """Which channels are active together: ``[B, C, h, w]`` to ``[B, C, C]``.

    Divided by ``C h w``, as in Johnson et al. (arXiv 1603.08155), so that images of all sizes can
    be compared.
    """
    flat = features.flatten(2)
    # In half precision the sum over the pixels would overflow.
    with torch.autocast(features.device.type, enabled=False):
        flat = flat.float()
        return flat @ flat.transpose(1, 2) / (flat.shape[1] * flat.shape[2])


def content_loss(features: Features, target: Features) -> Tensor:
    """The squared difference of features against the target's square, summed over its layers."""
    return torch.stack([_relative(features[name], target[name]) for name in target]).sum()


def style_loss(features: Features, grams: Features, weights: Mapping[str, float]) -> Tensor:
    """The squared Frobenius norm of the difference of Gram matrices, summed over layers.

    Each against that of the style's own matrix.

    Args:
        features: of the images, ``[B, C, h, w]`` each.
        grams: of the style, ``[C, C]`` each.
        weights: what each layer counts.
    """
    terms = [
        weight * _relative(gram(features[name]), grams[name]) for name, weight in weights.items()
    ]
    return torch.stack(terms).sum()


def statistics_loss(features: Features, styles: Mapping[str, Statistics]) -> Tensor:
    """The squared difference of means and of deviations, summed over layers.

    The style loss of AdaIN (arXiv 1703.06868), each term against the square of the style's own.
    """
    terms = []
    for name, style in styles.items():
        own = channel_statistics(features[name])
        terms += [_relative(own.mean, style.mean), _relative(own.std, style.std)]
    return torch.stack(terms).sum()


def total_variation(images: Tensor) -> Tensor:
    """The mean absolute difference of neighbouring pixels, of rows and of columns, summed.

    Args:
        images: ``[B, C, H, W]``, at least 2 by 2 pixels.
    """
    return images.diff(dim=2).abs().mean() + images.diff(dim=3).abs().mean()


def _relative(value: Tensor, target: Tensor) -> Tensor:
    """The mean over a batch of ``|value - target|^2 / |target|^2``."""
    target = target.float().expand_as(value)
    difference = (value.float() - target).square().flatten(1).sum(1)
    return (difference / target.square().flatten(1).sum(1).clamp_min(LEAST)).mean()
