"""Land cover of Dubai: what networks reach on ground that they have not seen, tile by tile.

    python benchmarks/land_cover.py RUN…                  the test of runs, beside the majority
    python benchmarks/land_cover.py --leave-one-out       each of the six tiles tested in turn

Shares of classes differ much between tiles, so beside each mean IoU stands that of the answer that
needs no image: everywhere the class that is most frequent in training. Runs of the second kind are
recorded like others; `--epochs` and further `key=value` change their recipe.
"""

import argparse
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lit_imgproc import load_recipe, load_run
from lit_imgproc.data.base import ImageDataModule
from lit_imgproc.data.transforms import IGNORE
from lit_imgproc.recipes.run import Run

TILES = range(1, 7)


def pixels(data: ImageDataModule, split: str) -> NDArray[np.int64]:
    """How many pixels each class has in a split."""
    dataset = data.dataset(split)
    counts = np.zeros(len(dataset.class_names), np.int64)
    for index in range(len(dataset)):
        mask = dataset[index]["mask"].numpy()
        counts += np.bincount(mask[mask != IGNORE], minlength=len(counts))
    return counts


def row(name: str, run: Run) -> list[str]:
    """Mean IoU, that of the majority class, and the IoU of each class with its share."""
    there = pixels(run.datamodule, "test")
    majority = int(np.argmax(run.datamodule.facts()["class_counts"]))
    shares = there / there.sum()
    # Everything is answered as one class: its IoU is its share, that of the others is 0.
    baseline = shares[majority] / np.count_nonzero(there + (np.arange(len(there)) == majority))
    values = [
        f"{run.metrics.get(f'test/iou/{one}', float('nan')):.3f} ({share:.0%})"
        for one, share in zip(run.datamodule.facts()["class_names"], shares, strict=True)
    ]
    return [name, f"{run.metrics['test/iou']:.3f}", f"{baseline:.3f}", *values]


def table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print Markdown."""
    print("| | mean IoU | majority class | " + " | ".join(names) + " |")
    print("| --- " * (len(names) + 3) + "|")
    for one in rows:
        print("| " + " | ".join(one) + " |", flush=True)


def leave_one_out(recipe: str, epochs: int, overrides: Sequence[str]) -> list[Run]:
    """Train as often as there are tiles; the tile before the tested one chooses the state."""
    runs = []
    for test in TILES:
        val = (test - 2) % len(TILES) + 1
        train = "".join(str(tile) for tile in TILES if tile not in (test, val))
        splits = f"{{train: ['t[{train}]_*'], val: ['t{val}_*'], test: ['t{test}_*']}}"
        name = f"tracking.run_name=without_tile_{test}"
        length = (f"trainer.max_epochs={epochs}", "trainer.check_val_every_n_epoch=1")
        options = (f"data.splits={splits}", *length, name, *overrides)
        runs.append(load_recipe(recipe, *options).train())
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", help="ids of runs, or key=value with --leave-one-out")
    parser.add_argument("--leave-one-out", action="store_true")
    parser.add_argument("--recipe", default="segmentation/unet_dubai")
    parser.add_argument("--epochs", type=int, default=3)
    given = parser.parse_args()
    if given.leave_one_out:
        runs = leave_one_out(given.recipe, given.epochs, given.runs)
        names = [f"tile {tile}" for tile in TILES]
    else:
        runs = [load_run(run) for run in given.runs]
        names = [f"{run.record.info.run_name} ({run.id[:8]})" for run in runs]
    rows = [row(name, run) for name, run in zip(names, runs, strict=True)]
    if given.leave_one_out:
        mean = np.mean([run.metrics["test/iou"] for run in runs])
        rows.append(["mean", f"{mean:.3f}", "", *[""] * (len(rows[0]) - 3)])
    table(runs[0].datamodule.facts()["class_names"], rows)


if __name__ == "__main__":
    main()
