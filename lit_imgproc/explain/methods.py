"""Explanation maps by the name of their method."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_imgproc.errors import UserError
from lit_imgproc.explain.undisturbed import undisturbed
from lit_imgproc.models.base import ImageModule
from lit_imgproc.models.targets import Target

Cam = Literal["grad_cam", "grad_cam_plus_plus", "hires_cam", "layer_cam", "score_cam"]
Method = Literal[
    Cam,
    "attention_rollout",
    "attention_gradient",
    "integrated_gradients",
    "smooth_grad",
    "occlusion",
    "gradient_shap",
    "kernel_shap",
]
"""What the maps are called everywhere."""


@dataclass(frozen=True)
class About:
    """What is worth knowing of a method.

    Attributes:
        title: Its name in the literature.
        paper: The arXiv id or DOI of its paper.
        file: The file of this folder that its function, of the method's name, lies in.
        signed: Whether what speaks against the target is below 0, and not left out.
    """

    title: str
    paper: str
    file: Literal["cam", "attention", "gradients", "occlusion", "shapley"]
    signed: bool = False


METHODS: dict[Method, About] = {
    "grad_cam": About("Grad-CAM", "1610.02391", "cam"),
    "grad_cam_plus_plus": About("Grad-CAM++", "1710.11063", "cam"),
    "hires_cam": About("HiResCAM", "2011.08891", "cam"),
    "layer_cam": About("Layer-CAM", "10.1109/TIP.2021.3089943", "cam"),
    "score_cam": About("Score-CAM", "1910.01279", "cam"),
    "attention_rollout": About("Attention rollout", "2005.00928", "attention"),
    "attention_gradient": About("Gradient-weighted attention", "2103.15679", "attention"),
    "integrated_gradients": About("Integrated gradients", "1703.01365", "gradients", signed=True),
    "smooth_grad": About("SmoothGrad", "1706.03825", "gradients"),
    "occlusion": About("Occlusion", "1311.2901", "occlusion", signed=True),
    "gradient_shap": About("GradientSHAP", "1705.07874", "shapley", signed=True),
    "kernel_shap": About("KernelSHAP", "1705.07874", "shapley", signed=True),
}


ONE_LOOK = ("grad_cam", "grad_cam_plus_plus", "hires_cam", "layer_cam")
"""Methods that ask the network once, so that they explain a whole batch at once."""

SAMPLED = ("smooth_grad", "gradient_shap", "kernel_shap")
"""Methods that draw at random."""
MOST_AT_ONCE = 32
"""So many versions of a small image are shown to a network together."""


def known_method(name: str) -> Method:
    """The method of a name.

    Raises:
        UserError: There is none.
    """
    if name not in METHODS:
        raise UserError(f"there is no explanation method {name!r}; there are {', '.join(METHODS)}")
    return name


def attribution_maps(
    module: ImageModule,
    images: Tensor | Sequence[Tensor],
    targets: Sequence[Target | None],
    method: Method,
    *,
    background: Tensor | None = None,
    seed: int = 0,
) -> list[Tensor]:
    """Explain what a module answers of images, in eval mode; the module is left as it was.

    Args:
        module: on any device.
        images: ``[B, C, *S]`` on it, or a list of ``[C, *S]`` where their sizes differ.
        targets: one an image, as of ``attribution_targets``; None where nothing was found.
        method: a key of :data:`METHODS`.
        background: training images ``[N, C, *S]``, which the SHAP methods compare with.
        seed: of what a method draws at random.

    Returns:
        A float32 map ``[*S]`` an image, not scaled; zero where there is no target.

    Raises:
        UserError: the method is not for such a network, or misses its background.
    """
    with undisturbed(module):
        found = [target for target in targets if target is not None]
        if method in ONE_LOOK and isinstance(images, Tensor) and len(found) == len(images):
            return list(_maps(module, images, module.attribution_fn(found), method))
        # The others show the network many versions of an image: one image at a time.
        return [
            torch.zeros(image.shape[1:], device=image.device)
            if target is None
            else _maps(
                module, image[None], module.attribution_fn(target), method, background, seed
            )[0]
            for image, target in zip(images, targets, strict=True)
        ]


def _maps(
    module: ImageModule,
    images: Tensor,
    score: Callable[[Tensor], Tensor],
    method: Method,
    background: Tensor | None = None,
    seed: int = 0,
) -> Tensor:
    """Call the function of a method with what it wants to know: maps ``[B, *S]``."""
    file = METHODS[method].file
    arguments: dict[str, Any] = {}
    if file == "cam":
        arguments = {"layer": module.attribution_layer(), "feature_map": module.feature_map}
    elif file == "attention":
        arguments = {"network": module.network}
    elif file == "shapley":
        if background is None:
            raise UserError(f"{method} compares with images of the training data: give some")
        arguments = {"background": _of_size(background, images)}
    if method in SAMPLED:
        arguments["seed"] = seed
    if takes_many_looks(method):
        arguments["batch_size"] = looks_at_once(images)
    # Captum and the like are imported for the methods that want them alone.
    function = getattr(import_module(f"lit_imgproc.explain.{file}"), method)
    maps: Tensor = function(score, images, **arguments)
    return maps


def takes_many_looks(method: Method) -> bool:
    """Whether a method shows the network dozens or hundreds of versions of an image."""
    return method not in ONE_LOOK and METHODS[method].file != "attention"


def looks_at_once(images: Tensor) -> int:
    """How many versions of images ``[B, C, *S]`` a network is shown together.

    Of those larger than 224 pixels a side it is fewer, so that what layers put out fits in memory.
    """
    pixels = math.prod(images.shape[2:])
    return max(1, min(MOST_AT_ONCE, MOST_AT_ONCE * 224 * 224 // pixels))


def _of_size(background: Tensor, images: Tensor) -> Tensor:
    """Background images at the size of those that are explained, where sizes differ."""
    size = images.shape[2:]
    if background.shape[2:] == size:
        return background
    mode = "bilinear" if len(size) == 2 else "trilinear"
    return F.interpolate(background, size, mode=mode, align_corners=False)


def default_methods(module: ImageModule) -> list[Method]:
    """What suits a module: maps of its features, and for classifiers of pixels and covered parts.

    Where images are large, as those of detectors and segmenters are, methods that take many looks
    take minutes an image on a CPU, and have to be asked for.
    """
    if module.localized:
        return ["hires_cam", "layer_cam"]
    return ["grad_cam", "integrated_gradients", "occlusion"]


def module_cam(module: ImageModule) -> Cam:
    """The class activation map that suits a module.

    Only a map that weighs each place by its own gradient knows which of several like objects is
    meant, and where a region lies.
    """
    return "hires_cam" if module.localized else "grad_cam"
