"""What both modules of style transfer share: parts of a loss, their logs, and pictures."""

from abc import abstractmethod
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from lit_imgproc import pictures
from lit_imgproc.models.base import Batch, ImageModule
from lit_imgproc.pictures import Picture

Answer = dict[str, Any]


class Stylizer(ImageModule):
    """A module that learns to redraw images ``[B, 3, H, W]`` in [0, 1]."""

    weights_of_losses: dict[str, float]
    """What each part of :meth:`losses` counts."""

    @abstractmethod
    def drawn(self, batch: Batch) -> Tensor:
        """The images of a batch redrawn: ``[B, 3, H, W]``, about [0, 1], not clamped."""

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The parts of the loss by name, not weighted."""

    def _logged(self, split: str, batch: Batch) -> Tensor:
        parts = self.losses(batch)
        loss = torch.stack([self.weights_of_losses[name] * parts[name] for name in parts]).sum()
        values = {"loss": loss, **parts}
        self.log_dict(
            {f"{split}/{name}": value.detach() for name, value in values.items()},
            prog_bar=split == "train",
            batch_size=len(batch["image"]),
            on_step=split == "train",
            on_epoch=split != "train",
            sync_dist=split != "train",
        )
        return loss

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._logged("train", batch)

    @override
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._logged("val", batch)

    @override
    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._logged("test", batch)

    @override
    def predict_step(self, batch: Batch, batch_idx: int) -> list[Answer]:
        """Redraw images, each at the size of its file.

        Returns:
            ``id``, and ``image`` uint8 ``[H, W, 3]``.
        """
        import cv2

        answers = []
        for number, image in enumerate(as_bytes(self.drawn(batch))):
            height, width = image.shape[:2]
            if "geometry" in batch:
                height, width = batch["geometry"][number]["size"]
            if image.shape[:2] != (height, width):
                image = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
            answers.append({"id": batch["id"][number], "image": np.asarray(image)})
        return answers

    @override
    def draw(self, batch: Batch, output: list[Answer]) -> Picture:
        """Each image, and beside it what was made of it."""
        import cv2

        tiles = []
        for image, answer in zip(batch["image"], output, strict=True):
            tile = pictures.tile(image.float().cpu().numpy())
            size = (tile.shape[1], tile.shape[0])
            made = cv2.resize(answer["image"], size, interpolation=cv2.INTER_AREA)
            tiles += [tile, np.asarray(made, np.uint8)]
        return pictures.grid(tiles)


def as_bytes(images: Tensor) -> NDArray[np.uint8]:
    """Images ``[B, 3, H, W]`` about [0, 1] as pixels ``[B, H, W, 3]``."""
    pixels = (images.detach().float().clamp(0, 1) * 255).round().byte()
    return cast(NDArray[np.uint8], pixels.permute(0, 2, 3, 1).cpu().numpy())


def from_bytes(image: NDArray[np.uint8]) -> Tensor:
    """Pixels ``[H, W, 3]`` as an image ``[3, H, W]`` in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float() / 255
