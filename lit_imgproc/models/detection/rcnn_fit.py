"""What R-CNN fits to the features of regions: SVMs, and what moves boxes (arXiv 1311.2524)."""

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lit_imgproc.models.detection.ridge import ridge
from lit_imgproc.models.detection.svm import fit_svms

FEATURE_NORM = 20.0
"""The mean norm that features are scaled to before anything is fitted to them."""
SVM_NEGATIVE = 0.3
"""Regions that overlap the objects of a class less are its negatives; what overlaps them more and
is not an object itself is left out."""
MOVED_FROM = 0.6
"""Regions that overlap an object at least so much are what moving boxes is learned from."""

Objects = tuple[Tensor, Tensor]
"""Of the objects of an image, features float16 ``[N, D]`` and labels int64 ``[N]``, from 0."""


@dataclass
class Study:
    """What is learned from the proposed regions of an image, on the CPU.

    Attributes:
        features: float16 ``[P, D]``.
        overlap: float32 ``[P, K]``, the greatest IoU of each with an object of each class.
        maps: float16 ``[M, F]``, of those regions that overlap an object enough.
        codes: float32 ``[M, 4]``, what moves them onto it.
        labels: int64 ``[M]``, its class from 0.
    """

    features: Tensor
    overlap: Tensor
    maps: Tensor
    codes: Tensor
    labels: Tensor


class Fitted(nn.Module):
    """The layers that are fitted when the trunk has been trained.

    Attributes:
        done: bool, whether they are.
        svm_weight: ``[K, D]``.
        svm_bias: ``[K]``.
        box_weight: ``[K, 4, F]``.
        box_bias: ``[K, 4]``.
    """

    done: Tensor
    svm_weight: Tensor
    svm_bias: Tensor
    box_weight: Tensor
    box_bias: Tensor

    def __init__(self, num_classes: int, features: int, cells: int) -> None:
        super().__init__()
        self.register_buffer("done", torch.tensor(False))
        self.register_buffer("svm_weight", torch.zeros(num_classes, features))
        self.register_buffer("svm_bias", torch.zeros(num_classes))
        self.register_buffer("box_weight", torch.zeros(num_classes, 4, cells))
        self.register_buffer("box_bias", torch.zeros(num_classes, 4))

    def fit(
        self,
        objects: Iterable[Objects],
        proposed: Iterable[Study],
        *,
        svm_cost: float,
        box_ridge: float,
    ) -> dict[str, float]:
        """Fit them to the regions of all images, each of which is looked at once.

        Args:
            objects: of each image: the positives of the SVMs.
            proposed: of each image: their negatives, and what is moved.
            svm_cost: C of the SVMs.
            box_ridge: the strength of the penalty on what moves boxes.

        Returns:
            ``svm_accuracy`` and ``svm_negatives``, see :func:`~.svm.fit_svms`, and
            ``moved_regions``, from how many moving boxes was learned.
        """
        vectors, labels = (torch.cat(some) for some in zip(*objects, strict=True))
        scale = _scale(vectors.numpy())
        positives = [(scale * vectors[labels == k].float()).numpy() for k in self._classes]
        with tempfile.TemporaryFile() as file:
            moved = _Moved(file, self.box_weight.shape[2])

            def negatives() -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
                for study in proposed:
                    moved.add(study)
                    features = scale * study.features.float()
                    yield features.numpy(), (study.overlap < SVM_NEGATIVE).numpy()

            weight, bias, figures = fit_svms(positives, negatives(), cost=svm_cost)
            self.svm_weight.copy_(torch.from_numpy(scale * weight))
            self.svm_bias.copy_(torch.from_numpy(bias))
            figures = {f"svm_{name}": value for name, value in figures.items()}
            figures["moved_regions"] = float(self._fit_moves(moved, box_ridge))
        self.done.fill_(True)
        return figures

    def _fit_moves(self, moved: "_Moved", box_ridge: float) -> int:
        maps, codes, labels = moved.arrays()
        # A weaker penalty on smaller features is the same as scaling them.
        strength = box_ridge / _scale(maps[:: max(1, len(maps) // 1000)]) ** 2
        for k in self._classes:
            rows = np.flatnonzero(labels == k)
            moves, offset = ridge(maps, rows, codes[rows], strength)
            self.box_weight[k].copy_(torch.from_numpy(moves))
            self.box_bias[k].copy_(torch.from_numpy(offset))
        return len(maps)

    @property
    def _classes(self) -> range:
        return range(len(self.svm_bias))


def _scale(features: NDArray[np.float16]) -> float:
    """What brings features ``[N, D]`` to their norm."""
    if not len(features):
        return 1.0
    norm = float(np.linalg.norm(features.astype(np.float32), axis=1).mean())
    return FEATURE_NORM / max(norm, 1e-12)


class _Moved:
    """Regions to be moved. Their maps, of which there may be many, lie in a file."""

    def __init__(self, file: IO[bytes], width: int) -> None:
        self.file, self.width = file, width
        self.codes = [torch.zeros(0, 4)]
        self.labels = [torch.zeros(0, dtype=torch.int64)]

    def add(self, study: Study) -> None:
        self.file.write(study.maps.numpy().tobytes())
        self.codes.append(study.codes)
        self.labels.append(study.labels)

    def arrays(self) -> tuple[NDArray[np.float16], NDArray[np.float64], NDArray[np.int64]]:
        """Maps ``[M, F]``, codes ``[M, 4]`` and classes ``[M]``."""
        self.file.flush()
        codes, labels = torch.cat(self.codes).double().numpy(), torch.cat(self.labels).numpy()
        shape = (len(labels), self.width)
        if not len(labels):
            return np.zeros(shape, np.float16), codes, labels
        return np.memmap(self.file, np.float16, "r", shape=shape), codes, labels
