"""What R-CNN, Fast R-CNN and Faster R-CNN make of blood cells, side by side.

Average precision at IoU 0.5 on the test images, as each run measured it, and the seconds that an
image takes: of the search for proposals, where there is one, and of the network. One image at a
time, on one thread, medians over the same images, the runs in turn.

    for name in faster_rcnn fast_rcnn rcnn; do lit-imgproc train detection/${name}_bccd; done
    python benchmarks/blood_cells.py RUN RUN RUN            # a table
    python benchmarks/blood_cells.py RUN RUN RUN --json     # and a last line of JSON
"""

import argparse
import json
import os
import statistics
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import torch

from lit_imgproc import load_run, selective_search


def seconds(call):
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def search(batch, data):
    """Look for proposals in the file of an image, as the datamodule did once."""
    pixels = data.open(batch["geometry"][0]["path"])
    return seconds(lambda: selective_search.selective_search(pixels, most=data.proposals))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", help="run ids, or their first characters")
    parser.add_argument("--images", type=int, default=20, help="so many are timed")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs = [load_run(run) for run in options.runs]
    searched = {run.id: [] for run in runs}
    looked = {run.id: [] for run in runs}
    for number in range(options.images):
        for run in runs:
            data, module = run.datamodule, run.module
            batch = data.batch("test", [number])
            if getattr(data, "proposals", None):
                searched[run.id].append(search(batch, data))
            batch = module.on_after_batch_transfer(batch, 0)
            with torch.inference_mode():
                looked[run.id].append(seconds(lambda m=module, b=batch: m.detect(b)))
    rows = []
    for run in runs:
        proposals = statistics.median(searched[run.id]) if searched[run.id] else 0.0
        network = statistics.median(looked[run.id])
        rows.append(
            {
                "system": run.recipe["recipe"]["system"],
                "map_50": run.metrics["test/map_50"],
                "proposals_s": round(proposals, 3),
                "network_s": round(network, 3),
                "seconds": round(proposals + network, 3),
            }
        )
    rows.sort(key=lambda row: -row["map_50"])
    print(f"{'system':14} {'AP50':>6} {'proposals':>10} {'network':>8} {'seconds an image':>17}")
    for row in rows:
        print(
            f"{row['system']:14} {row['map_50']:6.3f} {row['proposals_s']:10.2f} "
            f"{row['network_s']:8.2f} {row['seconds']:17.2f}"
        )
    if options.json:
        print(json.dumps({"images": options.images, "runs": rows}))


if __name__ == "__main__":
    main()
