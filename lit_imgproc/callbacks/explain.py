"""Explanation maps through the training: of the same few images, and of the worst ones."""

import itertools
import logging
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, distributed
from typing_extensions import override

from lit_imgproc import pictures
from lit_imgproc.callbacks.samples import FollowedImages
from lit_imgproc.data.base import ImageDataModule
from lit_imgproc.errors import UserError
from lit_imgproc.explain.cam import unit_range
from lit_imgproc.explain.methods import Cam, attribution_maps, module_cam
from lit_imgproc.explain.undisturbed import undisturbed
from lit_imgproc.models.base import Batch, ImageModule
from lit_imgproc.models.detection.attribution import BoxTarget
from lit_imgproc.models.targets import Target

log = logging.getLogger(__name__)

DRAWN = ("image", "label", "boxes", "labels", "masks", "mask", "instances", "geometry", "id")
"""What pictures are drawn of."""


class Explain(FollowedImages):
    """Draw class activation maps of what the network answers, with the step as slider.

    Each image stands beside its map, as ``explanations/grad_cam`` or whatever the method is. The
    map explains the answer that the network gives at that step, right or wrong; of a detector's,
    the object that it is surest of, whose box is drawn over the map; of a segmenter's, the class
    that covers most of the image but for the background, over all that is said to be of it. Where
    nothing is found the map is empty. Of a volume the slice with the greatest heat is drawn.

    As ``explanations/most_wrong`` come the validation images that the network is most wrong about
    at that step, the worst first: those of the highest loss, or of the greatest share of wrong
    pixels. Detectors do not say how wrong they are of an image.

    A module that cannot be explained is warned of once, and trained on.

    Args:
        images: how many images to follow, taken from the classes in turn.
        every_n_epochs: how often to draw them; the last epoch is always drawn.
        method: how channels of the network are weighed; None takes Grad-CAM (arXiv 1610.02391) of
            classifiers, and HiResCAM (arXiv 2011.08891) where an answer lies somewhere in the
            image.
        most_wrong: how many of the images that the network is most wrong about to draw.
    """

    def __init__(
        self,
        *,
        images: Annotated[int, Ge(1)] = 8,
        every_n_epochs: Annotated[int, Ge(1)] = 1,
        method: Cam | None = None,
        most_wrong: Annotated[int, Ge(0)] = 4,
    ) -> None:
        super().__init__(images=images, every_n_epochs=every_n_epochs)
        self.method = method
        self.most_wrong = most_wrong
        self._wrong: list[Tensor] = []
        self._ids: list[str] = []
        self._unable = False

    @override
    def key(self, module: ImageModule) -> str:
        return f"explanations/{self.method or module_cam(module)}"

    @override
    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._wrong, self._ids = [], []

    @override
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        told = isinstance(outputs, Mapping) and "wrong" in outputs and dataloader_idx == 0
        if told and self.most_wrong and not self._unable and self.due(trainer):
            # Nothing is asked of the device before the end: that would wait for each step.
            self._wrong.append(outputs["wrong"])
            self._ids += batch["id"]

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._unable:
            return
        super().on_validation_epoch_end(trainer, pl_module)
        if self.most_wrong and not self._unable and self.due(trainer):
            worst = self._worst(trainer)
            if worst:
                assert isinstance(pl_module, ImageModule)
                data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
                batch = data.batch("val", _numbers(data.dataset("val").names, worst))
                self.show(trainer, pl_module, "explanations/most_wrong", batch)
        self._wrong, self._ids = [], []

    def _worst(self, trainer: Trainer) -> list[str]:
        """The ids of the images that all ranks together are most wrong about, the worst first."""
        mine = []
        if self._wrong:  # a rank may have no image
            values = torch.cat(self._wrong)
            top = values.topk(min(self.most_wrong, len(values)))
            mine = [(-x, self._ids[i]) for x, i in zip(*map(Tensor.tolist, top), strict=True)]
        everyones = [mine]
        if trainer.world_size > 1:
            everyones = [[] for _ in range(trainer.world_size)]
            distributed.all_gather_object(everyones, mine)
        found = sorted(itertools.chain.from_iterable(everyones))
        return [name for _, name in found[: self.most_wrong]]

    @override
    def show(self, trainer: Trainer, module: ImageModule, key: str, batch: Batch) -> None:
        try:
            super().show(trainer, module, key, batch)
        except UserError as error:
            self._unable = True
            if trainer.is_global_zero:
                log.warning(
                    "callbacks.explain draws nothing, and can be left out with "
                    "callbacks.explain=null: %s",
                    error,
                )

    @override
    def picture(self, module: ImageModule, batch: Batch) -> pictures.Picture:
        with undisturbed(module):
            targets = module.attribution_targets(batch)
            method = self.method or module_cam(module)
            maps = attribution_maps(module, batch["image"], targets, method)
            answers = module.predict_step(batch, 0)
        cells = []
        for i, (heat, target, answer) in enumerate(zip(maps, targets, answers, strict=True)):
            one: Batch = {key: batch[key][i : i + 1] for key in DRAWN if key in batch}
            depth = None
            if heat.ndim == 3:
                hottest = heat.amax((1, 2))
                depth = int(hottest.argmax()) if hottest.any() else len(heat) // 2
                one |= {"image": [one["image"][0][:, depth]], "mask": [one["mask"][0][depth]]}
                answer = {**answer, "mask": answer["mask"][depth]}
                heat = heat[depth]
            cells.append(module.draw(one, [answer]))
            seen = _over(one["image"][0], heat, target)
            name = "nothing found" if target is None else module.class_names[target.label]
            lines = [name] if depth is None else [name, f"slice {depth}"]
            cells.append(pictures.grid([pictures.caption(seen, lines)]))  # `draw` has its margin
        return pictures.grid(cells)


def _over(image: Tensor, heat: Tensor, target: Target | None) -> pictures.Picture:
    """A map ``[H, W]`` over its image ``[C, H, W]``, with what is explained if that has a place."""
    plain = pictures.tile(image.float().cpu().numpy())
    seen = pictures.overlay(plain, unit_range(heat[None])[0].cpu().numpy())
    match target:
        case BoxTarget(label, box):
            scale = seen.shape[1] / image.shape[-1]
            return pictures.outline(seen, np.array([box]) * scale, [label])
    return seen


def _numbers(names: Iterable[str], wanted: list[str]) -> list[int]:
    """The numbers of some images in a data set, in their order."""
    asked = set(wanted)
    number = {name: index for index, name in enumerate(names) if name in asked}
    return [number[name] for name in wanted]
