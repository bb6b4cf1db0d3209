"""Seconds of evaluating detections, ours over torchmetrics' ``MeanAveragePrecision``.

Generated answers that look like COCO's: 80 classes, the rare ones rarer, about 7 objects an image
and 30 to 100 detections, of which some are near an object. All arms get the same tensors in updates
of 8 images, and the time is that of all updates and of ``compute``; COCO's twelve numbers must
agree. Ours gives besides them each class's, VOC 2007's, the matching score and the confusion
matrix; torchmetrics is asked for the twelve alone. Masks are ellipses. The arms take turns.

    python benchmarks/detection_evaluation.py                # a table
    python benchmarks/detection_evaluation.py --json         # and a last line of JSON
"""

import argparse
import json
import os
import statistics
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torchmetrics.detection import MeanAveragePrecision

from lit_imgproc.models.coco_metrics import CocoMetrics

CLASSES, BATCH = 80, 8
HEIGHT, WIDTH = 480, 640
NAMES = [f"class {k}" for k in range(CLASSES)]
SHARES = 1 / np.arange(1, CLASSES + 1)
SHARES /= SHARES.sum()
PEERS = ("pycocotools", "faster_coco_eval")
WANTED = 5.0
"""How many times faster than with pycocotools."""


def ellipses(boxes):
    """Masks ``[N, H, W]`` of the ellipses in boxes."""
    masks = torch.zeros(len(boxes), HEIGHT, WIDTH, dtype=torch.bool)
    rows, columns = torch.arange(HEIGHT)[:, None] + 0.5, torch.arange(WIDTH)[None] + 0.5
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.tolist(), strict=True):
        across, down = (2 * columns - x1 - x2) / (x2 - x1), (2 * rows - y1 - y2) / (y2 - y1)
        mask |= across**2 + down**2 <= 1
    return masks


def generated(images, masks):
    """Detections and truth, a dict an image."""
    random = np.random.default_rng(0)
    found, truth = [], []
    for _ in range(images):
        count, guesses = random.poisson(7), random.integers(30, 101)
        sizes = np.exp(random.uniform(np.log(10), np.log(300), (count + 1, 2)))
        corners = random.uniform(0, 1, (count + 1, 2)) * np.maximum([WIDTH, HEIGHT] - sizes, 1)
        boxes = np.concatenate([corners, corners + sizes], 1)
        labels = random.choice(CLASSES, count + 1, p=SHARES)
        # The last of the boxes is no object: it is what is found where there is none.
        source = random.integers(0, count + 1, guesses)
        moved = boxes[source] + random.normal(0, 0.1, (guesses, 4)) * np.tile(sizes[source], 2)
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        right = random.random(guesses) < 0.8
        guessed = np.where(right, labels[source], random.choice(CLASSES, guesses, p=SHARES))
        there = torch.tensor(boxes[:count], dtype=torch.float32)
        truth.append(
            {
                "boxes": there,
                "labels": torch.tensor(labels[:count]),
                "iscrowd": torch.tensor((random.random(count) < 0.01).astype(np.int64)),
                "area": (there[:, 2:] - there[:, :2]).prod(1),
            }
        )
        found.append(
            {
                "boxes": torch.tensor(moved, dtype=torch.float32),
                "labels": torch.tensor(guessed),
                "scores": torch.tensor(random.random(guesses), dtype=torch.float32).sort().values,
            }
        )
        found[-1]["scores"] = found[-1]["scores"].flip(0)
        if masks:
            for one in (found[-1], truth[-1]):
                one["masks"] = ellipses(one["boxes"])
    return found, truth


def ours(found, truth, masks):
    metric = CocoMetrics(NAMES, masks=masks)
    for start in range(0, len(truth), BATCH):
        metric.update(found[start : start + BATCH], truth[start : start + BATCH])
    return metric.compute()


def torchmetrics(backend):
    def evaluate(found, truth, masks):
        metric = MeanAveragePrecision(
            iou_type=("bbox", "segm")[: 1 + masks],
            # COCO's own: torchmetrics' are rounded to 32 bits, and 1 of 5 is below its 0.2.
            iou_thresholds=np.linspace(0.5, 0.95, 10).tolist(),
            rec_thresholds=np.linspace(0, 1, 101).tolist(),
            backend=backend,
        )
        for start in range(0, len(truth), BATCH):
            metric.update(found[start : start + BATCH], truth[start : start + BATCH])
        return {
            name.removeprefix("bbox_").replace("segm_", "mask_"): float(value)
            for name, value in metric.compute().items()
            if name != "classes" and not name.endswith("per_class")
        }

    return evaluate


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--masks", type=int, default=100, help="images with masks")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    arms = {"ours": ours} | {backend: torchmetrics(backend) for backend in PEERS}
    print(f"{'':28}{'ours':>9}" + "".join(f"{backend:>19}{'ratio':>8}" for backend in PEERS))
    results = {}
    for case, images in (("boxes", options.images), ("boxes and masks", options.masks)):
        found, truth = generated(images, masks := case != "boxes")
        seconds = {name: [] for name in arms}
        values = {}
        for _ in range(options.repeats):
            for name, evaluate in arms.items():
                begun = time.perf_counter()
                values[name] = evaluate(found, truth, masks)
                seconds[name].append(time.perf_counter() - begun)
        for backend in PEERS:
            for name, value in values[backend].items():
                if abs(value - values["ours"][name]) > 1e-6:
                    sys.exit(f"{case}, {name}: {values['ours'][name]}, with {backend} {value}")
        medians = {name: statistics.median(each) for name, each in seconds.items()}
        ratios = {backend: medians[backend] / medians["ours"] for backend in PEERS}
        print(
            f"{f'{images} images, {case}':28}{medians['ours']:7.2f} s"
            + "".join(f"{medians[name]:17.2f} s{ratios[name]:8.1f}" for name in PEERS),
            flush=True,
        )
        results[case] = {"seconds": medians, "ratios": ratios}
    if options.json:
        print(json.dumps(results))
    sys.exit(results["boxes"]["ratios"]["pycocotools"] < WANTED)


if __name__ == "__main__":
    main()
