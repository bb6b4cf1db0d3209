"""Networks whose features sets of images are compared by: see :mod:`.image_sets`."""

from collections.abc import Callable
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torchvision import transforms
from typing_extensions import override

from lit_imgproc.errors import UserError
from lit_imgproc.extras import require
from lit_imgproc.models.backbones import (
    WeightsUnavailable,
    create_timm,
    pretrained_normalization,
)
from lit_imgproc.models.frozen import Frozen
from lit_imgproc.models.weights import load_weights

FeatureName = Literal["inception", "efficientnet_lite0", "pixels"]
"""See :func:`feature_network`."""


class FeatureNetwork(Frozen):
    """A frozen network from images to one vector each.

    It is in no checkpoint, moves with the module round it, and always computes in float32, so that
    what it measures does not depend on the precision of a training.

    Args:
        name: of the network.
        dim: the length of a vector.
        network: from ``[B, 3, H, W]`` in [0, 1] to ``[B, dim]``.
    """

    def __init__(self, name: FeatureName, dim: int, network: nn.Module) -> None:
        super().__init__(network)
        self.name, self.dim = name, dim

    @override
    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Compute features.

        Args:
            images: RGB or grey, ``[B, 3, H, W]`` or ``[B, 1, H, W]`` in [0, 1], of any size.

        Returns:
            float32 ``[B, dim]``.

        Raises:
            UserError: images with other channels.
        """
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise UserError(
                f"the features {self.name} are of RGB or grey images, and these are "
                f"{list(images.shape)}: sets of images with other channels cannot be compared"
            )
        with torch.autocast(images.device.type, enabled=False):
            return super().forward(images.float().expand(-1, 3, -1, -1))

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        return super()._apply(lambda t: t.to(fn(t.new_empty(0)).device), recurse)


def feature_network(name: FeatureName) -> FeatureNetwork:
    """Make a network to compare sets of images by.

    Distances by different features have nothing to do with each other.

    Args:
        name: which one.

            - ``inception``: the Inception-v3 (2,048 features) by which published FIDs are computed,
              with its own way to resize; of torch-fidelity, which downloads its weights.
            - ``efficientnet_lite0``: 1,280 features of EfficientNet-Lite0, trained on ImageNet,
              whose weights come with a package; of images resized to 96x96 pixels, by which a CPU
              takes some milliseconds an image.
            - ``pixels``: 8x8 averages of the pixels (192). For toys and tests.

    Raises:
        WeightsUnavailable: its weights are not on this machine and cannot be had.
        UserError: it needs a library that is not installed.
    """
    if name == "pixels":
        return FeatureNetwork(name, 192, nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten()))
    if name == "inception":
        return FeatureNetwork(name, 2048, _Inception())
    trunk = create_timm("tf_efficientnet_lite0", num_classes=0, in_channels=3)
    load_weights(trunk, "pretrained")
    trunk.to(memory_format=torch.channels_last)  # two thirds of the time on a CPU
    normalize = transforms.Normalize(*pretrained_normalization(trunk))
    # Bilinear, of pixels in [0, 1].
    resize = transforms.Resize((96, 96), antialias=True)
    return FeatureNetwork(name, 1280, nn.Sequential(resize, normalize, trunk))


class _Inception(nn.Module):
    """The Inception-v3 of TensorFlow that FID is defined by. It sees eight-bit images."""

    def __init__(self) -> None:
        super().__init__()
        library = require("torch_fidelity.feature_extractor_inceptionv3", "fid")
        try:
            self.extractor: Any = library.FeatureExtractorInceptionV3("inception", ["2048"])
        except (OSError, RuntimeError) as error:
            raise WeightsUnavailable(
                "The weights of the Inception-v3 of FID are not on this machine and could not be "
                "downloaded: compare by the features efficientnet_lite0, whose weights come with "
                f"a package, or fetch {library.URL_INCEPTION_V3.rsplit('/', 1)[-1]} on a machine "
                f"with a network and put it into {torch.hub.get_dir()}/checkpoints. "
                f"The library said: {str(error).strip().splitlines()[0]}"
            ) from error

    def forward(self, images: Tensor) -> Tensor:
        eight_bit = images.clamp(0, 1).mul(255).round().to(torch.uint8)
        # Eight bits hold no NaN: what is none of an image must not look like one.
        finite = images.flatten(1).isfinite().all(1, keepdim=True)
        return torch.where(finite, self.extractor(eight_bit)[0], torch.nan)
