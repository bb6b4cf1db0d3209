"""Whether a map depends on what the network has learned: the parameter randomisation check."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lit_imgproc.explain.faithfulness import standard_ranks
from lit_imgproc.models.backbones import layer_groups
from lit_imgproc.models.base import ImageModule

FAILED = 0.7
"""A method fails whose maps are this similar when all layers are random.

Measured on EfficientNet-Lite0, a ResNet-20 and two small networks for Fashion-MNIST: Grad-CAM comes
to 0.0 to 0.3, gradients to 0.2, integrated gradients to 0.3, SmoothGrad to 0.5; gradient times
input comes to 0.9 where an image is mostly black, and an edge detector to 1. Maps of few cells are
alike by chance: for Grad-CAM of a single image the values spread by 0.3 round their mean, and 1 in
100 lies above the threshold; the mean of eight images spreads by up to 0.2 over draws of random
weights. So one draw tells pass from fail if there are a few images.
"""


def sanity_check(
    module: ImageModule,
    maps_of: Callable[[], Sequence[Tensor]],
    *,
    images: Tensor | Sequence[Tensor],
    shares: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
    seed: int = 0,
) -> list[float]:
    """Compare maps with those of the same network with random weights (arXiv 1810.03292).

    Layers are randomised from the head down, as in the paper's cascading test, and the similarity
    is Spearman's rank correlation of the maps without their signs. The paper gives it with and
    without; with them, a method passes of which only the signs follow the network. Gradient times
    input shows the shape of a garment whatever the weights are: 0.9 without signs, 0.0 with them.

    Args:
        module: in eval mode, as of :func:`~lit_imgproc.explain.undisturbed.undisturbed`.
        maps_of: explains with the module as it is at that time: a map ``[*S]`` for each image, of
            the same targets every time.
        images: those that are explained, ``[B, C, *S]``, or a list of ``[C, *S]``.
        shares: of the layers, in (0, 1].
        seed: of the random weights.

    Returns:
        For each share the mean over the images, in [-1, 1]. An image is left out where the map of
        the trained network is flat, and counts as 0 where only that of the random one is. Without
        any image, nan. A last value of :data:`FAILED` or more means that the method does not
        explain this network. The first values say less: with the head alone random, Grad-CAM
        weighs the same features by chance, which came to -0.3 with one seed and 0.8 with another.
    """
    trained = [standard_ranks(heat.abs()) for heat in maps_of()]
    similarity = []
    for share in shares:
        with randomised(module, images, share, seed):
            random = [standard_ranks(heat.abs()) for heat in maps_of()]
        found = [
            0.0 if b is None else float(a @ b)
            for a, b in zip(trained, random, strict=True)
            if a is not None
        ]
        similarity.append(float(np.mean(found)) if found else float("nan"))
    return similarity


@contextlib.contextmanager
def randomised(
    module: ImageModule, images: Tensor | Sequence[Tensor], share: float, seed: int
) -> Iterator[None]:
    """Give the last layers of a module's network random weights, from the head down.

    The values of each parameter are shuffled among themselves. Maps change by as much as with
    weights drawn by ``reset_parameters``, which not every layer has, and the spread of the values
    stays: in networks without norms, freshly drawn ones let all images come out alike.

    Batch norms among these layers get the statistics of the images. With those of the trained
    network the outputs of a ResNet-20 grow to 1e10, or, with freshly drawn weights, become the same
    for all images; maps then differ because the network is broken, and a check of them is too easy:
    SmoothGrad came to 0.15 instead of 0.45.

    The same seed shuffles a layer alike whatever the share. Parameters and buffers are restored to
    the bit.

    Args:
        module: in eval mode.
        images: for the batch norms, ``[B, C, *S]``, or a list of ``[C, *S]``.
        share: of the layers, in (0, 1]; at least the head is randomised.
        seed: of the shuffling; the global random state is left alone.
    """
    network = module.network
    layers = _layers(network)
    count = max(1, round(share * len(layers)))
    names = [name for layer in reversed(layers[-count:]) for name in layer]
    before = [(one, one.detach().clone()) for one in (*network.parameters(), *network.buffers())]
    try:
        with torch.inference_mode(False), torch.no_grad():
            _shuffle([network.get_parameter(name) for name in names], seed)
            owners = {network.get_submodule(name.rpartition(".")[0]) for name in names}
            _fit_norms(owners, module, images)
        yield
    finally:
        with torch.inference_mode(False), torch.no_grad():
            for one, value in before:
                one.copy_(value)


def _layers(network: nn.Module) -> list[list[str]]:
    """The names of all parameters by layer, from the stem to the head.

    Networks of timm say what a layer is. Elsewhere it is whatever has weights of its own, with the
    norms that follow, in the order in which the network lists them: a detector or a U-Net has few
    children, and all of its trunk would be one layer.
    """
    if hasattr(network, "group_matcher"):
        return layer_groups(network)
    layers: dict[str, list[str]] = {}
    layer = ""
    for name, parameter in network.named_parameters():
        owner = name.rpartition(".")[0]
        if owner in layers or parameter.ndim > 1 or not layers:
            layer = owner
        layers.setdefault(layer, []).append(name)
    return list(layers.values())


def _shuffle(parameters: Iterable[Tensor], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
        parameter.copy_(parameter.flatten()[order].view_as(parameter))


def _fit_norms(
    layers: Iterable[nn.Module], module: ImageModule, images: Tensor | Sequence[Tensor]
) -> None:
    """Give the batch norms among layers the statistics of what reaches them of the images.

    Each is fitted while the images pass through it, so that the ones behind it see its output as
    it will be. They stay in eval mode: in training mode they refuse a single value a channel.
    """
    seen: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}

    def fit(norm: Any, args: tuple[Tensor]) -> None:
        space = [0, *range(2, args[0].ndim)]
        variance, mean = torch.var_mean(args[0].float(), space, correction=0)
        seen.setdefault(norm, []).append((mean, variance))
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)

    with contextlib.ExitStack() as hooks:
        for layer in layers:
            if isinstance(layer, _BatchNorm) and layer.running_mean is not None:
                hooks.callback(layer.register_forward_pre_hook(fit).remove)
        # All at once, or one by one where their sizes differ.
        for stack in [images] if isinstance(images, Tensor) else [image[None] for image in images]:
            module.attribution_fn()(stack)
    for norm, statistics in seen.items():
        means, variances = zip(*statistics, strict=True)
        cast(Tensor, norm.running_mean).copy_(torch.stack(means).mean(0))
        cast(Tensor, norm.running_var).copy_(torch.stack(variances).mean(0))
