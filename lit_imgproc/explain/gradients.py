"""Gradients of a score by the pixels, made less local than the gradient at one image is."""

from collections.abc import Callable

import torch
from torch import Tensor

from lit_imgproc.errors import UserError


def integrated_gradients(
    score: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    baseline: Tensor | None = None,
    steps: int = 64,
    batch_size: int = 32,
) -> Tensor:
    """Integrate the gradient on the straight way from a baseline to an image (arXiv 1703.01365).

    The map sums to the score of the image less that of the baseline. How closely is a matter of
    ``steps``, at places of Gauss and Legendre: to 1e-6 of the difference in a smooth network; in
    one with ReLUs, whose gradient jumps on the way, to about 2 % at 64 steps and 1 % at 200.

    Gradients of parameters, the mode of the network and the random state are not touched. It may be
    called under ``torch.inference_mode``.

    Args:
        score: any number of images to one score an image ``[B]``. Points on the way of one image
            are scored together, so it must be of one target and not of a list of them, and of a
            given one: what the network answers may change on the way.
        images: ``[B, C, *S]``, as ``score`` takes them.
        baseline: an image ``[C, *S]`` or ``[1, C, *S]`` without what is looked for, on the device
            of ``images``. None is the mean colour of each image: black, which the paper takes, is
            no absence where a network has never seen it, and leaves what is black in an image out.
        steps: gradients that are taken of each image.
        batch_size: how many images are scored at a time.

    Returns:
        Maps ``[B, *S]``, float32, summed over the channels: above 0 where a pixel speaks for the
        target, below where against it.

    Raises:
        UserError: the baseline is not of the shape of an image.
    """
    from captum.attr import IntegratedGradients

    with torch.inference_mode(False), torch.no_grad():
        if baseline is None:
            space = tuple(range(2, images.ndim))
            baseline = images.mean(space, keepdim=True).expand_as(images)
        elif baseline.shape not in (images.shape[1:], (1, *images.shape[1:])):
            raise UserError(
                f"the baseline is of shape {list(baseline.shape)}, and must be of that of an "
                f"image: {list(images.shape[1:])}"
            )
        # The copies are for a network whose first layer works in place.
        method = IntegratedGradients(lambda points: score(points.clone()))
        maps = [
            method.attribute(
                image[None],
                start[None],
                n_steps=steps,
                method="gausslegendre",
                internal_batch_size=batch_size,
            ).sum(1)
            for image, start in zip(images.clone(), baseline.clone().expand_as(images), strict=True)
        ]
        return torch.cat(maps).float()


def smooth_grad(
    score: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    samples: int = 32,
    noise: float = 0.15,
    batch_size: int = 32,
    seed: int = 0,
) -> Tensor:
    """Average the gradient over noisy copies of an image (SmoothGrad, arXiv 1706.03825).

    Gradients are averaged with their signs. Then each pixel has the greatest absolute value over
    its channels, as a map of gradients is drawn (arXiv 1312.6034).

    Gradients of parameters, the mode of the network and the random state are not touched. It may be
    called under ``torch.inference_mode``.

    Args:
        score: any number of images to one score an image ``[B]``. Copies of one image are scored
            together, so it must be of one target and not of a list of them.
        images: ``[B, C, *S]``, as ``score`` takes them.
        samples: noisy copies of each image.
        noise: the standard deviation of the normal noise, as a share of the range of values of each
            image.
        batch_size: how many images are scored at a time.
        seed: of the noise, which is the same for each image and on each device.

    Returns:
        Maps ``[B, *S]``, float32, 0 or above: how much a pixel matters, for or against.
    """
    maps = []
    with torch.inference_mode(False), torch.no_grad():
        for image in images.clone():
            # captum's NoiseTunnel draws from the global random state of the device.
            random = torch.Generator().manual_seed(seed)
            deviation = noise * (image.max() - image.min())
            total = torch.zeros_like(image)
            for start in range(0, samples, batch_size):
                shape = (min(batch_size, samples - start), *image.shape)
                drawn = torch.randn(shape, generator=random).to(image)
                total += input_gradient(score, image + deviation * drawn).sum(0)
            maps.append((total / samples).abs().amax(0))
    return torch.stack(maps).float()


def input_gradient(score: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """The gradient of the score of each image by its pixels, ``[B, C, *S]``; no other is left.

    Args:
        score: images to one score an image ``[B]``.
        images: ``[B, C, *S]``, not made under ``torch.inference_mode``.
    """
    with torch.enable_grad():
        leaf = images.detach().requires_grad_()
        # The copy is for a network whose first layer works in place.
        (gradient,) = torch.autograd.grad(score(leaf.clone()).sum(), leaf)
    return gradient
