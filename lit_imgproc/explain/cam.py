"""Class activation maps: where in an image the evidence for an answer lies.

Each adds up the channels of one layer's output, and they differ in how a channel is weighed. The
gradient methods cost a forward pass and little more: up to the layer the forward pass keeps no
graph, and the backward pass ends there.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_imgproc.errors import UserError

Score = Callable[[Tensor], Tensor]
FeatureMap = Callable[[Tensor], Tensor]


def _identity(activation: Tensor) -> Tensor:
    return activation


def grad_cam(
    score: Score, images: Tensor, layer: nn.Module, feature_map: FeatureMap = _identity
) -> Tensor:
    """Weigh each channel by the mean of the score's gradient over all places (arXiv 1610.02391).

    The mean cannot tell one of several like objects from the others: :func:`hires_cam` can.

    Parameters get no gradients, the mode of the network is not touched, and it may be called under
    ``torch.inference_mode``. The network must not be compiled, for compiled code does not call the
    hook that is used here (see :func:`~lit_imgproc.explain.undisturbed.undisturbed`).

    Args:
        score: images to one score an image ``[B]``; it must run ``layer`` exactly once.
        images: ``[B, C, H, W]`` or ``[B, C, D, H, W]``, as ``score`` takes them.
        layer: whose output is weighed.
        feature_map: lays that output, and its gradient, out as ``[B, K, *s]``, channels and places;
            for tokens, drops what is no patch.

    Returns:
        Maps ``[B, *S]``, float32, zero or above, not scaled: bilinear (trilinear) from the layer's
        size to the images'. Scale them by :func:`unit_range` to look at them.

    Raises:
        UserError: the score runs the layer not once, does not depend on its output, or is not one
            an image; or that output is not laid out as channels and places.
    """
    activation, gradient = _differentiated(score, images, layer, feature_map)
    return _added_up(gradient.mean(_places(gradient), keepdim=True) * activation, images)


def grad_cam_plus_plus(
    score: Score, images: Tensor, layer: nn.Module, feature_map: FeatureMap = _identity
) -> Tensor:
    """Weigh each channel by its positive gradients, fewer places counting more (arXiv 1710.11063).

    It is meant for a channel whose evidence lies in several places, or in a small one, as where
    there are several objects of a class. Equation 19 of the paper, for a score whose exponential
    is explained: a gradient g at a place counts ``relu(g) / (2 + g * sum(activation))``, the sum
    being that of its channel. The weights assume activations of zero or above, as after a ReLU;
    where others bring the denominator to zero, the place does not count.

    Args:
        score: as of :func:`grad_cam`. Unlike the other maps this one depends on its scale: give it
            a logit.
        images: as of :func:`grad_cam`.
        layer: as of :func:`grad_cam`.
        feature_map: as of :func:`grad_cam`.

    Returns:
        Maps as of :func:`grad_cam`.

    Raises:
        UserError: as of :func:`grad_cam`.
    """
    activation, gradient = _differentiated(score, images, layer, feature_map)
    # The paper's g^2 / (2 g^2 + g^3 sum), without powers of small gradients that would vanish.
    denominator = 2 + gradient * activation.sum(_places(activation), keepdim=True)
    counted = gradient.relu() / torch.where(denominator == 0, torch.inf, denominator)
    return _added_up(counted.sum(_places(counted), keepdim=True) * activation, images)


def hires_cam(
    score: Score, images: Tensor, layer: nn.Module, feature_map: FeatureMap = _identity
) -> Tensor:
    """Weigh each place of each channel by its own gradient: HiResCAM (arXiv 2011.08891).

    What is evidence for one object among several like ones stays where that object is.

    Args:
        score: as of :func:`grad_cam`.
        images: as of :func:`grad_cam`.
        layer: as of :func:`grad_cam`.
        feature_map: as of :func:`grad_cam`.

    Returns:
        Maps as of :func:`grad_cam`.

    Raises:
        UserError: as of :func:`grad_cam`.
    """
    activation, gradient = _differentiated(score, images, layer, feature_map)
    return _added_up(gradient * activation, images)


def layer_cam(
    score: Score, images: Tensor, layer: nn.Module, feature_map: FeatureMap = _identity
) -> Tensor:
    """Weigh each place of each channel by its own gradient where that is positive.

    Layer-CAM (Jiang et al., IEEE TIP 2021, doi 10.1109/TIP.2021.3089943), which is made for early
    layers too, whose maps are fine.

    Args:
        score: as of :func:`grad_cam`.
        images: as of :func:`grad_cam`.
        layer: as of :func:`grad_cam`.
        feature_map: as of :func:`grad_cam`.

    Returns:
        Maps as of :func:`grad_cam`.

    Raises:
        UserError: as of :func:`grad_cam`.
    """
    activation, gradient = _differentiated(score, images, layer, feature_map)
    return _added_up(gradient.relu() * activation, images)


def score_cam(
    score: Score,
    images: Tensor,
    layer: nn.Module,
    feature_map: FeatureMap = _identity,
    *,
    batch_size: int = 32,
) -> Tensor:
    """Weigh each channel by the score of the image seen through it: Score-CAM (arXiv 1910.01279).

    Each channel, brought to the image's size and to [0, 1], is multiplied with the image; the
    weights are the softmax of the scores over the channels. The paper takes the increase over the
    score of a black image: the softmax takes such a constant out again, so it is left out here.
    Nothing is differentiated. An image costs a forward pass for each channel.

    Args:
        score: as of :func:`grad_cam`, but it is given one image at first, and then that image
            through many masks: it must explain one and the same target whatever it is given.
        images: as of :func:`grad_cam`.
        layer: as of :func:`grad_cam`.
        feature_map: as of :func:`grad_cam`.
        batch_size: how many channels of an image are looked at together.

    Returns:
        Maps as of :func:`grad_cam`.

    Raises:
        UserError: as of :func:`grad_cam`.
    """
    maps = []
    with torch.inference_mode(False), torch.no_grad():
        for image in torch.split(images, 1):
            _, output = _run(score, image, layer, graph=False)
            activation = _laid_out(output, image, layer, feature_map)
            scores = [
                _scores(score, image * unit_range(_resized(channels, image)).to(image.dtype))
                for channels in torch.split(activation.transpose(0, 1), batch_size)
            ]
            weights = torch.cat(scores).float().softmax(0).view(-1, *[1] * (image.ndim - 2))
            maps.append(_added_up(weights * activation, image))
    return torch.cat(maps)


def unit_range(maps: Tensor) -> Tensor:
    """Scale each map ``[B, *S]`` to [0, 1]; a map without any variation becomes zero."""
    places = tuple(range(1, maps.ndim))
    low, high = maps.amin(places, keepdim=True), maps.amax(places, keepdim=True)
    return (maps - low) / (high - low).clamp(min=torch.finfo(maps.dtype).tiny)


def _differentiated(
    score: Score, images: Tensor, layer: nn.Module, feature_map: FeatureMap
) -> tuple[Tensor, Tensor]:
    """What the layer put out, and the gradient of the score with respect to it: ``[B, K, *s]``."""
    with torch.inference_mode(False), torch.no_grad():
        scores, output = _run(score, images, layer, graph=True)
        gradient = None
        if scores.requires_grad:
            (gradient,) = torch.autograd.grad(scores.sum(), output, allow_unused=True)
        if gradient is None:
            raise UserError(
                f"the score has no gradient with respect to what the layer {type(layer).__name__} "
                "puts out: it must depend on it, and not run it under torch.no_grad()"
            )
        return (
            _laid_out(output.detach(), images, layer, feature_map),
            _laid_out(gradient, images, layer, feature_map),
        )


def _run(score: Score, images: Tensor, layer: nn.Module, *, graph: bool) -> tuple[Tensor, Tensor]:
    """The scores ``[B]`` and what the layer put out, as the leaf of their graph if one is wanted.

    Gradients have to be off where it is called, so that no graph leads to the layer.
    """
    seen: list[Tensor] = []
    name = type(layer).__name__

    def cut(module: nn.Module, args: object, output: object) -> Tensor:
        if seen:
            raise UserError(
                f"the layer {name} runs more than once in a score, so that no single map is its "
                "own: explain a layer that runs once, such as the one that comes after"
            )
        if not isinstance(output, Tensor):
            raise UserError(
                f"the layer {name} puts out a {type(output).__name__}: explain one that puts out a "
                "tensor"
            )
        # The clones keep what is weighed from what is done in place to the layer's output, and to
        # its input, which a layer such as nn.Identity puts out itself.
        leaf = output.detach().clone()
        seen.append(leaf)
        if graph:
            torch.set_grad_enabled(True)
            leaf.requires_grad_()
        return leaf.clone()

    handle = layer.register_forward_hook(cut)
    try:
        # A tensor of inference mode could not be part of the graph: the score gets a copy.
        scores = _scores(score, images.clone())
    finally:
        handle.remove()
    if not seen:
        raise UserError(f"the layer {name} took no part in the score")
    return scores, seen[0]


def _scores(score: Score, images: Tensor) -> Tensor:
    """The score of each image ``[B]``, and surely no other number of them."""
    scores = score(images)
    if scores.shape != images.shape[:1]:
        raise UserError(
            f"the score of {len(images)} images has the shape {list(scores.shape)}: it has to be "
            f"one value an image, [{len(images)}]"
        )
    return scores


def _laid_out(output: Tensor, images: Tensor, layer: nn.Module, feature_map: FeatureMap) -> Tensor:
    """What a layer put out as ``[B, K, *s]``: float32, for half precision has little room."""
    if len(output) != len(images):
        raise UserError(
            f"the layer {type(layer).__name__} puts out {len(output)} maps for {len(images)} "
            "images: the network looks at parts of them, and maps of parts are not put together; "
            "take a method that asks the network as a whole, such as occlusion"
        )
    found = feature_map(output).float()
    if found.ndim != images.ndim or len(found) != len(images):
        raise UserError(
            f"the layer {type(layer).__name__} puts out {list(output.shape)} for images of the "
            f"shape {list(images.shape)}, laid out as {list(found.shape)}: `feature_map` has to "
            f"lay it out as images, channels and {images.ndim - 2} dimensions of places"
        )
    return found


def _places(activation: Tensor) -> tuple[int, ...]:
    """The dimensions of places of ``[B, K, *s]``."""
    return tuple(range(2, activation.ndim))


def _added_up(weighed: Tensor, images: Tensor) -> Tensor:
    """From weighed channels ``[B, K, *s]`` to maps ``[B, *S]`` of the evidence for the target."""
    return _resized(weighed.sum(1, keepdim=True).relu(), images).squeeze(1)


def _resized(maps: Tensor, images: Tensor) -> Tensor:
    """Maps ``[B, 1, *s]`` in the size of the images."""
    mode = "trilinear" if images.ndim == 5 else "bilinear"
    return F.interpolate(maps, size=images.shape[2:], mode=mode, align_corners=False)
