"""What ImageNet weights are worth on few images: EfficientNet-Lite0 on fruits of unseen varieties.

The same network, images, augmentation and steps, with the ImageNet weights of the ``weights`` extra
and from scratch, at 10, 50 and 150 training images a class. The test fruits are of varieties that
are not among the training fruits (official split). Three seeds at 10 and 50, one at 150; a seed
also draws the images. Every training is an MLflow run of the experiment ``fruits``.

    LIT_IMGPROC_DATA=… python benchmarks/transfer.py            # a table
    LIT_IMGPROC_DATA=… python benchmarks/transfer.py --json     # and a last line of JSON
"""

import argparse
import json
import statistics
import time

from lit_imgproc import load_recipe

ARMS = {"ImageNet weights": "efficientnet_lite0_fruits",
        "from scratch": "efficientnet_lite0_fruits_scratch"}  # fmt: skip
EPOCHS = {10: 120, 50: 24, 150: 9}
"""About 120 steps each, so that a size is not a length of training too."""
SEEDS = {10: (0, 1, 2), 50: (0, 1, 2), 150: (0,)}


def accuracy(recipe, size, seed):
    """Train once; the accuracy on the test fruits."""
    experiment = load_recipe(
        f"classification/{recipe}",
        f"seed={seed}",
        f"data.images_per_class={size}",
        f"data.batch_size={min(32, 3 * size)}",
        f"trainer.max_epochs={EPOCHS[size]}",
        f"trainer.check_val_every_n_epoch={EPOCHS[size] // 3}",
        f"tracking.run_name={recipe} {size} a class, seed {seed}",
    )
    return experiment.train().metrics["test/accuracy"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=sorted(EPOCHS), choices=EPOCHS)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = {}
    for size in arguments.sizes:
        for arm, recipe in ARMS.items():
            begun = time.perf_counter()
            values = [accuracy(recipe, size, seed) for seed in SEEDS[size]]
            found[f"{arm}, {size}"] = values
            spread = f"± {statistics.stdev(values):.3f}" if len(values) > 1 else "       "
            print(
                f"{size:4} images a class, {arm:16} {statistics.mean(values):.3f} {spread} "
                f"({', '.join(f'{v:.3f}' for v in values)}; "
                f"{(time.perf_counter() - begun) / len(values):.0f} s each)",
                flush=True,
            )
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
