"""Explanation maps of the same few images through the training."""

import logging
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from lit_imgproc import pictures
from lit_imgproc.callbacks.samples import FollowedImages
from lit_imgproc.explain.gradcam import grad_cam, unit_range
from lit_imgproc.models.base import Batch, ImageModule
from lit_imgproc.models.detection.attribution import BoxTarget

log = logging.getLogger(__name__)

DRAWN = ("image", "label", "boxes", "labels", "masks", "mask", "instances", "geometry", "id")
"""What pictures are drawn of."""


class Explain(FollowedImages):
    """Draw Grad-CAM maps (arXiv 1610.02391) of what the network answers, with the step as slider.

    Each image stands beside its map, as ``explanations/grad_cam``. The map explains the answer the
    network gives at that step, right or wrong; of a detector's, the object that it is surest of,
    whose box is drawn over the map; of a segmenter's, the class that covers most of the image but
    for the background, over all that is said to be of it (arXiv 2002.11434). Where nothing is found
    the map is empty. What lies somewhere in the image is explained by HiResCAM (arXiv 2011.08891):
    only a gradient of each place knows which of several like objects is meant, and where a region
    lies. Volumes are not drawn.

    Args:
        images: how many images to follow, taken from the classes in turn.
        every_n_epochs: how often to draw them.
    """

    key = "explanations/grad_cam"

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ImageModule)
        if pl_module.volumetric and trainer.is_global_zero:
            log.warning(
                "callbacks.explain draws maps of images, not of volumes, and does nothing here: "
                "leave it out with callbacks.explain=null"
            )

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ImageModule)
        if not pl_module.volumetric:
            super().on_validation_epoch_end(trainer, pl_module)

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
    score, layer = module.attribution_fn(), module.attribution_layer()
    # One by one where their sizes differ.
    for stack in [images] if isinstance(images, Tensor) else [image[None] for image in images]:
        maps = grad_cam(score, stack, layer, module.feature_map, local=module.localized)
        for image, heat in zip(stack, unit_range(maps), strict=True):
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
