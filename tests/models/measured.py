"""Objects and detections for tests, and what pycocotools says of them."""

import contextlib
import io
import math

import numpy as np
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from lit_imgproc.models.coco_metrics import CocoMetrics

SIZE = 160, 200


def names(count):
    return [f"class {k}" for k in range(count)]


def truth_of(boxes, labels=None, iscrowd=None):
    boxes = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    zeros = torch.zeros(len(boxes), dtype=torch.int64)
    return {
        "boxes": boxes,
        "labels": zeros if labels is None else torch.tensor(labels, dtype=torch.int64),
        "iscrowd": zeros if iscrowd is None else torch.tensor(iscrowd, dtype=torch.int64),
        "area": (boxes[:, 2:] - boxes[:, :2]).prod(1),
    }


def found_of(boxes, labels=None, scores=None):
    boxes = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    zeros = torch.zeros(len(boxes), dtype=torch.int64)
    return {
        "boxes": boxes,
        "labels": zeros if labels is None else torch.tensor(labels, dtype=torch.int64),
        "scores": torch.ones(len(boxes)) if scores is None else torch.tensor(scores),
    }


def ellipses(boxes):
    """Masks of the ellipses in boxes."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    x1, y1, x2, y2 = (boxes[:, n, None, None] for n in range(4))
    across = (2 * columns - x1 - x2) / np.maximum(x2 - x1, 1e-6)
    down = (2 * rows - y1 - y2) / np.maximum(y2 - y1, 1e-6)
    return torch.tensor(across**2 + down**2 <= 1)


def random_sets(seed, images=12, classes=4, crowds=0.0, empty=0.0, ties=False, absent=0):
    """Objects of many sizes, each found by several jittered boxes of all classes; with masks."""
    random = np.random.default_rng(seed)
    found, truth = [], []
    for _ in range(images):
        count = 0 if random.random() < empty else random.integers(1, 7)
        corners = random.uniform(0, 110, (count, 2))
        boxes = np.concatenate([corners, corners + np.exp(random.uniform(2, 5, (count, 2)))], 1)
        labels = random.integers(0, classes - absent, count)
        there = truth_of(boxes, labels, random.random(count) < crowds)
        there["area"] = there["area"] * torch.tensor(random.uniform(0.3, 1, count)).float()
        guesses = 0 if random.random() < empty else random.integers(5, 30)
        if count:
            source = random.integers(0, count, guesses)
            moved = boxes[source] * random.normal(1, 0.06, (guesses, 4))
            guessed = np.where(
                random.random(guesses) < 0.7,
                labels[source],
                random.integers(0, classes, guesses),
            )
        else:
            moved = np.tile([10.0, 10.0, 60.0, 60.0], (guesses, 1))
            guessed = random.integers(0, classes, guesses)
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2])
        scores = np.sort(random.random(guesses).astype(np.float32))[::-1]
        scores = scores.round(1) if ties else scores.copy()
        there["masks"] = ellipses(boxes).to(torch.uint8)
        truth.append(there)
        found.append(found_of(moved, guessed, scores) | {"masks": ellipses(moved)})
    return found, truth


def columns_of(boxes):
    """Boxes as COCO writes them."""
    boxes = boxes.double()
    return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).tolist()


def rles_of(masks):
    return [coco_mask.encode(np.asfortranarray(mask.numpy().astype(np.uint8))) for mask in masks]


def pycocotools(found, truth, classes, shape="bbox", most=100):
    """An evaluation that has been run, by the reference implementation."""
    objects, guesses = [], []
    for image, (one, there) in enumerate(zip(found, truth, strict=True), 1):
        for into, of in ((objects, there), (guesses, one)):
            boxes = columns_of(of["boxes"])
            for n, label in enumerate(of["labels"].tolist()):
                row = {"id": len(into) + 1, "image_id": image, "category_id": label + 1}
                if into is objects:
                    row |= {"iscrowd": int(of["iscrowd"][n]), "area": float(of["area"][n])}
                else:
                    row |= {"score": float(of["scores"][n])}
                if shape == "bbox" or into is objects:
                    row["bbox"] = boxes[n]
                if shape == "segm":
                    row["segmentation"] = rles_of(of["masks"][n : n + 1])[0]
                into.append(row)
    with contextlib.redirect_stdout(io.StringIO()):
        there = COCO()
        there.dataset = {
            "images": [
                {"id": n + 1, "height": SIZE[0], "width": SIZE[1]} for n in range(len(truth))
            ],
            "categories": [{"id": k + 1} for k in range(classes)],
            "annotations": objects,
        }
        there.createIndex()
        if guesses:
            evaluation = COCOeval(there, there.loadRes(guesses), shape)
        else:
            nothing = COCO()
            nothing.dataset = there.dataset | {"annotations": []}
            nothing.createIndex()
            evaluation = COCOeval(there, nothing, shape)
        evaluation.params.maxDets = [1, 10, most]
        evaluation.evaluate()
        evaluation.accumulate()
        if most == 100:
            evaluation.summarize()
    return evaluation


def ours(found, truth, classes, batch=5, **options):
    metric = CocoMetrics(names(classes), **options)
    for start in range(0, len(truth), batch):
        metric.update(found[start : start + batch], truth[start : start + batch])
    values = metric.compute()
    assert not any(math.isnan(value) for value in values.values())
    return metric, values
