"""Explanation maps of the same few images through the training."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lit_imgproc import pictures
from lit_imgproc.callbacks.samples import FollowedImages
from lit_imgproc.explain.gradcam import grad_cam, unit_range
from lit_imgproc.models.base import Batch, ImageModule
from lit_imgproc.models.detection.attribution import BoxTarget

DRAWN = ("image", "label", "boxes", "labels", "masks", "geometry", "id")
"""What pictures are drawn of."""


class Explain(FollowedImages):
    """Draw Grad-CAM maps (arXiv 1610.02391) of what the network answers, with the step as slider.

    Each image stands beside its map, as ``explanations/grad_cam``. The map explains the answer the
    network gives at that step, right or wrong; of a detector's, the object that it is surest of,
    whose box is drawn over the map (by HiResCAM, arXiv 2011.08891: of several like objects, only a
    gradient of each place knows the one that is meant).

    Args:
        images: how many images to follow, taken from the classes in turn.
        every_n_epochs: how often to draw them.
    """

    key = "explanations/grad_cam"

    @override
    def picture(self, module: ImageModule, batch: Batch) -> pictures.Picture:
        explained = _objects if hasattr(module, "detect") else _answers
        maps = list(explained(module, batch))
        with torch.inference_mode():
            answers = module.predict_step(batch, 0)
        cells = []
        for i, seen in enumerate(maps):
            one: Batch = {key: batch[key][i : i + 1] for key in DRAWN if key in batch}
            cells.append(module.draw(one, answers[i : i + 1]))
            cells.append(pictures.grid([seen]))  # with the margin that `draw` has
        return pictures.grid(cells)


def _answers(module: ImageModule, batch: Batch) -> Iterator[pictures.Picture]:
    """The map of each image, of what the network answers."""
    images = batch["image"]
    maps = grad_cam(module.attribution_fn(), images, module.attribution_layer(), module.feature_map)
    for image, heat in zip(images, unit_range(maps), strict=True):
        yield _overlay(image, heat)


def _objects(module: Any, batch: Batch) -> Iterator[pictures.Picture]:
    """The map of each image, of the object that a detector is surest of, with its box."""
    with torch.inference_mode():
        found = module.detect(batch)
    for image, one in zip(batch["image"], found, strict=True):
        # One by one: their sizes may differ, and each has a target of its own.
        heat = torch.zeros(image.shape[-2:])
        best, labels = one["boxes"][:1].cpu(), one["labels"][:1].tolist()
        for box, label in zip(best.tolist(), labels, strict=True):
            score, layer = module.attribution_fn(BoxTarget(box, label)), module.attribution_layer()
            maps = grad_cam(score, image[None], layer, module.feature_map, local=True)
            (heat,) = unit_range(maps)
        seen = _overlay(image, heat)
        scale = seen.shape[1] / image.shape[-1]
        yield pictures.outline(seen, best.numpy() * scale, labels)


def _overlay(image: Tensor, heat: Tensor) -> pictures.Picture:
    return pictures.overlay(pictures.tile(image.float().cpu().numpy()), heat.cpu().numpy())
