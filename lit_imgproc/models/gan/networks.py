"""The generator and the discriminator of DCGAN (Radford et al., arXiv 1511.06434).

A generator of this family makes images ``[B, C, H, W]`` in [-1, 1] of latents ``[B, Z]`` and, where
it is conditional, of labels int64 ``[B]``. It says what it takes: ``latent_dim`` (Z),
``num_classes`` (None where it is not conditional), and ``channels`` (C). A discriminator gives one
logit an image ``[B]``, and says ``num_classes``, too.

At 64 pixels, three channels and a width of 64 these are, weight for weight, those of PyTorch's
example, which follows the authors' code: 3,576,704 parameters and 2,765,568. Other sizes have fewer
or more blocks; each halves or doubles the side, and the number of channels the other way.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, cast

import torch
from annotated_types import Ge, Len
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from lit_imgproc.errors import UserError

Count = Annotated[int, Ge(1)]
Size = Annotated[list[Count], Len(2, 2)]
SMALLEST = range(4, 8)
"""Sides at which a generator may start and a discriminator end."""
SLOPE = 0.2
"""Of leaky ReLUs, below 0."""


class DCGANGenerator(nn.Module):
    """From noise to an image, by transposed convolutions.

    Where it is conditional, each batch norm has gains and offsets for every class (arXiv
    1610.07629), as in the networks of arXiv 1802.05637. All variety within a class still comes from
    the latent: given beside it, the class would soon be all that the first layer listens to.

    Args:
        image_size: height and width of the images, the same: 4 to 7 pixels, doubled at least once.
        in_channels: C.
        latent_dim: Z.
        width: channels of the last block but the image; each block before it has twice as many.
        conditional: whether it is told the class of the image that it makes.
        num_classes: how many there are, where it is conditional.

    Raises:
        UserError: a size that it cannot make, or no number of classes where it is conditional.
    """

    def __init__(
        self,
        image_size: Size,
        in_channels: Count = 3,
        latent_dim: Count = 100,
        width: Count = 64,
        conditional: bool = False,
        num_classes: Count | None = None,
    ) -> None:
        super().__init__()
        start, doublings = _halvings(image_size)
        self.latent_dim, self.channels = latent_dim, in_channels
        self.num_classes = _classes(conditional, num_classes)
        widths = [width * 2**i for i in reversed(range(doublings))]
        convs = [nn.ConvTranspose2d(latent_dim, widths[0], start, bias=False)]
        for wide, narrow in zip(widths, [*widths[1:], in_channels], strict=True):
            convs.append(nn.ConvTranspose2d(wide, narrow, 4, 2, 1, bias=False))
        self.convs = nn.ModuleList(convs)
        # None follows the last one, which makes the image.
        self.norms = nn.ModuleList(_batch_norm(wide, self.num_classes) for wide in widths)
        initialize(self)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images ``[B, C, H, W]`` in [-1, 1].

        Args:
            latents: ``[B, Z]``, of N(0, I).
            labels: int64 ``[B]``, where it is conditional.
        """
        told = () if self.num_classes is None else (labels,)
        features = latents[:, :, None, None]
        for conv, norm in zip(self.convs, self.norms, strict=False):
            features = torch.relu(norm(conv(features), *told))
        return torch.tanh(self.convs[-1](features))

    def from_published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give the weights of PyTorch's example (``netG``) their names here.

        There the layers are numbered as they follow each other, ``main.N``: a convolution, its norm
        and its activation, and again.
        """
        renamed = {}
        for name, value in state.items():
            number, rest = _numbered(name)
            kind = "convs" if number % 3 == 0 else "norms"
            renamed[f"{kind}.{number // 3}.{rest}" if number >= 0 else name] = value
        return renamed


class DCGANDiscriminator(nn.Module):
    """From an image to one logit, by strided convolutions.

    Where it is conditional, the inner product of the last features with a vector of the class is
    added to the logit: the projection of Miyato & Koyama, arXiv 1802.05637. DCGAN pools nothing, so
    the features are those of all places.

    Args:
        image_size: height and width of the images, the same: 4 to 7 pixels, doubled at least once.
        in_channels: C.
        width: channels of the first block; each block after it has twice as many.
        norm: what follows the convolutions but the first: ``batch`` as in DCGAN; ``layer``, which
            looks at each image by itself, as a gradient penalty asks for; or ``none``.
        spectral: divide each weight by its largest singular value (arXiv 1802.05957).
        conditional: whether it is told the class that the image is to be of.
        num_classes: how many there are, where it is conditional.

    Raises:
        UserError: a size that it cannot look at, or no number of classes where it is conditional.
    """

    def __init__(
        self,
        image_size: Size,
        in_channels: Count = 3,
        width: Count = 64,
        norm: Literal["batch", "layer", "none"] = "batch",
        spectral: bool = False,
        conditional: bool = False,
        num_classes: Count | None = None,
    ) -> None:
        super().__init__()
        end, halvings = _halvings(image_size)
        self.num_classes = _classes(conditional, num_classes)
        widths = [width * 2**i for i in range(halvings)]
        bias = norm == "none"  # a norm has an offset of its own
        self.convs = nn.ModuleList(
            nn.Conv2d(narrow, wide, 4, 2, 1, bias=bias)
            for narrow, wide in zip([in_channels, *widths], widths, strict=False)
        )
        self.norms = nn.ModuleList(_norm(norm, wide) for wide in widths[1:])
        self.head = nn.Conv2d(widths[-1], 1, end, bias=bias)
        self.projection: nn.Embedding | None = None
        if self.num_classes is not None:
            self.projection = nn.Embedding(self.num_classes, widths[-1] * end**2)
            nn.init.normal_(self.projection.weight, 0, 0.02)  # as the weights of the head
        initialize(self)
        if spectral:
            for layer in (*self.convs, self.head, self.projection):
                if layer is not None:
                    spectral_norm(layer)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits ``[B]``, high for what looks real.

        Args:
            images: ``[B, C, H, W]`` in [-1, 1].
            labels: int64 ``[B]``, where it is conditional.
        """
        features = images
        for number, conv in enumerate(self.convs):
            features = conv(features)
            features = self.norms[number - 1](features) if number else features
            features = nn.functional.leaky_relu(features, SLOPE)
        logits: Tensor = self.head(features).flatten()
        if self.projection is None:
            return logits
        classes: Tensor = self.projection(labels)
        return logits + (classes * features.flatten(1)).sum(1)

    def from_published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give the weights of PyTorch's example (``netD``) their names here.

        There the layers are numbered as they follow each other, ``main.N``. The first convolution
        has an activation behind it, and each other one a norm before that.
        """
        last = max((_numbered(name)[0] for name in state), default=-1)
        renamed = {}
        for name, value in state.items():
            number, rest = _numbered(name)
            if number < 0:
                renamed[name] = value
            elif number == last:
                renamed[f"head.{rest}"] = value
            else:
                kind = "norms" if number and number % 3 == 0 else "convs"
                place = number // 3 - 1 if kind == "norms" else (number + 1) // 3
                renamed[f"{kind}.{place}.{rest}"] = value
        return renamed


class ConditionalBatchNorm(nn.Module):
    """A batch norm with gains and offsets of its own for every class.

    They start as N(1, 0.1) and N(0, 0.1), so that classes differ from the first step on.

    Args:
        channels: of what it norms.
        num_classes: K.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.gain = nn.Embedding(num_classes, channels)
        self.offset = nn.Embedding(num_classes, channels)
        nn.init.normal_(self.gain.weight, 1, 0.1)
        nn.init.normal_(self.offset.weight, 0, 0.1)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Norm features ``[B, C, H, W]`` of images of the classes ``labels``, int64 ``[B]``."""
        normed: Tensor = self.norm(features)
        gain: Tensor = self.gain(labels)
        offset: Tensor = self.offset(labels)
        return normed * gain[:, :, None, None] + offset[:, :, None, None]


def initialize(network: nn.Module) -> None:
    """Draw weights as DCGAN does: N(0, 0.02), gains of norms N(1, 0.02), offsets 0."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, 0, 0.02)
        elif isinstance(layer, nn.BatchNorm2d | nn.GroupNorm) and layer.affine:
            nn.init.normal_(layer.weight, 1, 0.02)
        else:
            continue
        if getattr(layer, "bias", None) is not None:
            nn.init.zeros_(cast(Tensor, layer.bias))


def _halvings(image_size: Size) -> tuple[int, int]:
    """The smallest side of the features of an image, and how often it has to be halved for that."""
    height, width = image_size
    side, halvings = height, 0
    while side > SMALLEST[-1] and side % 2 == 0:
        side, halvings = side // 2, halvings + 1
    if height != width or side not in SMALLEST or not halvings:
        raise UserError(
            f"DCGAN makes square images whose side is 4, 5, 6 or 7 times a power of 2, and these "
            f"are {height}x{width}: set data.image_size to 28, 32, 64 or 128, say"
        )
    return side, halvings


def _classes(conditional: bool, num_classes: int | None) -> int | None:
    """The classes that a network is told."""
    if conditional and num_classes is None:
        raise UserError("a conditional network needs num_classes, which the data say if they do")
    return num_classes if conditional else None


def _batch_norm(channels: int, num_classes: int | None) -> nn.Module:
    if num_classes is None:
        return nn.BatchNorm2d(channels)
    return ConditionalBatchNorm(channels, num_classes)


def _norm(norm: Literal["batch", "layer", "none"], channels: int) -> nn.Module:
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(1, channels) if norm == "layer" else nn.Identity()


def _numbered(name: str) -> tuple[int, str]:
    """The number of a layer and the rest of a name ``main.N.rest``; -1 of any other name."""
    head, _, tail = name.partition(".")
    number, _, rest = tail.partition(".")
    return (int(number), rest) if head == "main" and number.isdigit() else (-1, name)
