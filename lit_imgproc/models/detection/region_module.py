"""Detectors that classify regions which something else has proposed."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lit_imgproc.models.detection.batch import DetectionBatch
from lit_imgproc.models.detection.exchange import answers, targets
from lit_imgproc.models.detection.module import Detector
from lit_imgproc.models.objects import Detections
from lit_imgproc.selective_search import selective_search


class RegionDetector(Detector):
    """A detector whose network takes proposals, such as Fast R-CNN.

    Proposals come with the batch, where the datamodule has ``proposals``. For images that come
    without, and for views and tiles of images, they are found by selective search, here.

    The arguments are those of :class:`~lit_imgproc.models.detection.module.Detector`.
    """

    @override
    def losses(self, batch: DetectionBatch) -> dict[str, Tensor]:
        images = self.normalized(batch["image"])
        losses: dict[str, Tensor] = self.network(images, targets(batch), self.proposals(batch))
        return losses

    @override
    def detect(self, batch: DetectionBatch) -> list[Detections]:
        if self._detect != self._look:  # tiles and views have proposals of their own
            return super().detect(batch)
        images = self.normalized(batch["image"])
        return answers(self.network(images, None, self.proposals(batch)))

    @override
    def _look(self, images: list[Tensor]) -> list[Detections]:
        return answers(self.network(self.normalized(images), None, self._searched(images)))

    def proposals(self, batch: DetectionBatch) -> list[Tensor]:
        """Boxes ``[P, 4]`` of each image, best first."""
        if "proposals" in batch:
            return batch["proposals"]
        return self._searched(batch["image"])

    def _searched(self, images: Tensor | Sequence[Tensor]) -> list[Tensor]:
        network: Any = self.network
        found = []
        for image in images:
            pixels = (image * 255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
            boxes = selective_search(pixels, most=network.max_proposals)
            found.append(torch.from_numpy(boxes).to(image.device))
        return found
