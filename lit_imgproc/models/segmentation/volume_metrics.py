"""The metrics of a segmenter of volumes that are means over cases, in millimetres."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override

from lit_imgproc.models.segmentation.batch import IGNORE
from lit_imgproc.models.segmentation.metrics import BACKGROUND

MEASURES = ("case_dice", "hd95", "surface_dice")
SHARE = 95
"""HD95 is this percentile of the distances from one surface to the other."""


class VolumeMetrics(Metric):
    """Overlap and distance of surfaces of each case, averaged over the cases that have the class.

    A class of a case that is in the truth or in the prediction has

    - Dice: twice the common volume over the sum of both volumes;
    - HD95: of the distances from each surface voxel of one to the nearest of the other the 95th
      percentile, the greater one of both directions, in millimetres (Huttenlocher et al., doi
      10.1109/34.232073, is the 100th);
    - surface Dice: the share of the surface voxels of both that are within the tolerance of the
      other's surface (Nikolov et al., arXiv 1809.04430, who count areas of surface where this, as
      Seidlitz et al., arXiv 2111.05408, counts voxels).

    Where only one of both has the class, Dice and surface Dice are 0 and HD95, which is infinite
    then, is the diagonal of the volume, the greatest distance that it has room for. BraTS counts
    so; to leave such a case out would reward a model for missing a structure altogether. A class
    that is in neither has no value in the case.

    All classes are measured but a first one that is called ``background``. Where the truth is 255,
    there is nothing in the truth nor in the prediction. Surfaces are of voxels that have one of
    their six neighbours outside, beyond the edge of the volume included.

    Args:
        class_names: the names of the K classes.
        tolerance_mm: how far in millimetres a surface may be off in the surface Dice.
    """

    is_differentiable = False
    full_state_update = False
    sums: Tensor
    cases: Tensor

    def __init__(self, class_names: Sequence[str], *, tolerance_mm: float = 1.0) -> None:
        super().__init__()
        self.tolerance_mm = tolerance_mm
        self.class_names = list(class_names)
        classes = len(self.class_names)
        # In float32, which all devices have.
        self.add_state("sums", torch.zeros(len(MEASURES), classes), dist_reduce_fx="sum")
        self.add_state("cases", torch.zeros(classes, dtype=torch.int64), dist_reduce_fx="sum")

    @override
    def update(self, prediction: Tensor, mask: Tensor, spacing: Sequence[float]) -> None:
        """Measure one case.

        Args:
            prediction: int64 ``[D, H, W]``: a class of each voxel.
            mask: int64 ``[D, H, W]``: the true class, 255 where there is none.
            spacing: millimetres from voxel to voxel along D, H and W.

        Raises:
            ValueError: The shapes differ.
        """
        if prediction.shape != mask.shape:
            shapes = f"{list(prediction.shape)} and {list(mask.shape)}"
            raise ValueError(f"prediction and mask differ in shape: {shapes}")
        # From 1 on, as find_objects has it, in 16 bits, which are soon fetched from a GPU.
        known = mask != IGNORE
        found, there = (
            torch.where(known, each + 1, 0).to("cpu", torch.int16).numpy()
            for each in (prediction, mask)
        )
        lengths = [n * float(step) for n, step in zip(mask.shape, spacing, strict=True)]
        missing = 0.0, math.hypot(*lengths), 0.0
        classes = len(self.class_names)
        sums, cases = torch.zeros(len(MEASURES), classes), torch.zeros(classes, dtype=torch.int64)
        boxes = zip(
            ndimage.find_objects(found, classes), ndimage.find_objects(there, classes), strict=True
        )
        for k, (box, other) in enumerate(boxes):
            if k == 0 and self.class_names[0] == BACKGROUND:
                continue
            if box is None and other is None:
                continue
            cases[k] = 1
            values = missing
            if box is not None and other is not None:
                both = tuple(
                    slice(min(a.start, b.start), max(a.stop, b.stop))
                    for a, b in zip(box, other, strict=True)
                )
                values = self._measure(found[both] == k + 1, there[both] == k + 1, spacing)
            sums[:, k] = torch.tensor(values)
        self.sums = self.sums + sums.to(self.device)
        self.cases = self.cases + cases.to(self.device)

    def _measure(
        self, found: NDArray[np.bool_], there: NDArray[np.bool_], spacing: Sequence[float]
    ) -> tuple[float, float, float]:
        """Dice, HD95 and surface Dice of one class, in the box ``[d, h, w]`` around both."""
        dice = 2 * np.count_nonzero(found & there) / (found.sum() + there.sum())
        # Erosion takes what is beyond the box for outside, which it is of both.
        surfaces = [np.argwhere(each & ~ndimage.binary_erosion(each)) for each in (found, there)]
        one, other = (surface * np.asarray(spacing) for surface in surfaces)
        ways = [KDTree(to).query(points)[0] for points, to in ((one, other), (other, one))]
        distance = max(np.percentile(way, SHARE) for way in ways)
        # Places are products, which are rounded: a distance that equals the tolerance is within it.
        near = np.concatenate(ways) <= self.tolerance_mm + 1e-6
        return float(dice), float(distance), float(near.mean())

    @override
    def compute(self) -> dict[str, float]:
        """The means over cases by name; -1 where no case has any class.

        ``case_dice/CLASS``, ``hd95/CLASS`` and ``surface_dice/CLASS`` of the classes that some case
        has, and ``case_dice``, ``hd95`` and ``surface_dice``, the means over these classes.
        """
        sums, cases = self.sums.cpu().double(), self.cases.cpu()
        measured = cases > 0
        means = sums / cases.clamp(min=1)
        values: dict[str, float] = {}
        for measure, row in zip(MEASURES, means, strict=True):
            values[measure] = float(row[measured].mean()) if measured.any() else -1.0
            named = zip(self.class_names, row.tolist(), measured.tolist(), strict=True)
            values |= {f"{measure}/{name}": value for name, value, known in named if known}
        return values
