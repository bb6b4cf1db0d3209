"""Explanation maps of the same few images through the training."""

import torch
from typing_extensions import override

from lit_imgproc import pictures
from lit_imgproc.callbacks.samples import FollowedImages
from lit_imgproc.explain.gradcam import grad_cam, unit_range
from lit_imgproc.models.base import Batch, ImageModule


class Explain(FollowedImages):
    """Draw Grad-CAM maps (arXiv 1610.02391) of what the network answers, with the step as slider.

    Each image stands beside its map, as ``explanations/grad_cam``. The map explains the answer the
    network gives at that step, right or wrong.

    Args:
        images: how many images to follow, taken from the classes in turn.
        every_n_epochs: how often to draw them.
    """

    key = "explanations/grad_cam"

    @override
    def picture(self, module: ImageModule, batch: Batch) -> pictures.Picture:
        images = batch["image"]
        maps = grad_cam(
            module.attribution_fn(), images, module.attribution_layer(), module.feature_map
        )
        with torch.inference_mode():
            answers = module.predict_step(batch, 0)
        cells = []
        for i, heat in enumerate(unit_range(maps).cpu().numpy()):
            one: Batch = {
                key: batch[key][i : i + 1] for key in ("image", "label", "id") if key in batch
            }
            cells.append(module.draw(one, answers[i : i + 1]))
            seen = pictures.overlay(pictures.tile(images[i].float().cpu().numpy()), heat)
            cells.append(pictures.grid([seen]))  # with the margin that `draw` has
        return pictures.grid(cells)
