"""COCO's metrics of objects, accumulated over a whole split and over all ranks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from faster_coco_eval.core import mask as coco_mask
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from typing_extensions import override

from lit_imgproc.models.coco_evaluation import (
    AREAS,
    Objects,
    matching_and_confusion,
    precision_and_recall,
)
from lit_imgproc.models.objects import Detections, Truth
from lit_imgproc.models.rle import encode

BOX_STATES = {
    "position": torch.zeros(0, dtype=torch.int64),
    "found_count": torch.zeros(0, dtype=torch.int64),
    "found_boxes": torch.zeros(0, 4),
    "found_labels": torch.zeros(0, dtype=torch.int64),
    "found_scores": torch.zeros(0),
    "truth_count": torch.zeros(0, dtype=torch.int64),
    "truth_boxes": torch.zeros(0, 4),
    "truth_labels": torch.zeros(0, dtype=torch.int64),
    "truth_iscrowd": torch.zeros(0, dtype=torch.int64),
    "truth_area": torch.zeros(0),
}
"""What is kept of images: the place of each among those of its rank and how many objects it has;
then, of all objects in a row, what COCO asks of them."""
MASK_STATES = {
    "size": torch.zeros(0, 2, dtype=torch.int64),
    "found_rle_length": torch.zeros(0, dtype=torch.int64),
    "found_rle": torch.zeros(0, dtype=torch.uint8),
    "truth_rle_length": torch.zeros(0, dtype=torch.int64),
    "truth_rle": torch.zeros(0, dtype=torch.uint8),
}
"""Of images with masks, height and width; of masks, the bytes of COCO's run-length encoding."""


class CocoMetrics(Metric):
    """COCO's average precision and recall (Lin et al., arXiv 1405.0312), and what goes with them.

    After :meth:`compute`, ``curves`` ``[2, 101, K]`` holds the precision at IoU 0.5 and 0.75, at
    recalls from 0 to 1, of each class (-1 for one without objects), and ``confusion``
    ``[K + 1, K + 1]`` the pairs of boxes that match at IoU 0.5, see
    :func:`~lit_imgproc.models.coco_evaluation.matching_and_confusion`.

    Equal scores are told apart by the order of the images. Ranks are taken to have been dealt one
    image in turn, as :mod:`lit_imgproc.data.order` and torch's ``DistributedSampler`` deal them, so
    that the order, and with it every digit, is that of one process.

    Args:
        class_names: the names of the K classes.
        masks: measure masks too; images then come with them.
        max_detections: how many detections of a class in an image are counted, best first.
        score_threshold: the least score of detections in the matching and the confusion matrix.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    position: list[Tensor]

    def __init__(
        self,
        class_names: list[str],
        *,
        masks: bool = False,
        max_detections: int = 100,
        score_threshold: float = 0.5,
    ) -> None:
        super().__init__()
        self.class_names, self.masks = class_names, masks
        self.max_detections = sorted({n for n in (1, 10) if n < max_detections} | {max_detections})
        self.score_threshold = score_threshold
        self.curves: Tensor | None = None
        self.confusion: Tensor | None = None
        self._empty = BOX_STATES | (MASK_STATES if masks else {})
        for name in self._empty:
            self.add_state(name, [], dist_reduce_fx="cat")
        self.reset()

    @override
    def reset(self) -> None:
        super().reset()
        self.curves = self.confusion = None
        # Nothing of the right type and shape, so that a rank without objects can join the others.
        for name, empty in self._empty.items():
            getattr(self, name).append(empty.to(self.device))

    @override
    def update(self, found: Sequence[Detections], truth: Sequence[Truth]) -> None:
        """Take what was found in some images, and what is there."""
        first = sum(map(len, self.position))
        self._keep("position", range(first, first + len(truth)))
        sides: dict[str, Sequence[Any]] = {"found": found, "truth": truth}
        for side, images in sides.items():
            self._keep(f"{side}_count", [len(image["labels"]) for image in images])
            for key in ("boxes", "labels", "scores", "iscrowd", "area"):
                if f"{side}_{key}" in self._empty:
                    self._keep(f"{side}_{key}", torch.cat([image[key] for image in images]))
            if self.masks:
                encoded = [rle for image in images for rle in encode(image["masks"])]
                self._keep(f"{side}_rle_length", [len(rle) for rle in encoded])
                self._keep(f"{side}_rle", np.frombuffer(b"".join(encoded), np.uint8).copy())
        if self.masks:
            sizes = [tuple(image["masks"].shape[-2:]) for image in truth]
            if sizes != [tuple(image["masks"].shape[-2:]) for image in found]:
                raise ValueError("masks of detections and of the truth differ in height or width")
            self._keep("size", sizes)

    def _keep(self, name: str, values: Any) -> None:
        empty = self._empty[name]
        kept = torch.as_tensor(values).detach().to(self.device, empty.dtype)
        getattr(self, name).append(kept.view(-1, *empty.shape[1:]))

    @override
    def compute(self) -> dict[str, float]:
        """The metrics by name, such as ``map_50`` or ``map/cat``; -1 where there is no object.

        - ``map`` (at IoU 0.5 to 0.95), ``map_50``, ``map_75``, ``map_small``, ``map_medium``,
          ``map_large``, and ``map/CLASS``, ``map_50/CLASS`` of the classes that have objects.
        - ``mar_1``, ``mar_10``, ``mar_100``: the mean over IoUs of the recall with so many
          detections of a class an image, the last of which is ``max_detections``; ``mar_small``, …
        - ``map_50_voc07``: the mean of the precisions at recalls 0, 0.1, …, 1 at IoU 0.5, as PASCAL
          VOC 2007 has it (Everingham et al., doi 10.1007/s11263-009-0275-4), with COCO's matching:
          boxes have no extra pixel, and a detection whose best object is taken may have another.
        - ``matching_50``: TP / (TP + FP + FN), see
          :func:`~lit_imgproc.models.coco_evaluation.matching_and_confusion`.
        - With masks, all but ``map_50_voc07`` of masks: ``mask_map``, ``mask_map/CLASS``, …
        """
        state = {name: dim_zero_cat(getattr(self, name)).cpu().numpy() for name in self._empty}
        order = np.argsort(state["position"], kind="stable")  # ranks have come one after another
        number = np.argsort(order)
        images, classes = len(order), len(self.class_names)
        values: dict[str, float] = {}
        for masks in (False, True) if self.masks else (False,):
            found = _objects(state, "found", number, masks)
            truth = _objects(state, "truth", number, masks)
            precision, recall = precision_and_recall(
                found, truth, classes, "segm" if masks else "bbox", self.max_detections
            )
            matching, confusion = matching_and_confusion(
                found, truth, images, classes, self.score_threshold
            )
            prefix = "mask_" if masks else ""
            values |= {prefix + name: value for name, value in self._named(precision, recall)}
            values[f"{prefix}matching_50"] = matching
            if not masks:
                curves = precision[[0, 5], :, :, 0, -1]
                values["map_50_voc07"] = _mean(curves[0, ::10])
                self.curves, self.confusion = torch.tensor(curves), torch.tensor(confusion)
        return values

    def _named(
        self, precision: NDArray[np.float64], recall: NDArray[np.float64]
    ) -> list[tuple[str, float]]:
        """COCO's means of its tables, and those of each class."""
        whole, some = precision[..., 0, -1], self.max_detections
        values = [("map", _mean(whole)), ("map_50", _mean(whole[0])), ("map_75", _mean(whole[5]))]
        values += [(f"mar_{n}", _mean(recall[:, :, 0, m])) for m, n in enumerate(some)]
        for a, area in enumerate(AREAS[1:], 1):
            values.append((f"map_{area}", _mean(precision[..., a, -1])))
            values.append((f"mar_{area}", _mean(recall[:, :, a, -1])))
        for k, name in enumerate(self.class_names):
            if whole[0, 0, k] > -1:
                values.append((f"map/{name}", _mean(whole[:, :, k])))
                values.append((f"map_50/{name}", _mean(whole[0, :, k])))
        return values


def _objects(
    state: dict[str, NDArray[Any]], side: str, number: NDArray[np.int64], masks: bool
) -> Objects:
    """What was found or what is there, as boxes or as masks, of images of the given numbers."""
    count, labels = state[f"{side}_count"], state[f"{side}_labels"]
    if masks:
        ends = state[f"{side}_rle_length"].cumsum()
        starts = ends - state[f"{side}_rle_length"]
        data = state[f"{side}_rle"].tobytes()
        rows = zip(
            np.repeat(state["size"], count, 0).tolist(), starts.tolist(), ends.tolist(), strict=True
        )
        rles = [{"size": size, "counts": data[start:end]} for size, start, end in rows]
        shapes, areas = np.array(rles, object), coco_mask.area(rles)
    else:
        shapes = state[f"{side}_boxes"].astype(np.float64)
        shapes[:, 2:] -= shapes[:, :2]
        areas = shapes[:, 2:].prod(1)
    none = np.zeros(len(labels), np.int64)
    return Objects(
        image=np.repeat(number, count),
        label=labels,
        area=state.get(f"{side}_area", areas).astype(np.float64),
        shapes=shapes,
        score=state.get(f"{side}_scores", none).astype(np.float64),
        crowd=state.get(f"{side}_iscrowd", none),
    )


def _mean(values: NDArray[np.float64]) -> float:
    """The mean of what was measured; -1 where nothing was."""
    measured = values[values > -1]
    return float(measured.mean()) if measured.size else -1.0
