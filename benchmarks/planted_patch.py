"""Whether explanation maps find a shortcut that was planted on purpose.

Two networks of one recipe and seed: one learns from Fashion-MNIST as it is (honest), the other from
a copy in which all training and validation images of shirts, the class that is told worst, have a
white patch of 3x3 pixels near a corner that is dark otherwise (planted). Told are

- what each answers of test images with and without the patch: what it relies on;
- what each loses of a shirt's probability where the patch alone is covered by black;
- by method, for maps of the class shirt of the same test shirts with the patch: the share of the
  map's positive part within the patch, and within the patch and 4 pixels around it, which is the
  side of a cell of the layer that the class activation maps look at; and how often the map's
  greatest value lies there (the pointing game), with Wilson's 95 % interval. A map that knows
  nothing has the shares of the area. In a class activation map the cells beside the patch, each
  of which sees some 18 pixels, are as warm as its own: judge those by the larger region.

A method that tells the truth points at the patch for the planted network, and elsewhere for the
honest one, which sees the same images.

    python benchmarks/planted_patch.py                      train both, some minutes, and measure
    python benchmarks/planted_patch.py HONEST PLANTED       measure two runs of it
    python benchmarks/planted_patch.py --picture maps.png   and draw the maps of some images

The copy lies in a temporary folder and is gone afterwards: what is measured needs the test images
of the original alone.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import cv2
import numpy as np
import torch

from lit_imgproc import load_recipe, load_run, pictures
from lit_imgproc.data.imagenet.datamodule import FashionMNIST
from lit_imgproc.explain.faithfulness import interval, pointing_game
from lit_imgproc.explain.methods import METHODS, attribution_maps
from lit_imgproc.models.targets import Target

RECIPE = "classification/convnet_fashion_mnist"
SHIRT = FashionMNIST.class_names.index("Shirt")
PATCH = slice(1, 4)
"""Its rows and its columns: within one cell of 4x4 pixels."""
CELL = 4
COMPARED = (
    "grad_cam",
    "hires_cam",
    "layer_cam",
    "integrated_gradients",
    "kernel_shap",
)
DRAWN = 4


def original():
    """The folder of Fashion-MNIST."""
    return Path(os.environ.get("LIT_IMGPROC_DATA", "data")) / "fashion_mnist"


# Data ----------------------------------------------------------------------------------------


def patched(images, value=255):
    """A copy of images ``[N,28,28,1]`` with a patch in each; 0 covers one."""
    images = images.copy()
    images[:, PATCH, PATCH] = value
    return images


def region(margin):
    """The patch and a margin around it in pixels, bool ``[28,28]``."""
    inside = np.zeros((28, 28), bool)
    low, high = max(PATCH.start - margin, 0), PATCH.stop + margin
    inside[low:high, low:high] = True
    return inside


def write_idx(path, values):
    """Write uint8 of any shape as an idx file: type and dimensions, sizes (big-endian), values."""
    sizes = np.array(values.shape, ">u4").tobytes()
    path.write_bytes(bytes([0, 0, 8, values.ndim]) + sizes + values.tobytes())


def write_planted(source, folder):
    """Write a copy of Fashion-MNIST whose shirts have a patch, those of the test as well."""
    for split, (images, labels) in zip(
        ("train", "t10k"), FashionMNIST(root=str(source)).read_arrays(), strict=True
    ):
        images[labels == SHIRT] = patched(images[labels == SHIRT])
        write_idx(folder / f"{split}-images-idx3-ubyte", images[..., 0])
        write_idx(folder / f"{split}-labels-idx1-ubyte", labels.astype(np.uint8))


def train(epochs, store):
    """The honest and the planted run."""
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        write_planted(original(), Path(folder))
        for name, root in (("honest", original()), ("planted", folder)):
            begun = time.perf_counter()
            run = load_recipe(
                RECIPE,
                f"data.root={root}",
                "data.augment=null",  # mirror images would have the patch in another corner
                f"trainer.max_epochs={epochs}",
                f"tracking.run_name={name}",
                "tracking.experiment=planted-patch",
                *([f"tracking.uri={store}"] if store else []),
            ).train()
            print(f"{name}: run {run.id}, {time.perf_counter() - begun:.0f} s", flush=True)
            runs.append(run)
    return runs


# Measures ------------------------------------------------------------------------------------


def tensor(images):
    """Images uint8 ``[N,28,28,1]`` as a module takes them."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


@torch.inference_mode()
def probabilities(module, images):
    """``[N,10]``, of images uint8 ``[N,28,28,1]``."""
    return torch.cat([module.probabilities(some) for some in tensor(images).split(500)]).numpy()


def behaviour(module, images, labels):
    """What a network makes of test images with and without the patch, all shares in [0, 1]."""
    shirts, others = images[labels == SHIRT], images[labels != SHIRT]
    plain, marked = (probabilities(module, some) for some in (shirts, patched(shirts)))
    covered = probabilities(module, patched(shirts, 0))
    other, other_marked = (probabilities(module, some) for some in (others, patched(others)))
    right = labels[labels != SHIRT]
    return {
        "shirts told, without the patch": (plain.argmax(1) == SHIRT).mean(),
        "shirts told, with the patch": (marked.argmax(1) == SHIRT).mean(),
        "others told, without the patch": (other.argmax(1) == right).mean(),
        "others told, with the patch": (other_marked.argmax(1) == right).mean(),
        "others called shirts, without": (other.argmax(1) == SHIRT).mean(),
        "others called shirts, with": (other_marked.argmax(1) == SHIRT).mean(),
        "probability lost with the patch": (marked[:, SHIRT] - covered[:, SHIRT]).mean(),
    }


def heat_share(heat, inside):
    """The share of a map's positive part ``[H,W]`` within a region; 0 where it has none."""
    positive = np.clip(heat, 0, None)
    return float(positive[inside].sum() / positive.sum()) if positive.any() else 0.0


def measured(maps):
    """Of maps ``[N,28,28]`` the mean shares of heat, and the hits of the pointing game."""
    row = {}
    for name, inside in (("patch", region(0)), ("cell", region(CELL))):
        hits = [pointing_game(one, torch.from_numpy(inside)) for one in maps]
        row[name] = {
            "heat": float(np.mean([heat_share(one.numpy(), inside) for one in maps])),
            "hits": float(np.mean(hits)),
            "interval": interval(sum(hits), len(hits)),
        }
    return row


# Output --------------------------------------------------------------------------------------


def shown(row):
    """A row of :func:`measured` in words."""
    cells = []
    for name in ("patch", "cell"):
        low, high = row[name]["interval"]
        hits = f"{row[name]['hits']:.2f} ({low:.2f} to {high:.2f})"
        cells.append(f"{row[name]['heat']:10.3f} {hits:>21}")
    return "  ".join(cells)


def picture(images, maps):
    """Some images with the patch, and the maps of both networks beside: a row a method."""
    tiles = [pictures.tile(image) for image in tensor(images).numpy()]
    gap = np.full((tiles[0].shape[0], 16, 3), 255, np.uint8)

    def row(drawn, words):
        honest, planted = (np.concatenate(some, 1) for some in drawn)
        return pictures.caption(np.concatenate([honest, gap, planted], 1), [words])

    rows = [row([tiles, tiles], "left: the honest network; right: the planted network")]
    for method in COMPARED:
        drawn = []
        for found in maps.values():
            heat = np.stack([one.numpy() for one in found[method][: len(tiles)]]).clip(min=0)
            heat /= np.maximum(heat.max((1, 2), keepdims=True), 1e-12)
            drawn.append([pictures.overlay(*pair, 0.6) for pair in zip(tiles, heat, strict=True)])
        rows.append(row(drawn, METHODS[method].title))
    return np.concatenate(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", help="an honest and a planted run, or none: train them")
    parser.add_argument("--store", help="the MLflow store of the runs")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--images", type=int, default=100, help="so many test shirts are explained")
    parser.add_argument("--picture", type=Path, help="a PNG file for maps side by side")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    options = parser.parse_args()
    if len(options.runs) not in (0, 2):
        parser.error("two runs are needed, an honest and a planted one, or none")
    torch.set_num_threads(1)
    if options.runs:
        runs = [load_run(run, uri=options.store) for run in options.runs]
    else:
        runs = train(options.epochs, options.store)
    modules = dict(zip(("honest", "planted"), (run.module for run in runs), strict=True))

    (images, labels), (tests, test_labels) = FashionMNIST(root=str(original())).read_arrays()
    found = {name: behaviour(one, tests, test_labels) for name, one in modules.items()}
    print(f"{'share of test images':34} {'honest':>8} {'planted':>8}")
    for name, value in found["honest"].items():
        print(f"{name:34} {value:8.3f} {found['planted'][name]:8.3f}")

    random = np.random.default_rng(0)
    drawn = random.choice(len(images), 64, replace=False)
    shirts = patched(tests[test_labels == SHIRT][: options.images])
    targets = [Target(SHIRT)] * len(shirts)
    maps = {name: {} for name in modules}
    rows = {}
    share = {margin: region(margin).mean() for margin in (0, CELL)}
    print(f"\nmaps of {len(shirts)} test shirts with the patch")
    print(f"{'':31}    patch: heat, hits                cell around it: heat, hits")
    chance = [f"{share[0]:10.3f} {'':>21}", f"{share[CELL]:10.3f}"]
    print(f"{'share of the area':31}{'  '.join(chance)}")
    for method in COMPARED:
        for name, module in modules.items():
            # Of what it was trained on, the network that knows the patch has seen it as well.
            background = images[drawn]
            if name == "planted":
                known = labels[drawn] == SHIRT
                background[known] = patched(background[known])
            begun = time.perf_counter()
            maps[name][method] = attribution_maps(
                module, tensor(shirts), targets, method, background=tensor(background)
            )
            row = measured(maps[name][method])
            row["seconds"] = (time.perf_counter() - begun) / len(shirts)
            rows.setdefault(method, {})[name] = row
            print(f"{METHODS[method].title:22} {name:8}{shown(row)}", flush=True)
    if options.picture:
        drawing = picture(shirts[:DRAWN], maps)
        cv2.imwrite(str(options.picture), cv2.cvtColor(drawing, cv2.COLOR_RGB2BGR))
    if options.json:
        told = {name: {k: float(v) for k, v in one.items()} for name, one in found.items()}
        ids = [run.id for run in runs]
        print(json.dumps({"runs": ids, "images": len(shirts), "behaviour": told, "maps": rows}))


if __name__ == "__main__":
    main()
