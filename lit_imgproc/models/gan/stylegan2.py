"""The networks of StyleGAN2 (Karras et al., arXiv 1912.04958), by size and width.

Written from the paper; shapes and parameter counts are those of NVIDIA's stylegan2-ada-pytorch, and
:mod:`lit_imgproc.models.gan.stylegan2_published` brings state dicts of its networks here. The modes
of that code for half precision are left out.
"""

import math
from collections.abc import Mapping
from typing import Annotated, cast

import torch
from annotated_types import Gt
from torch import Tensor, nn

from lit_imgproc.errors import UserError
from lit_imgproc.models.gan.stylegan2_discriminator import StyleGAN2Discriminator
from lit_imgproc.models.gan.stylegan2_published import from_nvidia
from lit_imgproc.models.gan.stylegan2_synthesis import FIRST, MappingNetwork, SynthesisNetwork

Positive = Annotated[int, Gt(0)]


class StyleGAN2Generator(nn.Module):
    """Mapping and synthesis; see :func:`stylegan2_generator`.

    Attributes:
        latent_dim: of z.
        num_classes: None where it takes no labels.
        channels: of the images.
        num_styles: layers that take a style.
    """

    def __init__(self, mapping: MappingNetwork, synthesis: SynthesisNetwork, channels: int) -> None:
        super().__init__()
        self.mapping, self.synthesis = mapping, synthesis
        self.latent_dim, self.channels = mapping.latent_dim, channels
        self.num_classes = mapping.num_classes or None
        self.num_styles = synthesis.num_styles

    def styles(
        self,
        latents: Tensor,
        labels: Tensor | None = None,
        *,
        truncation: float = 1.0,
        cutoff: int | None = None,
    ) -> Tensor:
        """Styles ``[B, num_styles, style_dim]`` of latents, the same for all layers.

        Args:
            latents: ``[B, latent_dim]``, from N(0, 1).
            labels: int64 ``[B]``, of a conditional network.
            truncation: psi, how far styles are from their mean, against 1: less variety, better
                images (arXiv 1812.04948).
            cutoff: truncates so many layers only, from the coarsest on.
        """
        w = self.mapping(latents, labels)[:, None].expand(-1, self.num_styles, -1)
        if truncation == 1:
            return cast(Tensor, w)
        average = self.mapping.average
        near = average.lerp(w[:, :cutoff], truncation)
        return torch.cat([near, w[:, near.shape[1] :]], 1)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images ``[B, C, H, W]``, about [-1, 1], of latents and labels, with fresh noise."""
        return cast(Tensor, self.synthesis(self.styles(latents, labels)))

    def from_published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give the weights of NVIDIA's network their names here; see :func:`from_nvidia`."""
        return from_nvidia(state)


def stylegan2_generator(
    *,
    image_size: list[int],
    in_channels: Positive,
    num_classes: Positive | None = None,
    conditional: bool = False,
    latent_dim: Positive = 512,
    style_dim: Positive = 512,
    channel_base: Positive = 32768,
    channel_max: Positive = 512,
    mapping_layers: Positive = 8,
) -> StyleGAN2Generator:
    """The generator of StyleGAN2, config F by default.

    Args:
        image_size: height and width of the images: one power of two from 8 on.
        in_channels: of the images that it makes, which are those of the data.
        num_classes: of the labels, if it is conditional.
        conditional: whether it makes images of a class that is asked for.
        latent_dim: of z.
        style_dim: of w.
        channel_base: channels of a resolution are this over its side,
        channel_max: but no more than this.
        mapping_layers: from z to w.

    Raises:
        UserError: an image size that it cannot make, or no classes for a conditional network.
    """
    widths = _widths(image_size, channel_base, channel_max)
    classes = _classes(num_classes, conditional)
    mapping = MappingNetwork(latent_dim, classes, style_dim, mapping_layers)
    synthesis = SynthesisNetwork(image_size[0], in_channels, style_dim, widths)
    return StyleGAN2Generator(mapping, synthesis, in_channels)


def stylegan2_discriminator(
    *,
    image_size: list[int],
    in_channels: Positive,
    num_classes: Positive | None = None,
    conditional: bool = False,
    channel_base: Positive = 32768,
    channel_max: Positive = 512,
    mapping_layers: Positive = 8,
    group_size: Positive = 4,
    residual: bool = True,
) -> StyleGAN2Discriminator:
    """The discriminator of StyleGAN2, config F by default.

    Args:
        image_size: height and width of the images: one power of two from 8 on.
        in_channels: of the images.
        num_classes: of the labels, if it is conditional.
        conditional: whether it asks if an image is of its class, too.
        channel_base: channels of a resolution are this over its side,
        channel_max: but no more than this.
        mapping_layers: of the labels, if it is conditional.
        group_size: images whose variety is looked at together.
        residual: whether blocks have skips; the published settings for CIFAR-10 have none.

    Raises:
        UserError: as of :func:`stylegan2_generator`.
    """
    return StyleGAN2Discriminator(
        in_channels,
        _widths(image_size, channel_base, channel_max),
        num_classes=_classes(num_classes, conditional),
        mapping_layers=mapping_layers,
        group_size=group_size,
        residual=residual,
    )


def _widths(image_size: list[int], base: int, most: int) -> dict[int, int]:
    """Channels of each resolution, from 4 pixels to the image's side."""
    side = image_size[0]
    if len(set(image_size)) > 1 or side < 2 * FIRST or side & (side - 1):
        raise UserError(
            f"StyleGAN2 makes square images whose side is a power of two from 8 on, not "
            f"{'x'.join(map(str, image_size))}: set the image size of the data to such a one"
        )
    sides = [2**power for power in range(2, int(math.log2(side)) + 1)]
    return {one: min(base // one, most) for one in sides}


def _classes(num_classes: int | None, conditional: bool) -> int:
    if conditional and not num_classes:
        raise UserError("a conditional StyleGAN2 needs classes: set num_classes of its networks")
    return num_classes or 0 if conditional else 0
