"""COCO's evaluation of what was found in a whole split, and the matching behind it."""

import gc
import itertools
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval.core import mask as coco_mask
from numpy.typing import NDArray

log = logging.getLogger(__name__)

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
THRESHOLDS = tuple((50 + 5 * n) / 100 for n in range(10))
"""COCO's ten IoUs at which an object counts as found: 0.5, 0.55, ..., 0.95."""
AREAS = ("all", "small", "medium", "large")
"""COCO's ranges of area: all, to 32² pixels, to 96² pixels, and above."""


PLACES = 100_000
"""How many pairs of an image and a class are evaluated at once: the evaluator has a place for each,
and with many classes most of them are empty."""


@dataclass(frozen=True)
class Objects:
    """N objects of a whole split, in the order in which equal scores are told apart.

    Args:
        image: the number of each object's image ``[N]``; images count in this order.
        label: its class ``[N]``, from 0.
        area: in pixels ``[N]``.
        shapes: boxes ``[N, 4]`` as x, y, width and height, or masks ``[N]`` as COCO's RLE.
        score: of a detection ``[N]``; zeros for the truth.
        crowd: 1 for a region of many objects ``[N]``; zeros for detections.
    """

    image: Ints
    label: Ints
    area: Floats
    shapes: NDArray[Any]
    score: Floats
    crowd: Ints

    def rows(self, by: Ints, count: int) -> Iterator[Ints]:
        """The rows of each value of ``by`` ``[N]`` from 0 to ``count``, images in order."""
        order = np.lexsort((self.image, by))
        bounds = np.searchsorted(by[order], np.arange(count + 1))
        for start, stop in itertools.pairwise(bounds):
            yield order[start:stop]


@contextmanager
def _uncollected() -> Iterator[None]:
    """Let the garbage collector rest, which would look through many small objects many times."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@_uncollected()
def precision_and_recall(
    found: Objects,
    truth: Objects,
    num_classes: int,
    shape: Literal["bbox", "segm"],
    max_detections: Sequence[int],
) -> tuple[Floats, Floats]:
    """COCO's two tables (Lin et al., arXiv 1405.0312), by faster-coco-eval.

    Precision ``[10, 101, K, 4, M]``, which is interpolated: by IoU (:data:`THRESHOLDS`), recall
    from 0 to 1, class, area (:data:`AREAS`) and how many detections of a class an image may have.
    Recall ``[10, K, 4, M]``, the greatest that is reached. Both are -1 where there is no object.
    """
    shapes = (len(THRESHOLDS), 101, num_classes, len(AREAS), len(max_detections))
    precision, recall = np.full(shapes, -1.0), np.full(shapes[:1] + shapes[2:], -1.0)
    images = 1 + max(found.image.max(initial=0), truth.image.max(initial=0))
    together = max(1, PLACES // images)
    groups = -(-num_classes // together)
    for found_rows, truth_rows in zip(
        found.rows(found.label // together, groups),
        truth.rows(truth.label // together, groups),
        strict=True,
    ):
        labels = np.unique(truth.label[truth_rows])
        if len(labels) == 0:
            continue
        evaluator = COCOeval_faster(
            _coco(truth, truth_rows, shape),
            _coco(found, found_rows, shape),
            shape,
            print_function=log.debug,
            rle_iou_max_workers=1,  # what is left of an IoU when boxes are compared is too short
        )
        evaluator.params.imgIds = np.union1d(found.image[found_rows], truth.image[truth_rows])
        evaluator.params.catIds = labels.tolist()
        evaluator.params.maxDets = list(max_detections)
        evaluator.evaluate()
        evaluator.accumulate()
        precision[:, :, labels] = evaluator.eval["precision"]
        recall[:, labels] = evaluator.eval["recall"]
    return precision, recall


def _coco(objects: Objects, rows: Ints, shape: Literal["bbox", "segm"]) -> COCO:
    """Some objects as faster-coco-eval wants them; their ids are counted from 1."""
    key = "bbox" if shape == "bbox" else "segmentation"
    columns = (objects.image, objects.label, objects.area, objects.score, objects.crowd)
    values = zip(*(each[rows].tolist() for each in (*columns, objects.shapes)), strict=True)
    annotations = [
        {
            "id": number,
            "image_id": image,
            "category_id": label,
            "area": area,
            "score": score,
            "iscrowd": crowd,
            key: one,
        }
        for number, (image, label, area, score, crowd, one) in enumerate(values, 1)
    ]
    coco = COCO(print_function=log.debug)
    coco.dataset = {"annotations": annotations, "categories": [], "images": []}
    if shape == "segm":
        sizes = {each["image_id"]: each[key]["size"] for each in annotations}
        coco.dataset["images"] = [
            {"id": image, "height": height, "width": width}
            for image, (height, width) in sizes.items()
        ]
    coco.createIndex()
    return coco


def match(iou: Floats, crowd: Ints, threshold: float = 0.5) -> Ints:
    """The object that each detection finds ``[D]``, or -1, as COCO matches.

    Detections choose in turn: the free object of the greatest IoU that is at least ``threshold``,
    the last of equals, or else a crowd, which any number of them may choose.

    Args:
        iou: of detections, best first, and objects ``[D, G]``.
        crowd: 1 for crowds ``[G]``.
        threshold: the least IoU.
    """
    matches = np.full(len(iou), -1)
    taken = [False] * len(crowd)
    only = (crowd == 0).tolist()
    near = iou >= threshold
    pairs = zip(*(part.tolist() for part in np.nonzero(near)), iou[near].tolist(), strict=True)
    for detection, objects in itertools.groupby(pairs, key=lambda pair: pair[0]):
        free = [(only[n], value, n) for _, n, value in objects if not taken[n]]
        if free:
            _, _, best = max(free)
            matches[detection] = best
            taken[best] = only[best]
    return matches


def matching_and_confusion(
    found: Objects, truth: Objects, num_images: int, num_classes: int, score_threshold: float
) -> tuple[float, Ints]:
    """How well the detections of at least ``score_threshold`` match at IoU 0.5.

    The score is that of the 2018 Data Science Bowl at this IoU, TP / (TP + FP + FN) of each image,
    averaged over the images (Caicedo et al., doi 10.1038/s41592-019-0612-7); objects are found by
    detections of their class. An image without objects counts 1 where nothing is found in it, which
    is the right answer, and else 0. -1 where there is no image.

    The confusion matrix ``[K + 1, K + 1]`` counts pairs that are matched whatever their classes:
    rows the truth, columns what was found, the last of each the background.

    Detections of crowds count nowhere.
    """
    confusion = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    scores = np.ones(num_images)
    by_image = zip(
        found.rows(found.image, num_images), truth.rows(truth.image, num_images), strict=True
    )
    for image, (found_rows, truth_rows) in enumerate(by_image):
        rows = found_rows[found.score[found_rows] >= score_threshold]
        rows = rows[np.argsort(-found.score[rows], kind="stable")]
        crowd = truth.crowd[truth_rows]
        iou = np.zeros((len(rows), len(truth_rows)))
        if iou.size:
            shapes = found.shapes[rows].tolist(), truth.shapes[truth_rows].tolist()
            iou = coco_mask.iou(*shapes, crowd.tolist())
        guesses, labels = found.label[rows], truth.label[truth_rows]

        same = match(iou * (guesses[:, None] == labels), crowd)
        false = int((same < 0).sum())
        hits = int((np.append(crowd, 1)[same] == 0).sum())  # -1, a false one, is the last
        objects = int((crowd == 0).sum())
        if objects + false:
            scores[image] = hits / (objects + false)

        matches = match(iou, crowd)
        counted = np.append(crowd, 0)[matches] == 0
        pairs = np.append(labels, num_classes)[matches[counted]], guesses[counted]
        np.add.at(confusion, pairs, 1)
        missed = crowd == 0
        missed[matches[matches >= 0]] = False
        np.add.at(confusion[:, num_classes], labels[missed], 1)
    return float(scores.mean()) if num_images else -1.0, confusion
