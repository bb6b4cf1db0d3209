"""Images a second of COCO-style data, ours over torchvision's ``CocoDetection`` with v2 transforms.

The same files, resized alike (shorter side 480, longer at most 800) and mirrored at random, loaded
in batches by loaders of the same number of workers; boxes of BCCD as COCO JSON, and masks of a
drawn set whose images are BCCD's with a polygon in place of each box. Torchvision's side is
``wrap_dataset_for_transforms_v2(CocoDetection)`` with ``v2.RandomShortestSize``,
``v2.RandomHorizontalFlip`` and ``v2.SanitizeBoundingBoxes``. The arms take turns.

    LIT_IMGPROC_DATA=… python benchmarks/data_coco.py
    LIT_IMGPROC_DATA=… python benchmarks/data_coco.py --json
"""

import argparse
import contextlib
import io
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import numpy as np
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
from torchvision.transforms import v2

from lit_imgproc.data.coco.coco_json import CocoData

DATA = Path(os.environ.get("LIT_IMGPROC_DATA", "../shared/data"))
SHORT, LONG, BATCH = 480, 800, 8


def with_polygons(folder):
    """BCCD with an ellipse of 24 corners in each box."""
    bccd = (DATA / "bccd").resolve()
    told = json.loads((bccd / "coco/instances_train.json").read_text())
    angles = np.arange(24) * np.pi / 12
    for one in told["annotations"]:
        x, y, width, height = one["bbox"]
        points = np.stack([x + width * (1 + np.cos(angles)) / 2,
                           y + height * (1 + np.sin(angles)) / 2], 1)  # fmt: skip
        one["segmentation"] = [points.round(2).ravel().tolist()]
    told["annotations"] = [one for one in told["annotations"] if one["area"] > 0]
    (folder / "instances_train.json").write_text(json.dumps(told))
    (folder / "images").symlink_to(bccd / "JPEGImages")
    return folder


def ours(root, annotations, images, target, workers):
    data = CocoData(
        root=str(root),
        annotations=annotations,
        images=images,
        target=target,
        image_size=SHORT,
        max_size=LONG,
        augment={"train": "flip"},
        batch_size=BATCH,
        num_workers=workers,
    )
    return data.train_dataloader()


def torchvision(root, annotations, images, target, workers):
    with contextlib.redirect_stdout(io.StringIO()):
        plain = CocoDetection(
            str(root / images),
            str(root / annotations.replace("{split}", "train")),
            transforms=v2.Compose(
                [
                    v2.ToImage(),
                    v2.RandomShortestSize(SHORT, LONG),
                    v2.RandomHorizontalFlip(0.5),
                    v2.SanitizeBoundingBoxes(),
                ]
            ),
        )
    keys = {"boxes", "labels", *(["masks"] if target == "instances" else [])}
    dataset = wrap_dataset_for_transforms_v2(plain, target_keys=keys)
    dataset = torch.utils.data.Subset(
        dataset, [n for n, image in enumerate(plain.ids) if plain.coco.getAnnIds(image)]
    )
    return DataLoader(
        dataset,
        batch_size=BATCH,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=lambda batch: tuple(zip(*batch, strict=True)),
    )


def images_per_second(loader, limit):
    """Of one pass, or of ``limit`` batches of one."""
    begun, images = time.perf_counter(), 0
    for number, batch in enumerate(loader):
        images += len(batch["image"] if isinstance(batch, dict) else batch[0])
        if number + 1 == limit:
            break
    return images / (time.perf_counter() - begun)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batches", type=int, default=0, help="of a pass; 0 is all")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    ratios = {}
    with tempfile.TemporaryDirectory() as folder:
        cases = {
            "boxes": (DATA / "bccd", "coco/instances_{split}.json", "JPEGImages"),
            "instances": (with_polygons(Path(folder)), "instances_{split}.json", "images"),
        }
        for target, case in cases.items():
            for workers in options.workers:
                arms = {"ours": ours, "torchvision": torchvision}
                loaders = {name: make(*case, target, workers) for name, make in arms.items()}
                for loader in loaders.values():
                    images_per_second(loader, options.batches)  # file caches and workers
                found = {name: [] for name in arms}
                for _ in range(options.repeats):
                    for name, loader in loaders.items():
                        found[name].append(images_per_second(loader, options.batches))
                speed = {name: statistics.median(values) for name, values in found.items()}
                ratio = speed["ours"] / speed["torchvision"]
                key = target if workers == 0 else f"{target}, {workers} workers"
                ratios[key] = round(ratio, 3)
                print(
                    f"{key:22} ours {speed['ours']:6.1f}, torchvision {speed['torchvision']:6.1f} "
                    f"images/s, ratio {ratio:.2f}"
                )
                del loaders
    if options.json:
        print(json.dumps({"ratios": ratios}))
    sys.exit(any(ratio <= 1 for ratio in ratios.values()))


if __name__ == "__main__":
    main()
