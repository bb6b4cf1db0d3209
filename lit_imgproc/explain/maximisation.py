"""Images that a unit of a network answers most to: what it has learned to look for."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_imgproc.errors import UserError
from lit_imgproc.explain.undisturbed import undisturbed
from lit_imgproc.models.base import ImageModule

Unit = Callable[[Tensor], Tensor]
"""From images ``[B, C, H, W]`` to one value an image ``[B]``, which can be differentiated."""
RATE = 0.05
"""Of Adam, on Fourier coefficients that are scaled so that each moves the pixels alike."""


def channel(module: ImageModule, layer: str, number: int | Sequence[int]) -> Unit:
    """Make a unit of the mean over all places of a channel of a layer.

    Args:
        module: any.
        layer: the name of a module of its network.
        number: of the channel; or one for each image, for several at once.

    Raises:
        UserError: there is no such layer; and when the unit is asked, there is no such channel, or
            the layer did not run.
    """
    modules = dict(module.network.named_modules())
    if layer not in modules:
        raise UserError(
            f"{type(module.network).__name__} has no layer {layer}: the names are those of "
            "network.named_modules()"
        )

    def value(images: Tensor) -> Tensor:
        seen: list[Tensor] = []

        def hook(module_: nn.Module, args: object, output: Tensor) -> None:
            # The mean is taken at once: an in-place activation may follow.
            seen.append(module.feature_map(output).mean((2, 3)))

        handle = modules[layer].register_forward_hook(hook)
        try:
            module.attribution_fn()(images)
        finally:
            handle.remove()
        if not seen:
            raise UserError(f"{layer} did not run when the network looked at the images")
        means = seen[0]
        numbers = [number] * len(images) if isinstance(number, int) else list(number)
        if not all(0 <= one < means.shape[1] for one in numbers):
            raise UserError(f"{layer} has the channels 0 to {means.shape[1] - 1}, not {number}")
        return means[torch.arange(len(images), device=means.device), numbers]

    return value


def maximise(
    module: ImageModule,
    unit: Unit,
    *,
    size: tuple[int, int],
    channels: int,
    count: int = 1,
    steps: int = 128,
    jitter: int | None = None,
    total_variation: float = 0.2,
    seed: int = 0,
) -> Tensor:
    """Find images that make the values of a unit great, in eval mode, by gradient ascent.

    This is the activation maximisation of Erhan et al. (Université de Montréal 1341, 2009), kept
    from noise as Olah et al. do ("Feature Visualization", Distill, 2017, doi
    10.23915/distill.00007): the image is a sum of waves of equal power an octave, as photographs
    are, with colours along the axes that they vary along; each step looks at it shifted and scaled
    anew; and its total variation is held down.

    Args:
        module: whose unit it is; it is left as it was.
        unit: such as ``module.attribution_fn(Target(3))`` or that of :func:`channel`.
        size: height and width of the images.
        channels: of the images.
        count: how many images are made at once; the unit may be another one for each.
        steps: of Adam.
        jitter: pixels by which an image is shifted at most, and its border by scaling; None is a
            sixteenth of the shorter side.
        total_variation: how strongly the images are drawn to be smooth, relative to how strongly
            the unit draws them, whatever its scale: the ratio of the lengths of the two gradients.
            From about 0.6 on little of the unit is left.
        seed: of where it starts and how it is shifted.

    Returns:
        Images ``[count, channels, H, W]`` in [0, 1], on the module's device.

    Raises:
        UserError: the unit does not give one value an image.
    """
    generator = torch.Generator().manual_seed(seed)
    device = module.device
    reach = min(size) // 16 if jitter is None else jitter
    shape = (count, channels, size[0], size[1] // 2 + 1, 2)
    with undisturbed(module), torch.enable_grad():
        waves = (0.01 * torch.randn(shape, generator=generator)).to(device).requires_grad_()
        ascent = torch.optim.Adam([waves], lr=RATE)
        for _ in range(steps):
            pixels = _pixels(waves, size)
            images = pixels.sigmoid()
            values = unit(_moved(images, reach, generator) if reach else images)
            if values.shape != (count,):
                raise UserError(
                    f"the unit gives values of shape {list(values.shape)} for {count} images: one "
                    "an image is needed"
                )
            # Of the waves alone: the network's parameters get no gradients.
            (rise,) = torch.autograd.grad(values.sum(), waves, retain_graph=True)
            (rough,) = torch.autograd.grad(_variation(pixels), waves)
            waves.grad = total_variation * _unit_length(rough) - _unit_length(rise)
            ascent.step()
        return _pixels(waves, size).sigmoid().detach()


def _pixels(waves: Tensor, size: tuple[int, int]) -> Tensor:
    """Images of Fourier coefficients ``[B, C, H, W // 2 + 1, 2]``; the sigmoid is yet to come.

    Their variation is counted before the sigmoid: after it, black and white would be smooth.
    """
    height, width = size
    rows = torch.fft.fftfreq(height, device=waves.device)[:, None]
    frequency = torch.hypot(rows, torch.fft.rfftfreq(width, device=waves.device))
    power = 1 / frequency.clamp(min=1 / max(size))
    # The same coefficients make the same contrast at every size.
    power = power * math.sqrt(power.numel()) / power.norm()
    spectrum = torch.view_as_complex(waves) * power
    pixels: Tensor = torch.fft.irfft2(spectrum, s=size, norm="ortho")
    if pixels.shape[1] == 3:
        pixels = torch.einsum("rc,bchw->brhw", _colours(waves.device), pixels)
    return pixels


def _colours(device: torch.device) -> Tensor:
    """From the axes along which colours of photographs vary independently to RGB ``[3, 3]``.

    The axes are brightness, blue against yellow and red against green (Ruderman et al., 1998, doi
    10.1364/JOSAA.15.002036); how far they vary is that of ImageNet (Olah et al.).
    """
    axes = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]], device=device)
    spread = torch.tensor([1.0, 0.27, 0.13], device=device)
    return F.normalize(axes, dim=1).T * spread * math.sqrt(3)


def _moved(images: Tensor, reach: int, generator: torch.Generator) -> Tensor:
    """Each image shifted by up to ``reach`` pixels and scaled so that its border moves as far."""
    height, width = images.shape[-2:]
    draw: Any = torch.rand(len(images), 3, generator=generator).to(images.device) * 2 - 1
    # In the units of the grid, an image is 2 wide.
    shift = draw[:, :2] * reach * 2 / torch.tensor([width, height], device=images.device)
    zoom = 1 + draw[:, 2] * reach * 2 / min(height, width)
    maps = torch.zeros(len(images), 2, 3, device=images.device)
    maps[:, 0, 0] = maps[:, 1, 1] = zoom
    maps[:, :, 2] = shift
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _unit_length(gradient: Tensor) -> Tensor:
    """The gradient ``[B, ...]`` of each image at a length of 1; 0 where there is none."""
    length = gradient.flatten(1).norm(dim=1).clamp(min=torch.finfo(gradient.dtype).tiny)
    scaled: Tensor = gradient / length.view(-1, *[1] * (gradient.ndim - 1))
    return scaled


def _variation(images: Tensor) -> Tensor:
    """The mean absolute difference of neighbouring pixels of each image, summed over the images."""
    down = images.diff(dim=2).abs().mean((1, 2, 3))
    across = images.diff(dim=3).abs().mean((1, 2, 3))
    return (down + across).sum()
