"""CycleGAN: how images of one kind become images of another, where no pairs show how."""

import copy
from itertools import chain
from typing import Annotated, Any, Literal, cast

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torchmetrics import MeanMetric
from typing_extensions import override

from lit_imgproc import optim, pictures
from lit_imgproc.models.base import Batch
from lit_imgproc.models.exported import shown
from lit_imgproc.models.feature_networks import FeatureName
from lit_imgproc.models.translation.batch import TranslationBatch
from lit_imgproc.models.translation.losses import GanMode, discriminator_loss, generator_loss
from lit_imgproc.models.translation.networks import initialise
from lit_imgproc.models.translation.pool import ImagePool
from lit_imgproc.models.translation.translator import (
    Translator,
    Weight,
    difference,
    row_of_tiles,
)
from lit_imgproc.models.translation.weights import load_translator

POOLS = "image_pools"
"""Where a checkpoint holds them."""
MEASURED = ("cycle_error", "cycle_error_forward", "cycle_error_backward", "change")


class CycleGAN(Translator):
    """Unpaired translation by cycle-consistent adversarial networks (arXiv 1703.10593).

    Two generators translate A to B (forward) and B to A (backward), and what was translated there
    and back is to be what it was. The generators move first, both in one optimizer, then the two
    discriminators, which judge images of a pool of earlier translations.

    On several ranks each has pools of its own; a checkpoint holds those of all. With another number
    of ranks a training goes on with the same images, dealt to the ranks anew: then it is not the
    training that it would have been.

    Example:
        >>> from lit_imgproc.models.translation.networks import (
        ...     patch_discriminator, resnet_generator)
        >>> from lit_imgproc.optim import Adam
        >>> CycleGAN(network=resnet_generator(), optimizer=Adam(lr=2e-4, betas=(0.5, 0.999)),
        ...          discriminator=patch_discriminator(conditional=False, norm="instance")
        ...          )  # doctest: +SKIP

    Args:
        network: from images ``[B, C, H, W]`` in [-1, 1] of the kind A to the same of the kind B.
            The one for the way back is made like it, with weights of its own.
        discriminator: from images ``[B, C, H, W]`` to logits of any shape, of the kind B. The one
            of the kind A is made like it.
        optimizer: of the generators, and of the discriminators.
        schedule: how the learning rates go, a step at a time; None keeps them constant.
        weights: where it starts: a file of the generator from A to B, or of a run of CycleGAN, of
            which all four networks are taken; ``run:ID`` in a recipe.
        backward_weights: likewise a file of the generator from B to A.
        gan_mode: see :data:`~lit_imgproc.models.translation.losses.GanMode`.
        cycle_weight: of the mean absolute differences after both ways, in [-1, 1].
        identity_weight: of those of an image that already is of the kind that it is translated to,
            as a share of ``cycle_weight``.
        pool_size: how many translations of each kind are kept for the discriminators.
        features: by which network's features the translations of A are compared with B, as sets:
            see :class:`~lit_imgproc.models.image_sets.ImageSetMetrics`. None leaves it out.
        direction: which way is gone where an image is predicted, and by what is exported.

    Raises:
        UserError: weights that do not fit.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        discriminator: nn.Module,
        optimizer: optim.Optimizer,
        schedule: optim.Schedule | None = None,
        weights: str | None = None,
        backward_weights: str | None = None,
        gan_mode: GanMode = "lsgan",
        cycle_weight: Weight = 10.0,
        identity_weight: Weight = 0.5,
        pool_size: Annotated[int, Ge(0)] = 50,
        features: FeatureName | None = None,
        direction: Literal["forward", "backward"] = "forward",
    ) -> None:
        super().__init__(network, features)
        self.backward_network = copy.deepcopy(network).apply(initialise)
        self.discriminator = discriminator
        self.backward_discriminator = copy.deepcopy(discriminator).apply(initialise)
        self.optimizer = optimizer
        self.schedule = schedule
        self.gan_mode: GanMode = gan_mode
        self.cycle_weight = cycle_weight
        self.identity_weight = identity_weight
        self.direction = direction
        self.pools = [ImagePool(pool_size), ImagePool(pool_size)]  # of B and of A
        if weights is not None:
            names = ("network", "backward_network", "discriminator", "backward_discriminator")
            load_translator({name: getattr(self, name) for name in names}, weights)
        if backward_weights is not None:
            load_translator({"backward_network": self.backward_network}, backward_weights)
        self.measured = nn.ModuleDict(
            {f"{split}_{name}": MeanMetric() for split in ("val", "test") for name in MEASURED}
        )

    @property
    @override
    def translating(self) -> nn.Module:
        return self.network if self.direction == "forward" else self.backward_network

    @override
    def players(self) -> dict[str, nn.Module]:
        judges = [self.discriminator, self.backward_discriminator]
        return {
            "generators": nn.ModuleList([self.network, self.backward_network]),
            "discriminators": nn.ModuleList(judges),
        }

    @override
    def play(self, batch: Batch) -> Tensor:
        a, b = self.normalization(batch["image"]), self.normalization(batch["target"])
        with self.turn("generators"):
            made_b, made_a = self.network(a), self.backward_network(b)
            adversarial = generator_loss(self.gan_mode, self.discriminator(made_b))
            adversarial = adversarial + generator_loss(
                self.gan_mode, self.backward_discriminator(made_a)
            )
            again = difference(self.backward_network(made_b), a).mean()
            again = again + difference(self.network(made_a), b).mean()
            parts = {
                "adversarial_loss": adversarial,
                "cycle_loss": 2 * self.cycle_weight * again,
            }
            if self.identity_weight:
                same = difference(self.network(b), b).mean()
                same = same + difference(self.backward_network(a), a).mean()
                parts["identity_loss"] = 2 * self.cycle_weight * self.identity_weight * same
            generators = torch.stack(list(parts.values())).sum()
            self.descend("generators", generators)
        with self.turn("discriminators"):
            of_b, of_a = self.pools
            discriminators = discriminator_loss(
                self.gan_mode,
                real=self.discriminator(b),
                made=self.discriminator(of_b.exchange(made_b)),
            ) + discriminator_loss(
                self.gan_mode,
                real=self.backward_discriminator(a),
                made=self.backward_discriminator(of_a.exchange(made_a)),
            )
            self.descend("discriminators", discriminators)
        self.log("train/generator_loss", generators.detach(), prog_bar=True)
        self.log("train/discriminator_loss", discriminators.detach(), prog_bar=True)
        self.log_dict({f"train/{name}": part.detach() for name, part in parts.items()})
        return (generators + discriminators).detach()

    # Evaluation ----------------------------------------------------------------------------------

    @override
    def validation_step(self, batch: TranslationBatch, batch_idx: int) -> None:
        self._measure("val", batch)

    @override
    def test_step(self, batch: TranslationBatch, batch_idx: int) -> None:
        self._measure("test", batch)

    def _measure(self, split: str, batch: TranslationBatch) -> None:
        """Differences in [0, 1]: after both ways, from A and from B; and after one way."""
        a, b = self.normalization(batch["image"]), self.normalization(batch["target"])
        made_b, made_a = self.network(a), self.backward_network(b)
        forward = difference(self.backward_network(made_b), a)
        backward = difference(self.network(made_a), b)
        values = {
            "cycle_error": torch.cat([forward, backward]),
            "cycle_error_forward": forward,
            "cycle_error_backward": backward,
            "change": torch.cat([difference(made_b, a), difference(made_a, b)]),
        }
        for name, value in values.items():
            metric = cast(MeanMetric, self.measured[f"{split}_{name}"])
            metric.update(value)
            self.log(f"{split}/{name}", metric)
        self.compare_sets(shown(made_b), batch["target"])

    @override
    def draw(self, batch: Batch, output: list[dict[str, Any]]) -> pictures.Picture:
        """Each image there and back, and beside it one of the other kind on its way."""
        ways = {
            "image": (self.network, self.backward_network),
            "target": (self.backward_network, self.network),
        }
        columns = []
        for key, (there, back) in ways.items():
            if key not in batch:  # which has nothing but what is to be translated
                continue
            made = there(self.normalization(batch[key]))
            triples = zip(batch[key], shown(made), shown(back(made)), strict=True)
            columns.append(
                [
                    row_of_tiles(dict(zip(("is", "made", "and back"), triple, strict=True)))
                    for triple in triples
                ]
            )
        return pictures.grid(list(chain.from_iterable(zip(*columns, strict=True))))

    # Resume --------------------------------------------------------------------------------------

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[POOLS] = [pool.state() for pool in self.pools]

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for pool, state in zip(self.pools, checkpoint[POOLS], strict=True):
            pool.load(state)
