"""Finding the styles that make a given image (Karras et al., arXiv 1912.04958, appendix D)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_imgproc.errors import UserError
from lit_imgproc.models.gan.stylegan2 import StyleGAN2Generator
from lit_imgproc.models.vgg import Filters, VGGFeatures

SAMPLES = 10_000
"""Latents whose styles the search starts at the mean of."""
LR = 0.1
RAMP_UP, RAMP_DOWN = 0.05, 0.25
"""Shares of the search in which its learning rate rises and falls."""
WANDERING = 0.05
"""Deviation of the noise on w at the start, over that of w."""
WANDERING_SHARE = 0.75
"""Of the search, in which that noise dies away."""
NOISE_WEIGHT = 1e5
SMALLEST = 8
"""Side of the noise maps down to which their correlations are looked at."""
LARGEST = 256
"""Side to which larger images are averaged before they are compared."""
LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
"""Of VGG16, by which images are compared."""


@dataclass(frozen=True)
class Projection:
    """What a search found.

    Attributes:
        styles: ``[1, layers, F]``, the same for all layers.
        noise: the map of each layer, ``[1, 1, h, w]``.
        image: what they make, ``[C, H, W]`` in [0, 1].
        distances: to the given image, in each step: ``[steps]``.
    """

    styles: Tensor
    noise: list[Tensor]
    image: Tensor
    distances: Tensor


class VGGDistance(nn.Module):
    """How different images look to VGG16: LPIPS (arXiv 1801.03924) with all channels alike.

    Features of each place are scaled to unit length; the squared distances are averaged over the
    places and summed over the layers.

    Args:
        filters: of :class:`~lit_imgproc.models.vgg.VGGFeatures`.
    """

    def __init__(self, filters: Filters) -> None:
        super().__init__()
        self.features = VGGFeatures(filters, LAYERS)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances ``[B]`` of images ``[B, 1 or 3, H, W]`` in [0, 1]."""
        ours, theirs = (self.features(x.expand(-1, 3, -1, -1)) for x in (a, b))
        layers = [
            (F.normalize(ours[name]) - F.normalize(theirs[name])).square().sum(1).mean((1, 2))
            for name in LAYERS
        ]
        return torch.stack(layers).sum(0)


def project(
    generator: StyleGAN2Generator,
    image: Tensor,
    distance: Callable[[Tensor, Tensor], Tensor],
    *,
    steps: int = 1000,
    labels: Tensor | None = None,
    seed: int = 0,
) -> Projection:
    """Search W and the noise maps for an image.

    The search starts at the mean of w and wanders at first; the noise maps are kept from carrying
    the image by a penalty on the correlation of neighbouring pixels, at all scales.

    Args:
        generator: is left as it is.
        image: ``[C, H, W]`` in [0, 1].
        distance: from two batches of images in [0, 1] to ``[B]``.
        steps: of Adam, at least 1.
        labels: int64 ``[1]``, of a conditional generator.
        seed: of the latents that the mean is of, and of all noise.

    Raises:
        UserError: an image of another size than the generator's.
    """
    mapping, synthesis = generator.mapping, generator.synthesis
    device = synthesis.constant.device
    random = torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        latents = torch.randn(SAMPLES, mapping.latent_dim, generator=random, device=device)
        training = mapping.training
        every = None if labels is None else labels.expand(SAMPLES)
        found = mapping.eval()(latents, every)
        mapping.train(training)
    deviation = found.var(0, unbiased=False).sum().sqrt()
    w = found.mean(0, keepdim=True).requires_grad_()
    noise = [
        torch.randn(one.shape, generator=random, device=device).requires_grad_()
        for one in synthesis.noise_maps()
    ]
    target = image[None].to(w.dtype)
    _check(generator, target, noise[-1].shape[-1])
    small = _shrunk(target)
    optimizer = torch.optim.Adam([w, *noise], lr=LR)
    distances = []
    with torch.enable_grad():
        for step in range(steps):
            progress = step / steps
            for group in optimizer.param_groups:
                group["lr"] = LR * _ramp(progress)
            wandering = WANDERING * max(0.0, 1 - progress / WANDERING_SHARE) ** 2
            around = torch.randn(w.shape, generator=random, device=device) * deviation * wandering
            made = _image(generator, w + around, noise)
            apart = distance(_shrunk(made), small).sum()
            loss = apart + NOISE_WEIGHT * torch.stack([correlation(one) for one in noise]).sum()
            gradients = torch.autograd.grad(loss, [w, *noise])
            for parameter, gradient in zip([w, *noise], gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
            distances.append(apart.detach())
            with torch.no_grad():
                for one in noise:
                    one.sub_(one.mean()).div_(one.square().mean().sqrt())
    with torch.no_grad():
        styles = w.detach()[:, None].expand(-1, generator.num_styles, -1)
        maps = [one.detach() for one in noise]
        made = _image(generator, w, noise)[0].clamp(0, 1)
    return Projection(styles, maps, made, torch.stack(distances))


def correlation(noise: Tensor) -> Tensor:
    """How alike neighbouring pixels of a map ``[1, 1, h, w]`` are, at all scales: a scalar.

    The squares of the mean products of neighbours, across and down, wrapped around.
    """
    total = noise.new_zeros(())
    while True:
        for axis in (2, 3):
            total = total + (noise * noise.roll(1, axis)).mean().square()
        if noise.shape[-1] <= SMALLEST:
            return total
        noise = F.avg_pool2d(noise, 2)


def _image(generator: StyleGAN2Generator, w: Tensor, noise: list[Tensor]) -> Tensor:
    styles = w[:, None].expand(-1, generator.num_styles, -1)
    images: Tensor = generator.synthesis(styles, noise)
    return (images + 1) / 2


def _shrunk(images: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(images, LARGEST) if images.shape[-1] > LARGEST else images


def _ramp(progress: float) -> float:
    """The learning rate over its top: up along a line, down along a cosine."""
    down = min(1.0, (1 - progress) / RAMP_DOWN)
    return min(1.0, progress / RAMP_UP) * (0.5 - 0.5 * math.cos(down * math.pi))


def _check(generator: StyleGAN2Generator, target: Tensor, side: int) -> None:
    wanted = (1, generator.channels, side, side)
    if tuple(target.shape) != wanted:
        raise UserError(
            f"the image to project is {list(target.shape[1:])} (channels, height, width), and this "
            f"generator makes {list(wanted[1:])}: resize it"
        )
