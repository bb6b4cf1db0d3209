"""Networks that redraw any image at once: in one style, and in any."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from typing_extensions import override

from lit_imgproc import optim
from lit_imgproc.errors import UserError
from lit_imgproc.models.base import Batch, Normalization
from lit_imgproc.models.style_transfer.base import Stylizer, from_bytes
from lit_imgproc.models.style_transfer.losses import (
    Features,
    content_loss,
    gram,
    statistics_loss,
    style_loss,
    total_variation,
)
from lit_imgproc.models.style_transfer.networks import (
    Statistics,
    adaptive_instance_norm,
    channel_statistics,
)
from lit_imgproc.models.style_transfer.weights import load_stylizer
from lit_imgproc.models.vgg import Filters, VGGFeatures

Weight = Annotated[float, Ge(0)]
Style = Mapping[str, Statistics]
"""What AdaIN knows of a style: statistics by layer."""
STYLE_LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3")
"""Of Johnson et al."""
ENCODED = ["relu1_1", "relu2_1", "relu3_1", "relu4_1"]
"""Whose statistics AdaIN compares; the decoder decodes the last."""
STRIPES = "stripes"
"""The style that needs no file."""
STRIDE = 8
"""Pixels of an image that one of the features of ``relu4_1`` is of."""
_WIDTHS = (64, 128, 256, 512, 512)
"""Channels of the blocks of VGG."""


class StyleTransfer(Stylizer):
    """A network for one style, after Johnson et al. (arXiv 1603.08155).

    It is trained on photographs of anything: what it makes of them is to have their features in a
    deep layer of VGG, and the Gram matrices of the style's picture in several layers. Those
    matrices are in the checkpoint, so that the picture is needed at the start of a fit only.

    Example:
        >>> from lit_imgproc.models.style_transfer.networks import johnson
        >>> from lit_imgproc.optim import Adam
        >>> StyleTransfer(network=johnson(), style="mosaic.jpg",
        ...               optimizer=Adam(lr=1e-3))  # doctest: +SKIP

    Args:
        network: from images ``[B, 3, H, W]`` in [0, 255] to such images.
        style: the file of the style's picture; ``stripes`` draws one, for a trial.
        optimizer: what moves the weights; norms and biases get no weight decay.
        schedule: how the learning rate goes, a step at a time; None keeps it constant.
        weights: a file where the network starts: see
            :mod:`lit_imgproc.models.style_transfer.weights`.
        filters: of VGG: see :class:`~lit_imgproc.models.vgg.VGGFeatures`.
        style_size: the shorter side of the style's picture in pixels, against those of the
            training images: the larger, the larger its strokes.
        content_layers: whose features the content keeps.
        style_layers: whose Gram matrices the style has, and what each counts.
        content_weight: of the content's part of the loss.
        style_weight: of the style's part.
        tv_weight: of the total variation.

    Raises:
        UserError: weights that do not fit, unknown layers, or when a fit begins no such picture.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        style: str,
        optimizer: optim.Optimizer,
        schedule: optim.Schedule | None = None,
        weights: str | None = None,
        filters: Filters = "vgg16_hed",
        style_size: Annotated[int, Gt(0)] = 256,
        content_layers: list[str] | None = None,
        style_layers: dict[str, Weight] | None = None,
        content_weight: Weight = 1.0,
        style_weight: Weight = 2.0,
        tv_weight: Weight = 0.0,
    ) -> None:
        super().__init__()
        self.network = network
        self.optimizer, self.schedule = optimizer, schedule
        if weights is not None:
            load_stylizer(network, weights)
        self.normalization = Normalization([0.0] * 3, [1 / 255] * 3)
        self.style, self.style_size = style, style_size
        self.content_layers = content_layers or ["relu2_2"]
        self.style_layers = style_layers or dict.fromkeys(STYLE_LAYERS, 1.0)
        self.weights_of_losses = {
            "content_loss": content_weight,
            "style_loss": style_weight,
            "tv": tv_weight,
        }
        self.features = VGGFeatures(filters, [*self.content_layers, *self.style_layers])
        # Of what is on the way to the content's layers alone: most of the way is not needed.
        self.content_features = VGGFeatures(filters, self.content_layers)
        for name in self.style_layers:
            channels = _WIDTHS[int(name[len("relu")]) - 1]
            self.register_buffer(_buffer(name), torch.zeros(channels, channels))

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Redraw images ``[B, 3, H, W]`` in [0, 1], of any size; what is made is not clamped."""
        made: Tensor = self.network(self.normalization(images))
        return made / 255

    @property
    def grams(self) -> dict[str, Tensor]:
        """The Gram matrices of the style by layer, zeros until a fit begins."""
        return {name: self.get_buffer(_buffer(name)) for name in self.style_layers}

    @override
    def drawn(self, batch: Batch) -> Tensor:
        made: Tensor = self(batch["image"])
        return made

    @override
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return self.compare(self.drawn(batch), batch["image"])

    def compare(self, made: Tensor, images: Tensor) -> dict[str, Tensor]:
        """The parts of the loss, not weighted, of what was made of images, ``[B, 3, H, W]`` both.

        They are of one size.
        """
        features = self.features(made)
        with torch.no_grad():
            original = self.content_features(images)
        return {
            "content_loss": content_loss(features, original),
            "style_loss": style_loss(features, self.grams, self.style_layers),
            "tv": total_variation(made),
        }

    @override
    def on_fit_start(self) -> None:
        self._see_style()

    @override
    def on_test_start(self) -> None:
        self._see_style()

    def _see_style(self) -> None:
        """Look at the style's picture, unless a checkpoint has brought what there is to see."""
        if any(bool(one.any()) for one in self.grams.values()):
            return
        picture = read_picture(self.style, self.style_size).to(self.device)
        with torch.no_grad():
            seen: Features = self.features(picture[None])
        for name, own in self.grams.items():
            own.copy_(gram(seen[name])[0])


class AdaIN(Stylizer):
    """A network for any style, after Huang & Belongie (arXiv 1703.06868).

    An image is seen by VGG, its features get the mean and deviation of each channel of a style's,
    and a decoder makes an image of them. The decoder alone is trained: what it makes is to have
    the features that it was given, and the statistics of the style in several layers. A batch has
    photographs as ``image`` and pictures of styles as ``target``.

    Example:
        >>> from lit_imgproc.models.style_transfer.networks import adain_decoder
        >>> from lit_imgproc.optim import Adam
        >>> AdaIN(network=adain_decoder(), optimizer=Adam(lr=1e-4))  # doctest: +SKIP

    Args:
        network: from features ``[B, 512, h, w]`` of ``relu4_1`` to images ``[B, 3, 8h, 8w]``.
        optimizer: what moves the weights; biases get no weight decay.
        schedule: how the learning rate goes, a step at a time; None keeps it constant.
        weights: a file where the decoder starts: see
            :mod:`lit_imgproc.models.style_transfer.weights`.
        filters: of VGG, which encodes: see :class:`~lit_imgproc.models.vgg.VGGFeatures`.
        content_weight: of the features' part of the loss.
        style_weight: of the statistics' part.
        tv_weight: of the total variation.
        alpha: how strong the style is in evaluation: 0 leaves the content as it is.

    Raises:
        UserError: weights that do not fit.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        optimizer: optim.Optimizer,
        schedule: optim.Schedule | None = None,
        weights: str | None = None,
        filters: Filters = "vgg16_hed",
        content_weight: Weight = 1.0,
        style_weight: Weight = 1.0,
        tv_weight: Weight = 0.0,
        alpha: Annotated[float, Ge(0), Le(1)] = 1.0,
    ) -> None:
        super().__init__()
        self.network = network
        self.optimizer, self.schedule = optimizer, schedule
        if weights is not None:
            load_stylizer(network, weights)
        self.normalization = Normalization([0.0] * 3, [1.0] * 3)  # VGG has its own
        self.alpha = alpha
        self.weights_of_losses = {
            "content_loss": content_weight,
            "style_loss": style_weight,
            "tv": tv_weight,
        }
        self.features = VGGFeatures(filters, ENCODED)

    def encode(self, images: Tensor) -> Tensor:
        """The features that the decoder decodes, ``[B, 512, ceil(H / 8), ceil(W / 8)]``.

        Sides that 8 does not divide go on with their last pixels.
        """
        return self._seen(images)[ENCODED[-1]]

    def _seen(self, images: Tensor) -> dict[str, Tensor]:
        missing = [-side % STRIDE for side in images.shape[2:]]
        padded = F.pad(images, [0, missing[1], 0, missing[0]], mode="replicate")
        seen: dict[str, Tensor] = self.features(padded)
        return seen

    def style_of(self, pictures: Sequence[Tensor], shares: Sequence[float]) -> Style:
        """The style of several pictures, between which it lies.

        Args:
            pictures: ``[B, 3, h, w]`` in [0, 1] each; they may differ in size.
            shares: what each counts. The sum should be 1.
        """
        # Normalized features times a deviation plus a mean are linear in both: a mixture of
        # features in several styles is made by mixed statistics.
        mixed: dict[str, Statistics] = {}
        for picture, share in zip(pictures, shares, strict=True):
            for name, seen in self._seen(picture).items():
                own = Statistics(*(share * value for value in channel_statistics(seen)))
                before = mixed.get(name)
                mixed[name] = own if before is None else Statistics(*map(torch.add, before, own))
        return mixed

    def decode(
        self, features: Tensor, style: Style, alpha: float, own: Statistics | None = None
    ) -> Tensor:
        """Images ``[B, 3, 8h, 8w]`` of features ``[B, 512, h, w]`` in a style, not clamped.

        Args:
            features: of :meth:`encode`.
            style: of :meth:`style_of`.
            alpha: how strong it is.
            own: the statistics of the features, where they are a part of a larger image.
        """
        styled = adaptive_instance_norm(features, style[ENCODED[-1]], own)
        made: Tensor = self.network(features.lerp(styled, alpha))
        return made

    @override
    def forward(self, images: Tensor, styles: Tensor) -> Tensor:
        """Redraw images ``[B, 3, H, W]`` in [0, 1] in styles ``[B, 3, h, w]``, not clamped."""
        made = self.decode(self.encode(images), self.style_of([styles], [1.0]), self.alpha)
        return made[..., : images.shape[2], : images.shape[3]]

    @override
    def drawn(self, batch: Batch) -> Tensor:
        if "target" not in batch:
            raise UserError(
                "a network for any style needs one: give `lit-imgproc stylize` --style a picture"
            )
        made: Tensor = self(batch["image"], batch["target"])
        return made

    @override
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        with torch.no_grad():
            style = self.style_of([batch["target"]], [1.0])
            target = adaptive_instance_norm(self.encode(batch["image"]), style[ENCODED[-1]])
        return self.compare(self.network(target), target, style)

    def compare(self, made: Tensor, target: Tensor, style: Style) -> dict[str, Tensor]:
        """The parts of the loss, not weighted.

        Args:
            made: images ``[B, 3, H, W]``.
            target: the features that they are to have, ``[B, 512, ceil(H / 8), ceil(W / 8)]``.
            style: of :meth:`style_of`.
        """
        features = self._seen(made)
        return {
            "content_loss": content_loss(features, {ENCODED[-1]: target}),
            "style_loss": statistics_loss(features, style),
            "tv": total_variation(made),
        }


def read_picture(path: str, size: int) -> Tensor:
    """A picture ``[3, H, W]`` in [0, 1] whose shorter side has ``size`` pixels.

    Args:
        path: of a file; :data:`STRIPES` draws a picture.
        size: in pixels.

    Raises:
        UserError: it is not there or cannot be read.
    """
    import cv2

    if path == STRIPES:
        y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
        phases = torch.arange(3).view(3, 1, 1)
        return torch.sin((x + 2 * y) / 3 + phases) / 2 + 0.5
    if not Path(path).is_file():
        raise UserError(f"there is no picture {path} of the style: give model.style its file")
    pixels = cv2.imread(path, cv2.IMREAD_COLOR_RGB)
    if pixels is None:
        raise UserError(f"{path} cannot be read as a picture: give model.style a JPEG or PNG file")
    height, width = pixels.shape[:2]
    scale = size / min(height, width)
    wanted = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return from_bytes(np.asarray(cv2.resize(pixels, wanted, interpolation=how), np.uint8))


def _buffer(layer: str) -> str:
    return f"style_{layer}"
