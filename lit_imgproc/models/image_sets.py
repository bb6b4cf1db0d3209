"""How well a generator's images match real ones, as two sets."""

from hashlib import blake2b

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from typing_extensions import override

from lit_imgproc.errors import UserError
from lit_imgproc.models.feature_networks import FeatureName, feature_network
from lit_imgproc.models.set_distances import feature_distance, kernel_distance, precision_recall

NEIGHBOUR = 3
"""Which neighbour a ball of precision and recall reaches, as in arXiv 1904.06991."""


class ImageSetMetrics(Metric):
    """FID, KID, precision and recall of generated images, over all images of all ranks.

    The names of the metrics carry the network whose features they compare, for figures of two
    networks have nothing to do with each other. Features are kept until the reset, on the metric's
    device, 5 kB an image; weights of the feature network are in no checkpoint.

    A validation sees the same real images again and again: features of a real batch that is, bit by
    bit, one of the last validation are not computed again.

    Args:
        features: see :func:`~lit_imgproc.models.feature_networks.feature_network`.

    Raises:
        WeightsUnavailable: the feature network's weights cannot be had here.
    """

    is_differentiable = False
    full_state_update = False
    real: list[Tensor]
    fake: list[Tensor]

    def __init__(self, features: FeatureName) -> None:
        super().__init__()
        self.network = feature_network(features)
        self.names = tuple(f"{name}_{features}" for name in ("fid", "kid", "precision", "recall"))
        self.add_state("real", [], dist_reduce_fx="cat")
        self.add_state("fake", [], dist_reduce_fx="cat")
        self._known: dict[bytes, Tensor] = {}
        """Features of real batches of the last evaluation and of this one."""
        self._seen: set[bytes] = set()
        """The real batches of this one."""
        self.reset()

    @override
    def update(self, images: Tensor, *, real: bool) -> None:
        """Take images into one of the two sets.

        Args:
            images: RGB or grey, ``[B, 3, H, W]`` or ``[B, 1, H, W]`` in [0, 1].
            real: whether they are real or were generated.

        Raises:
            UserError: images with other channels.
        """
        if real:
            self.real.append(self._features_of_real(images))
        else:
            self.fake.append(self.network(images))

    @override
    def reset(self) -> None:
        super().reset()
        self._known = {key: self._known[key] for key in self._seen}
        self._seen = set()
        # Nothing of the right shape, so that a rank without images can join the others.
        for features in (self.real, self.fake):
            features.append(torch.empty(0, self.network.dim, device=self.device))

    @override
    def compute(self) -> dict[str, Tensor]:
        """The metrics by name: those of :attr:`names` that so many images have.

        ``fid`` and ``kid`` (low is good) need two images of each set, ``precision`` and ``recall``
        (high is good) four. What cannot be computed is left out: a number in its place could be
        taken for the best one. See :mod:`~lit_imgproc.models.set_distances`.

        Raises:
            UserError: features are not finite: the generator makes no images.
        """
        real, fake = self._set("real"), self._set("fake")
        fid, kid, precision, recall = self.names
        values: dict[str, Tensor] = {}
        fewest = min(len(real), len(fake))
        if fewest > 1:
            values |= {fid: feature_distance(real, fake), kid: kernel_distance(real, fake)}
        if fewest > NEIGHBOUR:
            values[precision], values[recall] = precision_recall(real, fake, k=NEIGHBOUR)
        return {name: value.float() for name, value in values.items()}

    def _features_of_real(self, images: Tensor) -> Tensor:
        pixels = images.float().contiguous().cpu().numpy()
        key = blake2b(pixels.data, key=str(pixels.shape).encode()).digest()
        if key not in self._known:
            self._known[key] = self.network(images)
        self._seen.add(key)
        return self._known[key].to(self.device)

    def _set(self, name: str) -> Tensor:
        """The features ``[N, D]`` of a set; of all ranks, where they are synchronized."""
        features = dim_zero_cat(getattr(self, name))
        broken = int((~features.isfinite()).any(1).sum())
        if broken:
            raise UserError(
                f"{broken} of {len(features)} {name} images have features that are not finite: "
                "their pixels are not, or are far from [0, 1]"
            )
        return features
