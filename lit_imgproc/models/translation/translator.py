"""What every module of this family offers, however it learns."""

from typing import Annotated, Any, cast

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn
from typing_extensions import override

from lit_imgproc import pictures
from lit_imgproc.models.alternating import AlternatingModule
from lit_imgproc.models.base import Batch, Normalization
from lit_imgproc.models.exported import ImageToImage, shown
from lit_imgproc.models.feature_networks import FeatureName
from lit_imgproc.models.image_sets import ImageSetMetrics
from lit_imgproc.models.translation.batch import TranslationBatch

Weight = Annotated[float, Ge(0)]
"""Of a part of a loss."""


class Translator(AlternatingModule):
    """A module whose network makes another image of an image, of the same size.

    Images are in [0, 1] outside and in [-1, 1] where networks see and make them.

    Args:
        network: see the module.
        features: of which network the sets of translations and of targets are compared by; None
            leaves it out.
    """

    def __init__(self, network: nn.Module, features: FeatureName | None) -> None:
        super().__init__()
        self.network = network
        self.image_sets = None if features is None else ImageSetMetrics(features)
        # One value for all channels, however many there are.
        self.normalization = Normalization([0.5], [0.5])

    @property
    def translating(self) -> nn.Module:
        """The network that translates what is to be predicted."""
        return self.network

    def forward(self, images: Tensor) -> Tensor:
        """Translations ``[B, K, H, W]`` of images ``[B, C, H, W]``, both in [0, 1]."""
        return shown(self.translating(self.normalization(images)))

    def compare_sets(self, made: Tensor, real: Tensor) -> None:
        """Count translations and targets, images ``[B, K, H, W]`` in [0, 1]."""
        if self.image_sets is not None:
            self.image_sets.update(made, real=False)
            self.image_sets.update(real, real=True)

    @override
    def on_validation_epoch_end(self) -> None:
        self._log_sets("val")

    @override
    def on_test_epoch_end(self) -> None:
        self._log_sets("test")

    def _log_sets(self, split: str) -> None:
        if self.image_sets is not None:
            values = self.image_sets.compute()
            self.image_sets.reset()
            self.log_dict({f"{split}/{name}": value for name, value in values.items()})

    def predict_step(self, batch: TranslationBatch, batch_idx: int) -> list[dict[str, Any]]:
        """One plain dict an image.

        ``id``; ``image``, the translation, uint8 ``[H, W, K]`` at the size of the file.
        """
        made = (self(batch["image"]) * 255 + 0.5).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        answers = []
        for i, (name, image) in enumerate(zip(batch["id"], made, strict=True)):
            height, width = batch["geometry"][i]["size"] if "geometry" in batch else image.shape[:2]
            if image.shape[:2] != (height, width):
                image = cv2.resize(image, (width, height)).reshape(height, width, -1)
            answers.append({"id": name, "image": image})
        return answers

    def draw(self, batch: Batch, output: list[dict[str, Any]]) -> pictures.Picture:
        """Each image beside its translation, and beside what is there where that is known."""
        rows = []
        for i, (image, answer) in enumerate(zip(batch["image"], output, strict=True)):
            height, width = image.shape[1:]
            made = cv2.resize(answer["image"], (width, height)).reshape(height, width, -1)
            row = {"source": image, "made": torch.from_numpy(made).permute(2, 0, 1) / 255}
            if "target" in batch:
                row["target"] = batch["target"][i]
            rows.append(row_of_tiles(row))
        return pictures.grid(rows)

    def export_network(self) -> nn.Module:
        """From images ``[B, C, H, W]`` in [0, 1] to translations ``[B, K, H, W]`` in [0, 1]."""
        return ImageToImage(self.normalization, self.translating).eval()


def difference(one: Tensor, other: Tensor) -> Tensor:
    """The mean absolute difference of each image ``[B]``, as a share of the range of values.

    Args:
        one: images ``[B, C, H, W]`` in [-1, 1].
        other: likewise.
    """
    return F.l1_loss(one.float(), other.float(), reduction="none").flatten(1).mean(1) / 2


def row_of_tiles(images: dict[str, Tensor]) -> pictures.Picture:
    """Images ``[C, H, W]`` in [0, 1] side by side, each with its name under it."""
    tiles = [
        pictures.caption(pictures.tile(image.float().cpu().numpy()), [name])
        for name, image in images.items()
    ]
    return cast(pictures.Picture, np.concatenate(tiles, axis=1))
