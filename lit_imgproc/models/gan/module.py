"""How a generator learns to make images that a discriminator takes for real."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, cast

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from typing_extensions import override

from lit_imgproc import optim, pictures
from lit_imgproc.errors import UserError
from lit_imgproc.models.alternating import AlternatingModule
from lit_imgproc.models.base import Batch, Normalization
from lit_imgproc.models.exported import shown
from lit_imgproc.models.feature_networks import FeatureName
from lit_imgproc.models.gan.latents import latents_of, slerp
from lit_imgproc.models.gan.objectives import (
    Objective,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
)
from lit_imgproc.models.gan.weights import load_players
from lit_imgproc.models.image_sets import ImageSetMetrics


class GAN(AlternatingModule):
    """A generative adversarial network (Goodfellow et al., arXiv 1406.2661).

    In each batch the discriminator moves first, and then the generator. An evaluation makes as many
    images as there are real ones, of the same classes where it is conditional, and compares the two
    sets; see :class:`~lit_imgproc.models.image_sets.ImageSetMetrics`. The latents of these are
    those of the seeds from 0 on, the same in each evaluation.

    Example:
        >>> from lit_imgproc.models.gan.networks import DCGANDiscriminator, DCGANGenerator
        >>> from lit_imgproc.optim import Adam
        >>> GAN(network=DCGANGenerator([64, 64]), discriminator=DCGANDiscriminator([64, 64]),
        ...     optimizer=Adam(lr=2e-4, betas=(0.5, 0.999)))  # doctest: +SKIP

    Args:
        network: the generator, from latents ``[B, Z]`` and labels int64 ``[B]`` or None to images
            ``[B, C, H, W]`` in [-1, 1]; see :mod:`lit_imgproc.models.gan.networks`.
        discriminator: from such images and labels to logits ``[B]``.
        optimizer: what moves the generator.
        discriminator_optimizer: what moves the discriminator; None takes one like the generator's.
        schedule: how both learning rates go, a step at a time; None keeps them constant.
        objective: see :data:`~lit_imgproc.models.gan.objectives.Objective`.
        gradient_penalty: the weight of the penalty of ``wgan_gp``.
        discriminator_steps: batches in which the discriminator moves for one in which the
            generator does, too.
        features: by which network sets of images are compared.
        class_names: of a conditional generator; None numbers them.
        num_classes: of the data.
        weights: where both players start: a file, or ``run:ID`` in a recipe; or the published
            weights of one of them.

    Raises:
        UserError: players that do not agree on the classes, a penalty that the discriminator's
            batch norms forbid, or weights that do not fit.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        discriminator: nn.Module,
        optimizer: optim.Optimizer,
        discriminator_optimizer: optim.Optimizer | None = None,
        schedule: optim.Schedule | None = None,
        objective: Objective = "non_saturating",
        gradient_penalty: Annotated[float, Ge(0)] = 10.0,
        discriminator_steps: Annotated[int, Gt(0)] = 1,
        features: FeatureName = "efficientnet_lite0",
        class_names: list[str] | None = None,
        num_classes: Annotated[int, Gt(1)] | None = None,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.discriminator = discriminator
        self.optimizer = optimizer
        self.discriminator_optimizer = discriminator_optimizer or optimizer
        self.schedule = schedule
        self.objective = objective
        self.penalty_weight = gradient_penalty
        self.discriminator_steps = discriminator_steps
        self.latent_dim = cast(int, network.latent_dim)
        self.num_classes = _agreed(network, discriminator, num_classes)
        names = class_names or [str(k) for k in range(self.num_classes or 0)]
        self.class_names = names if self.num_classes else []
        if objective == "wgan_gp" and _has_batch_norm(discriminator):
            raise UserError(
                "the penalty of wgan_gp is of each image by itself, which a discriminator with "
                "batch norm does not see: set model.discriminator.norm to layer or none"
            )
        half = [0.5] * cast(int, network.channels)
        self.normalization = Normalization(half, half)  # to [-1, 1], as the players see images
        if weights is not None:
            load_players({"generator": network, "discriminator": discriminator}, weights)

        self.image_sets = ImageSetMetrics(features)
        self._made = 0

    # Training ------------------------------------------------------------------------------------

    @override
    def players(self) -> dict[str, nn.Module]:
        return {"generator": self.network, "discriminator": self.discriminator}

    @override
    def optimizer_of(self, player: str) -> optim.Optimizer:
        return self.optimizer if player == "generator" else self.discriminator_optimizer

    @override
    def play(self, batch: Batch) -> Tensor:
        labels = self.labels_of(batch)
        loss = self.discriminator_turn(self.normalization(batch["image"]), labels)
        if (self.trainer.global_step + 1) % self.discriminator_steps == 0:
            loss = loss + self.generator_turn(len(batch["image"]), labels)
        return loss

    def labels_of(self, batch: Batch) -> Tensor | None:
        """The classes int64 ``[B]`` of a batch, None where the generator is told none.

        Raises:
            UserError: it is to be told, and the batch does not say, or says several an image.
        """
        if self.num_classes is None:
            return None
        labels: Tensor | None = batch.get("label")
        if labels is None or labels.ndim != 1:
            raise UserError(
                "a conditional generator learns of images of one class each, and these data do not "
                "say it: set model.network.conditional and model.discriminator.conditional to false"
            )
        return labels

    def fakes(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """Make images ``[B, C, H, W]`` in [-1, 1]."""
        return cast(Tensor, self.network(latents, labels))

    def discriminator_turn(self, real: Tensor, labels: Tensor | None) -> Tensor:
        """Move the discriminator.

        Args:
            real: images ``[B, C, H, W]`` in [-1, 1].
            labels: int64 ``[B]``, which the generated images are of, too.

        Returns:
            Its loss, detached.
        """
        with self.turn("discriminator"):
            with torch.no_grad():
                fake = self.fakes(self.noise(len(real)), labels)
            loss = discriminator_loss(
                self.objective, self.discriminator(real, labels), self.discriminator(fake, labels)
            )
            self.log("train/discriminator_loss", loss.detach(), prog_bar=True)
            if self.objective == "wgan_gp":
                penalty = self.penalty_weight * gradient_penalty(
                    lambda images: self.discriminator(images, labels), real, fake
                )
                self.log("train/gradient_penalty", penalty.detach())
                loss = loss + penalty
            self.descend("discriminator", loss)
        return loss.detach()

    def generator_turn(self, count: int, labels: Tensor | None) -> Tensor:
        """Move the generator.

        Args:
            count: B, of images to make.
            labels: int64 ``[B]``.

        Returns:
            Its loss, detached.
        """
        with self.turn("generator"):
            fake = self.fakes(self.noise(count), labels)
            loss = generator_loss(self.objective, self.discriminator(fake, labels))
            self.descend("generator", loss)
        self.log("train/generator_loss", loss.detach(), prog_bar=True)
        return loss.detach()

    def noise(self, count: int) -> Tensor:
        """Draw latents ``[count, Z]`` from N(0, I)."""
        return torch.randn(count, self.latent_dim, device=self.device)

    # Evaluation ----------------------------------------------------------------------------------

    @override
    def on_validation_epoch_start(self) -> None:
        self._made = 0

    @override
    def on_test_epoch_start(self) -> None:
        self._made = 0

    @override
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.measure(batch)

    @override
    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.measure(batch)

    def measure(self, batch: Batch) -> None:
        """Make as many images as a batch has, and count both."""
        real, labels = batch["image"], self.labels_of(batch)
        # The ranks take turns, so that no two of them make the same image.
        places = range(self._made, self._made + len(real))
        seeds = [place * self.trainer.world_size + self.global_rank for place in places]
        self._made += len(real)
        fake = self.fakes(latents_of(seeds, self.latent_dim).to(self.device), labels)
        self.image_sets.update(real, real=True)
        self.image_sets.update(shown(fake), real=False)

    @override
    def on_validation_epoch_end(self) -> None:
        self._log_epoch("val")

    @override
    def on_test_epoch_end(self) -> None:
        self._log_epoch("test")

    def _log_epoch(self, split: str) -> None:
        # Gathered over the ranks already: no further sync is wanted.
        values = self.image_sets.compute()
        self.log_dict({f"{split}/{name}": value for name, value in values.items()})
        self.image_sets.reset()

    # Pictures ------------------------------------------------------------------------------------

    def generate(
        self,
        seeds: Sequence[int],
        *,
        labels: Sequence[int] | None = None,
        truncation: float = 1.0,
    ) -> Tensor:
        """Make one image a seed, all at once: ``[N, C, H, W]`` in [0, 1].

        Args:
            seeds: a seed gives the same latent on every machine.
            labels: the class of each image, of a conditional generator; None goes through the
                classes in turn.
            truncation: from 1, as it was trained, to 0: how far from the mean latent an image may
                be. The less it is, the more ordinary the images.

        Raises:
            UserError: labels of an unconditional generator, or of no class.
        """
        latents = truncation * latents_of(seeds, self.latent_dim)
        asked = self.asked(seeds, labels)
        with torch.inference_mode():
            return shown(self.fakes(latents.to(self.device), asked))

    def interpolate(
        self,
        seeds: Sequence[int],
        steps: int,
        *,
        labels: Sequence[int] | None = None,
        truncation: float = 1.0,
    ) -> Tensor:
        """Go from seed to seed along arcs: ``[(len(seeds) - 1) * steps + 1, C, H, W]``.

        Args:
            seeds: at least one.
            steps: images from one seed to the next, that one included.
            labels: the class of each seed, as for :meth:`generate`; it holds until the next one.
            truncation: likewise.

        Returns:
            Images in [0, 1]; every ``steps`` images, that of a seed.
        """
        corners = truncation * latents_of(seeds, self.latent_dim)
        between = [
            slerp(start, end, step / steps)
            for start, end in pairwise(corners)
            for step in range(steps)
        ]
        asked = self.asked(seeds, labels)
        if asked is not None:
            asked = torch.cat([asked[:-1].repeat_interleave(steps), asked[-1:]])
        with torch.inference_mode():
            return shown(self.fakes(torch.stack([*between, corners[-1]]).to(self.device), asked))

    def asked(self, seeds: Sequence[int], labels: Sequence[int] | None) -> Tensor | None:
        """The labels int64 ``[N]`` of images to make, as :meth:`generate` takes them."""
        if self.num_classes is None:
            if labels is not None:
                raise UserError("this generator is told no classes, and so makes none on demand")
            return None
        chosen = [seed % self.num_classes for seed in seeds] if labels is None else list(labels)
        if not all(0 <= label < self.num_classes for label in chosen):
            raise UserError(f"labels {chosen}: the classes are 0 to {self.num_classes - 1}")
        return torch.tensor(chosen, device=self.device)

    @override
    def predict_step(self, batch: Batch, batch_idx: int = 0) -> list[dict[str, Any]]:
        """Make the images of the seeds from 0 on, as many as the batch has, of its classes.

        Returns:
            One an image: ``id``, and ``image`` uint8 ``[H, W, C]``; ``label``, where there is one.
        """
        seeds = range(len(batch["image"]))
        given = self.num_classes is not None and "label" in batch
        labels = batch["label"].tolist() if given else None
        asked = self.asked(seeds, labels)
        answers: list[dict[str, Any]] = []
        for seed, image in zip(seeds, self.generate(seeds, labels=labels), strict=True):
            pixels = image.mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
            answers.append({"id": f"seed{seed:04d}", "image": pixels})
            if asked is not None:
                answers[-1]["label"] = self.class_names[int(asked[seed])]
        return answers

    def draw(self, batch: Batch, output: list[dict[str, Any]]) -> pictures.Picture:
        """The images that were made, those of a class side by side."""
        tiles = []
        for answer in sorted(output, key=lambda answer: str(answer.get("label"))):
            tile = pictures.tile(answer["image"].transpose(2, 0, 1) / 255)
            tiles.append(pictures.caption(tile, [answer["label"]]) if "label" in answer else tile)
        return pictures.grid(tiles)


def _agreed(network: nn.Module, discriminator: nn.Module, num_classes: int | None) -> int | None:
    """The number of classes that both players are told, None where they are told none."""
    made, judged = network.num_classes, discriminator.num_classes
    if made != judged:
        raise UserError(
            f"the generator is told {_counted(made)} and the discriminator {_counted(judged)}: "
            "set model.network.conditional and model.discriminator.conditional alike"
        )
    if made is not None and num_classes not in (None, made):
        raise UserError(
            f"the generator is told {_counted(made)}, and the data have {num_classes}: leave "
            "num_classes of the networks out, and they take it from the data"
        )
    return cast("int | None", made)


def _counted(classes: Any) -> str:
    return "no classes" if classes is None else f"{classes} classes"


def _has_batch_norm(network: nn.Module) -> bool:
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules())
