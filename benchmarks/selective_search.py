"""How many objects of BCCD selective search finds with few boxes, and how long it takes.

Recall is the share of the objects of the validation images (640x480, 87 of them) that a proposal
covers with an intersection over union of 0.5 or more, for several numbers of proposals an image.
Seconds are of one process on one thread: of the clock, and of the processor. Beside it, the
paper's own rule, which leaves out boxes that are equal and not those that are nearly equal.

    LIT_IMGPROC_DATA=… python benchmarks/selective_search.py
    LIT_IMGPROC_DATA=… python benchmarks/selective_search.py --images 20 --json
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import numpy as np
import torch
from torchvision.ops import box_iou

from lit_imgproc import selective_search
from lit_imgproc.data.coco.coco_json import CocoData

DATA = Path(os.environ.get("LIT_IMGPROC_DATA", "../shared/data"))
COUNTS = (100, 300, 1000, 2000)
GOAL, AT = 0.85, 300


def overlaps(samples, mode):
    """Of each object its label and, for each of COUNTS, its best proposal's overlap; seconds."""
    labels, best, seconds, processor = [], [], [], []
    for sample in samples:
        image = sample["image"].permute(1, 2, 0).numpy()
        begun = time.perf_counter(), time.process_time()
        found = selective_search.selective_search(image, mode=mode, most=max(COUNTS))
        seconds.append(time.perf_counter() - begun[0])
        processor.append(time.process_time() - begun[1])
        iou = box_iou(sample["boxes"], torch.from_numpy(found)).numpy()
        best.append(np.stack([iou[:, :count].max(1) for count in COUNTS], 1))
        labels.append(sample["labels"].numpy())
    middle = [statistics.median(some) for some in (seconds, processor)]
    return np.concatenate(labels), np.concatenate(best), middle


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=0, help="so many of the images; 0 is all")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = CocoData(
        root=str(DATA / "bccd"),
        annotations="coco/instances_{split}.json",
        images="JPEGImages",
        resize="none",
        num_workers=0,
    )
    dataset = data.dataset("val")
    samples = [dataset[index] for index in range(options.images or len(dataset))]
    ours = selective_search.TWINS
    results = {}
    for name, mode, twins in (
        ("fast", "fast", ours),
        ("fast, the paper's rule", "fast", 1 - 1e-9),
        ("single", "single", ours),
    ):
        selective_search.TWINS = twins
        labels, best, (seconds, processor) = overlaps(samples, mode)
        print(f"{name}: {seconds:.2f} s an image, {processor:.2f} s of the processor")
        found = best >= 0.5
        for column, count in enumerate(COUNTS):
            classes = {
                label: found[labels == number, column].mean()
                for number, label in enumerate(dataset.class_names)
            }
            told = ", ".join(f"{label} {recall:.3f}" for label, recall in classes.items())
            print(f"  {count:5} boxes: recall {found[:, column].mean():.3f} ({told})")
        results[name] = {
            "seconds": round(seconds, 3),
            "recall": {
                count: round(float(recall), 4)
                for count, recall in zip(COUNTS, found.mean(0), strict=True)
            },
        }
    if options.json:
        print(json.dumps(results))
    sys.exit(results["fast"]["recall"][AT] < GOAL)


if __name__ == "__main__":
    main()
