"""pix2pix: how an image is translated where pairs show what it should become."""

import torch
from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError, MetricCollection
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure
from typing_extensions import override

from lit_imgproc import optim
from lit_imgproc.errors import UserError
from lit_imgproc.models.base import Batch
from lit_imgproc.models.feature_networks import FeatureName
from lit_imgproc.models.translation.batch import TranslationBatch
from lit_imgproc.models.translation.losses import GanMode, discriminator_loss, generator_loss
from lit_imgproc.models.translation.translator import Translator, Weight, difference
from lit_imgproc.models.translation.weights import load_translator


class Pix2Pix(Translator):
    """Image-to-image translation by conditional adversarial networks (arXiv 1611.07004).

    The network is to make the paired image, by its pixels (L1), and so that a discriminator, which
    sees the pair, takes it for real. The discriminator moves first.

    Example:
        >>> from lit_imgproc.models.translation.networks import patch_discriminator, unet_generator
        >>> from lit_imgproc.optim import Adam
        >>> Pix2Pix(network=unet_generator([256, 256]), discriminator=patch_discriminator(),
        ...         optimizer=Adam(lr=2e-4, betas=(0.5, 0.999)))  # doctest: +SKIP

    Args:
        network: from images ``[B, C, H, W]`` in [-1, 1] to images ``[B, K, H, W]`` in [-1, 1].
        optimizer: of each of the two networks.
        discriminator: from an image and what it became, ``[B, C + K, H, W]``, to logits of any
            shape; None where ``adversarial_weight`` is 0.
        schedule: how the learning rates go, a step at a time; None keeps them constant.
        weights: where it starts: a file of a generator, or of a run of pix2pix, whose discriminator
            is taken, too; ``run:ID`` in a recipe.
        gan_mode: see :data:`~lit_imgproc.models.translation.losses.GanMode`.
        adversarial_weight: of what the discriminator says, in the generator's loss.
        l1_weight: of the mean absolute difference in [-1, 1].
        features: by which network's features translations are compared with targets, as sets: see
            :class:`~lit_imgproc.models.image_sets.ImageSetMetrics`. None leaves it out.

    Raises:
        UserError: weights that do not fit, a discriminator that has no say, or none where it has.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        optimizer: optim.Optimizer,
        discriminator: nn.Module | None = None,
        schedule: optim.Schedule | None = None,
        weights: str | None = None,
        gan_mode: GanMode = "vanilla",
        adversarial_weight: Weight = 1.0,
        l1_weight: Weight = 100.0,
        features: FeatureName | None = None,
    ) -> None:
        super().__init__(network, features)
        if (discriminator is None) != (adversarial_weight == 0):
            raise UserError(
                "discriminator and adversarial_weight belong together: give pix2pix a "
                "discriminator, such as patch_discriminator, or set adversarial_weight to 0 and "
                "discriminator to null, for the L1 loss alone"
            )
        self.discriminator = discriminator
        self.optimizer = optimizer
        self.schedule = schedule
        self.gan_mode: GanMode = gan_mode
        self.adversarial_weight = adversarial_weight
        self.l1_weight = l1_weight
        if weights is not None:
            named = {"network": network, "discriminator": discriminator}
            load_translator({k: v for k, v in named.items() if v is not None}, weights)
        self.val_metrics = _metrics("val/")
        self.test_metrics = _metrics("test/")

    @override
    def players(self) -> dict[str, nn.Module]:
        if self.discriminator is None:
            return {"generator": self.network}
        return {"generator": self.network, "discriminator": self.discriminator}

    @override
    def play(self, batch: Batch) -> Tensor:
        source, target = self.normalization(batch["image"]), self.normalization(batch["target"])
        made = self.network(source)
        losses = []
        if self.discriminator is not None:
            with self.turn("discriminator"):
                loss = discriminator_loss(
                    self.gan_mode,
                    real=self.discriminator(torch.cat([source, target], 1)),
                    made=self.discriminator(torch.cat([source, made.detach()], 1)),
                )
                self.descend("discriminator", loss)
            self.log("train/discriminator_loss", loss.detach(), prog_bar=True)
            losses.append(loss.detach())
        with self.turn("generator"):
            apart = difference(made, target).mean()
            loss = 2 * self.l1_weight * apart
            if self.discriminator is not None:
                logits = self.discriminator(torch.cat([source, made], 1))
                adversarial = generator_loss(self.gan_mode, logits)
                self.log("train/adversarial_loss", adversarial.detach())
                loss = loss + self.adversarial_weight * adversarial
            self.descend("generator", loss)
        self.log("train/generator_loss", loss.detach(), prog_bar=True)
        self.log("train/l1", apart.detach())
        losses.append(loss.detach())
        return torch.stack(losses).sum()

    @override
    def validation_step(self, batch: TranslationBatch, batch_idx: int) -> None:
        self._measure(self.val_metrics, batch)

    @override
    def test_step(self, batch: TranslationBatch, batch_idx: int) -> None:
        self._measure(self.test_metrics, batch)

    def _measure(self, metrics: MetricCollection, batch: TranslationBatch) -> None:
        made = self(batch["image"])
        metrics.update(made, batch["target"])
        self.compare_sets(made, batch["target"])
        self.log_dict(metrics)


def _metrics(prefix: str) -> MetricCollection:
    """Of images in [0, 1]."""
    return MetricCollection(
        {
            "l1": MeanAbsoluteError(),
            "psnr": PeakSignalNoiseRatio(data_range=1.0, dim=(1, 2, 3)),
            "ssim": StructuralSimilarityIndexMeasure(data_range=1.0),
        },
        prefix=prefix,
    )
