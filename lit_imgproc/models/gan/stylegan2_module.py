"""How StyleGAN2 is trained, and what can be made with it."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, cast

import torch
from annotated_types import Ge, Gt, Interval, Le
from torch import Tensor, nn
from typing_extensions import override

from lit_imgproc import optim
from lit_imgproc.errors import UserError
from lit_imgproc.models.base import Batch
from lit_imgproc.models.exported import shown
from lit_imgproc.models.feature_networks import FeatureName
from lit_imgproc.models.gan.augment import AdaptiveAugmentation, AugmentationGroup
from lit_imgproc.models.gan.latents import latents_of
from lit_imgproc.models.gan.module import GAN
from lit_imgproc.models.gan.objectives import discriminator_loss, generator_loss, r1_penalty
from lit_imgproc.models.gan.projection import Projection, VGGDistance, project
from lit_imgproc.models.gan.regularisers import PathLength, lazy
from lit_imgproc.models.gan.stylegan2 import StyleGAN2Generator
from lit_imgproc.models.gan.stylegan2_discriminator import StyleGAN2Discriminator
from lit_imgproc.models.vgg import Filters

ADAPT_EVERY = 4
"""Batches from one change of the probability of augmentations to the next."""
Weight = Annotated[float, Ge(0)]
Count = Annotated[int, Gt(0)]
Share = Annotated[float, Ge(0), Le(1)]


class StyleGAN2(GAN):
    """StyleGAN2 (Karras et al., arXiv 1912.04958), with the augmentations of arXiv 2006.06676.

    In each batch the discriminator moves and then the generator, by the non-saturating loss. Every
    few batches each moves once more, by its regulariser times their number: R1 at real images, and
    path length. Their optimizers are corrected for it; see
    :func:`~lit_imgproc.models.gan.regularisers.lazy`. The average of the generator's weights is
    that of ``callbacks.ema``, with ``decay`` 0.5 ** (batch / 10,000).

    Example:
        >>> from lit_imgproc.models.gan.stylegan2 import (
        ...     stylegan2_discriminator, stylegan2_generator)
        >>> from lit_imgproc.optim import Adam
        >>> shape = {"image_size": [64, 64], "in_channels": 3, "channel_base": 16384}
        >>> StyleGAN2(network=stylegan2_generator(**shape, mapping_layers=2),
        ...           discriminator=stylegan2_discriminator(**shape),
        ...           optimizer=Adam(lr=2.5e-3, betas=(0.0, 0.99)))  # doctest: +SKIP

    Args:
        network: of :func:`~lit_imgproc.models.gan.stylegan2.stylegan2_generator`.
        discriminator: of :func:`~lit_imgproc.models.gan.stylegan2.stylegan2_discriminator`.
        optimizer: what moves the generator, before that correction.
        discriminator_optimizer: likewise, the discriminator; None takes one like the generator's.
        schedule: how both learning rates go, a step at a time; None keeps them constant.
        mixing: share of the images that take the styles of their finer layers from other latents.
        r1_gamma: the weight of R1; 0 leaves it out.
        r1_interval: batches from one of its steps to the next.
        path_weight: of path length; 0 leaves it out.
        path_interval: batches from one of its steps to the next.
        path_batch_shrink: a batch over the images that path length looks at.
        augmentation: what the discriminator's images undergo, with a probability that adapts; None
            for nothing. See :data:`~lit_imgproc.models.gan.augment.AugmentationGroup`.
        augment_target: the mean sign of the logits of real images at which that probability stays.
        augment_images: real images in which it may go from 0 to 1.
        features: by which network sets of images are compared.
        class_names: of a conditional generator; None numbers them.
        num_classes: of the data.
        weights: where both players start: a file, or ``run:ID`` in a recipe; or the state dict of
            one of NVIDIA's networks: :mod:`lit_imgproc.models.gan.stylegan2_published`.

    Raises:
        UserError: networks of other systems, players that do not agree on the classes, colours to
            be augmented that there are none of, or weights that do not fit.
    """

    network: StyleGAN2Generator

    def __init__(
        self,
        *,
        network: nn.Module,
        discriminator: nn.Module,
        optimizer: optim.Optimizer,
        discriminator_optimizer: optim.Optimizer | None = None,
        schedule: optim.Schedule | None = None,
        mixing: Share = 0.9,
        r1_gamma: Weight = 10.0,
        r1_interval: Count = 16,
        path_weight: Weight = 2.0,
        path_interval: Count = 4,
        path_batch_shrink: Count = 2,
        augmentation: list[AugmentationGroup] | None = None,
        augment_target: Annotated[float, Interval(gt=-1, lt=1)] = 0.6,
        augment_images: Count = 500_000,
        features: FeatureName = "efficientnet_lite0",
        class_names: list[str] | None = None,
        num_classes: Annotated[int, Gt(1)] | None = None,
        weights: str | None = None,
    ) -> None:
        if not isinstance(network, StyleGAN2Generator) or not isinstance(
            discriminator, StyleGAN2Discriminator
        ):
            raise UserError(
                "StyleGAN2 is trained with networks of its own: set model.network.name to "
                "stylegan2_generator and model.discriminator.name to stylegan2_discriminator"
            )
        super().__init__(
            network=network,
            discriminator=discriminator,
            optimizer=optimizer,
            discriminator_optimizer=discriminator_optimizer,
            schedule=schedule,
            features=features,
            class_names=class_names,
            num_classes=num_classes,
            weights=weights,
        )
        self.mixing = mixing
        self.r1_gamma, self.r1_interval = r1_gamma, r1_interval
        self.path_weight, self.path_interval = path_weight, path_interval
        self.path_batch_shrink = path_batch_shrink
        self.path_length = PathLength()
        self.augmentation = (
            AdaptiveAugmentation(
                network.channels, augmentation, target=augment_target, images=augment_images
            )
            if augmentation
            else None
        )

    # Training ------------------------------------------------------------------------------------

    @override
    def optimizer_of(self, player: str) -> optim.Optimizer:
        own = super().optimizer_of(player)
        if player == "generator":
            return lazy(own, self.path_interval) if self.path_weight else own
        return lazy(own, self.r1_interval) if self.r1_gamma else own

    @override
    def play(self, batch: Batch) -> Tensor:
        step, labels = self.trainer.global_step, self.labels_of(batch)
        real = self.normalization(batch["image"])
        loss = self.discriminator_turn(real, labels)
        if self.r1_gamma and step % self.r1_interval == 0:
            loss = loss + self.r1_turn(real, labels)
        loss = loss + self.generator_turn(len(real), labels)
        if self.path_weight and step % self.path_interval == 0:
            loss = loss + self.path_length_turn(len(real) // self.path_batch_shrink, labels)
        if self.augmentation is not None and (step + 1) % ADAPT_EVERY == 0:
            images = ADAPT_EVERY * len(real) * self.trainer.world_size
            self.augmentation.adapt(ADAPT_EVERY, images)
            self.log("train/augment_probability", self.augmentation.probability)
        return loss

    @override
    def fakes(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        if not self.training:
            return super().fakes(latents, labels)
        return cast(Tensor, self.network.synthesis(self.mixed_styles(latents, labels)))

    def mixed_styles(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """Styles ``[B, layers, F]`` of latents, from some layer on those of others at times."""
        styles = self.network.styles(latents, labels)
        if not self.mixing:
            return styles
        others = self.network.styles(self.noise(len(latents)), labels)
        count, device = self.network.num_styles, latents.device
        crossover = torch.randint(1, count, (len(latents), 1), device=device)
        mixed = torch.rand(len(latents), 1, device=device) < self.mixing
        taken = (torch.arange(count, device=device) >= crossover) & mixed
        return torch.where(taken[:, :, None], others, styles)

    def logits(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """What the discriminator says ``[B]`` of images in [-1, 1], augmented if they are to be."""
        seen = images if self.augmentation is None else self.augmentation(images)
        return cast(Tensor, self.discriminator(seen, labels))

    @override
    def discriminator_turn(self, real: Tensor, labels: Tensor | None) -> Tensor:
        with self.turn("discriminator"):
            with torch.no_grad():
                fake = self.fakes(self.noise(len(real)), labels)
            real_logits = self.logits(real, labels)
            loss = discriminator_loss(self.objective, real_logits, self.logits(fake, labels))
            self.descend("discriminator", loss)
        self.log("train/discriminator_loss", loss.detach(), prog_bar=True)
        if self.augmentation is not None:
            self.log("train/real_sign", self.augmentation.observe(real_logits))
        return loss.detach()

    def r1_turn(self, real: Tensor, labels: Tensor | None) -> Tensor:
        """Move the discriminator by R1; as :meth:`discriminator_turn`."""
        with self.turn("discriminator"):
            real = real.detach().requires_grad_()
            penalty = r1_penalty(self.logits(real, labels), real, self.r1_gamma)
            self.descend("discriminator", penalty * self.r1_interval)
        self.log("train/r1", penalty.detach())
        return penalty.detach()

    @override
    def generator_turn(self, count: int, labels: Tensor | None) -> Tensor:
        with self.turn("generator"):
            fake = self.fakes(self.noise(count), labels)
            loss = generator_loss(self.objective, self.logits(fake, labels))
            self.descend("generator", loss)
        self.log("train/generator_loss", loss.detach(), prog_bar=True)
        return loss.detach()

    def path_length_turn(self, count: int, labels: Tensor | None) -> Tensor:
        """Move the generator by path length; as :meth:`generator_turn`."""
        count = max(1, count)
        with self.turn("generator"):
            styles = self.mixed_styles(
                self.noise(count), None if labels is None else labels[:count]
            )
            penalty = self.path_length(self.network.synthesis(styles), styles)
            self.descend("generator", penalty * self.path_weight * self.path_interval)
        self.log("train/path_length", penalty.detach())
        return cast(Tensor, penalty.detach())

    # What can be made ----------------------------------------------------------------------------

    @override
    def generate(
        self,
        seeds: Sequence[int],
        *,
        labels: Sequence[int] | None = None,
        truncation: float = 1.0,
    ) -> Tensor:
        with torch.inference_mode():
            return self.render(self.styles_of(seeds, labels, truncation))

    def styles_of(
        self, seeds: Sequence[int], labels: Sequence[int] | None = None, truncation: float = 1.0
    ) -> Tensor:
        """Styles ``[N, layers, F]`` of seeds; the arguments are those of :meth:`generate`."""
        latents = latents_of(seeds, self.latent_dim).to(self.device)
        return self.network.styles(latents, self.asked(seeds, labels), truncation=truncation)

    def render(self, styles: Tensor) -> Tensor:
        """Images ``[N, C, H, W]`` in [0, 1] of styles ``[N, layers, F]``, with constant noise."""
        return shown(self.network.synthesis(styles, noise="constant"))

    def interpolate(
        self,
        seeds: Sequence[int],
        steps: int,
        *,
        labels: Sequence[int] | None = None,
        truncation: float = 1.0,
    ) -> Tensor:
        """Go from seed to seed on lines in W: ``[(len(seeds) - 1) * steps + 1, C, H, W]``.

        Args:
            seeds: at least one.
            steps: images from one seed to the next, that one included.
            labels: the class of each seed, as for :meth:`generate`.
            truncation: likewise.

        Returns:
            Images in [0, 1]; every ``steps`` images, that of a seed.
        """
        with torch.inference_mode():
            corners = self.styles_of(seeds, labels, truncation)
            between = [
                start.lerp(end, step / steps)
                for start, end in pairwise(corners)
                for step in range(steps)
            ]
            return self.render(torch.stack([*between, corners[-1]]))

    def mix(
        self,
        rows: Sequence[int],
        columns: Sequence[int],
        layers: Sequence[int],
        *,
        labels: Sequence[int] | None = None,
        truncation: float = 1.0,
    ) -> Tensor:
        """Images of the seeds of rows, with some layers' styles of those of columns.

        Args:
            rows: seeds, R.
            columns: seeds, K.
            layers: numbers of those that take the column's style, from 0, the coarsest; the last
                is ``network.num_styles - 1``.
            labels: the class of each row and then of each column.
            truncation: as for :meth:`generate`.

        Returns:
            ``[R, K, C, H, W]`` in [0, 1].

        Raises:
            UserError: layers that there are none of.
        """
        count = self.network.num_styles
        if not set(layers) <= set(range(count)):
            raise UserError(f"layers {list(layers)}: those of this network are 0 to {count - 1}")
        with torch.inference_mode():
            styles = self.styles_of([*rows, *columns], labels, truncation)
            across, down = styles[len(rows) :], styles[: len(rows)]
            grid = down[:, None].repeat(1, len(columns), 1, 1)
            grid[:, :, list(layers)] = across[None, :, list(layers)].expand(len(rows), -1, -1, -1)
            images = self.render(grid.flatten(0, 1))
            return images.view(len(rows), len(columns), *images.shape[1:])

    def project(
        self,
        image: Tensor,
        *,
        steps: int = 1000,
        label: int | None = None,
        filters: Filters = "vgg16_hed",
        seed: int = 0,
    ) -> Projection:
        """Find the styles and the noise that make a given image, by a search in W.

        Args:
            image: ``[C, H, W]`` in [0, 1], of the size of those that the network makes.
            steps: of the search.
            label: the class of the image, of a conditional generator.
            filters: of :class:`~lit_imgproc.models.vgg.VGGFeatures`, which images are compared by.
            seed: of the styles that the search starts amid, and of its noise.

        Returns:
            See :class:`~lit_imgproc.models.gan.projection.Projection`.

        Raises:
            UserError: an image of another size, or no class where there has to be one.
        """
        labels = self.asked([seed], None if label is None else [label])
        distance = VGGDistance(filters).to(self.device)
        return project(
            self.network, image.to(self.device), distance, steps=steps, labels=labels, seed=seed
        )
