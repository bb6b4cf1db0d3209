"""Whether explanation maps point at what an image shows: the pointing game on blood cells.

Crops of BCCD's photographs show one white cell, or one platelet, or red cells alone, and a network
learns to tell the three apart from the label of the crop only; it never sees a box. A map of the
crop's class then hits where its greatest value lies within the box of that cell (the pointing game,
doi 10.1007/s11263-017-1059-x). Beside the hits stand those of three answers that know nothing: the
centre of the crop, a place drawn at random, and the share of the crop that the box covers.

The place of a crop is drawn, so that cells lie anywhere in it: at least half of the cell's box is
within, and nothing of another white cell or platelet. Crops are of 240 pixels, and written at a
third of that. All crops of a photograph belong to the split that BCCD gave it, and of each cell of
the validation and test photographs there is one, so that the intervals (Wilson, 95 %) are of as
many cells. Crops of red cells alone have no box and do not count. All others do, whether the
network answers right or wrong: it is always the true class that is explained.

    python benchmarks/pointing_game.py                     cut crops, train, measure: some minutes
    python benchmarks/pointing_game.py RUN                 measure a run of it
    python benchmarks/pointing_game.py RUN --picture a.png    and draw the maps of some crops

The crops are written to `--crops`, an ImageNet-style folder, if they are not there already.
"""

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import cv2
import numpy as np
import torch
from torchvision.ops import masks_to_boxes

from lit_imgproc import load_recipe, load_run, pictures
from lit_imgproc.explain.faithfulness import centre_baseline, interval, pointing_game
from lit_imgproc.explain.methods import METHODS, attribution_maps
from lit_imgproc.models.targets import Target

CLASSES = {"WBC": "white_cell", "Platelets": "platelet"}
RED = "red_cells"
SIDE, SCALE = 240, 3
VISIBLE = 0.5
TRIES = 200
EPOCHS = 10
TIMES = {"white_cell": 3, "platelet": 6, RED: 4}
"""How many crops of a cell, or of red cells in a photograph, are trained on: about 600 a class."""
COMPARED = (
    "grad_cam",
    "grad_cam_plus_plus",
    "hires_cam",
    "layer_cam",
    "score_cam",
    "integrated_gradients",
)
DRAWN = 5


def visible(boxes, left, top, side=SIDE):
    """The share ``[N]`` of boxes ``[N,4]``, xyxy, within a square, and what is left of them."""
    corner = np.array([left, top, left, top])
    within = np.clip(boxes - corner, 0, side)
    areas = [(each[:, 2:] - each[:, :2]).prod(1) for each in (within, boxes)]
    return areas[0] / areas[1], within


def draw_crop(boxes, wanted, size, random, side=SIDE):
    """A place where a square crop shows one box, or none, and nothing of the others.

    Args:
        boxes: ``[N,4]``, xyxy, of everything but red cells.
        wanted: the number of the box that is to be seen, at least half of it; None for none.
        size: height and width of the photograph.
        random: NumPy's generator.
        side: of the crop.

    Returns:
        The crop's left and top, all places equally probable; None where none was found.
    """
    for _ in range(TRIES):
        left = int(random.integers(size[1] - side + 1))
        top = int(random.integers(size[0] - side + 1))
        shares, _ = visible(boxes, left, top, side)
        others = shares if wanted is None else np.delete(shares, wanted)
        if not others.any() and (wanted is None or shares[wanted] >= VISIBLE):
            return left, top
    return None


def photographs(bccd, split):
    """Each photograph of a split: its file, and class and box ``[4]``, xyxy, of its cells.

    Red cells are left out, and boxes without an area.
    """
    told = json.loads((bccd / "coco" / f"instances_{split}.json").read_text())
    names = {one["id"]: CLASSES.get(one["name"]) for one in told["categories"]}
    for photo in told["images"]:
        cells = []
        for one in told["annotations"]:
            left, top, width, height = one["bbox"]
            name = names[one["category_id"]]
            if one["image_id"] == photo["id"] and name and width * height:
                cells.append((name, np.array([left, top, left + width, top + height], float)))
        yield bccd / "JPEGImages" / photo["file_name"], cells


def write_crops(bccd, folder, seed=0):
    """Write ``folder/<split>/<class>/*.png`` and the box of each crop as COCO's ``boxes.json``."""
    random = np.random.default_rng(seed)
    numbers = {name: number for number, name in enumerate(CLASSES.values(), 1)}
    told = {"images": [], "annotations": []}
    told["categories"] = [{"id": number, "name": name} for name, number in numbers.items()]
    for split in ("train", "val", "test"):
        for path, cells in photographs(bccd, split):
            pixels = cv2.imread(str(path))
            boxes = np.array([box for _, box in cells]).reshape(-1, 4)
            shown = [(number, name) for number, (name, _) in enumerate(cells)] + [(None, RED)]
            for wanted, name in shown:
                for _ in range(TIMES[name] if split == "train" else 1):
                    place = draw_crop(boxes, wanted, pixels.shape[:2], random)
                    if place is None:
                        continue
                    left, top = place
                    crop = pixels[top : top + SIDE, left : left + SIDE]
                    crop = cv2.resize(crop, (SIDE // SCALE,) * 2, interpolation=cv2.INTER_AREA)
                    file = f"{split}/{name}/{path.stem}_{len(told['images'])}.png"
                    (folder / file).parent.mkdir(parents=True, exist_ok=True)
                    cv2.imwrite(str(folder / file), crop)
                    size = {"height": crop.shape[0], "width": crop.shape[1]}
                    told["images"].append({"id": len(told["images"]), "file_name": file, **size})
                    if wanted is not None:
                        box = visible(boxes, left, top)[1][wanted] / SCALE
                        told["annotations"].append(annotation(told, numbers[name], box))
    (folder / "boxes.json").write_text(json.dumps(told))


def annotation(told, category, box):
    """A box ``[4]``, xyxy, of the image that was told last, in COCO's words."""
    left, top, right, bottom = box.tolist()
    width, height = right - left, bottom - top
    return {
        "id": len(told["annotations"]),
        "image_id": told["images"][-1]["id"],
        "category_id": category,
        "bbox": [left, top, width, height],
        "area": width * height,
        "iscrowd": 0,
    }


def train(crops, store):
    """Train a ResNet-20, whose last layer sees a crop as 20x20 cells, on crops."""
    return load_recipe(
        "medical/resnet20_nuclei",
        "recipe.title=ResNet-20 on crops of blood cells",
        "recipe.expects=null",
        "data.name=image_folder",
        f"data.root={crops}",
        f"data.image_size={SIDE // SCALE}",
        "data.resize=squash",
        "data.cache=memory",
        "data.batch_size=64",
        "callbacks.ema=null",  # over so few steps an average is mostly of early weights
        f"trainer.max_epochs={EPOCHS}",
        "tracking.experiment=pointing-game",
        *([f"tracking.uri={store}"] if store else []),
    ).train()


def boxed_crops(data):
    """The test crops with a box: images ``[N,C,H,W]``, labels, and masks bool ``[N,H,W]``."""
    told = json.loads((data.root / "boxes.json").read_text())
    files = {one["id"]: one["file_name"] for one in told["images"]}
    boxes = {files[one["image_id"]]: one["bbox"] for one in told["annotations"]}
    batch = data.batch("test", range(data.splits()["test"]))
    kept = [number for number, name in enumerate(batch["id"]) if name in boxes]
    images, labels = batch["image"][kept].float() / 255, batch["label"][kept]
    masks = torch.zeros(len(kept), *images.shape[2:], dtype=torch.bool)
    for mask, number in zip(masks, kept, strict=True):
        left, top, width, height = boxes[batch["id"][number]]
        right, bottom = round(left + width), round(top + height)
        mask[round(top) : bottom, round(left) : right] = True
    return images, labels, masks


def table(hits, labels, class_names):
    """Print the share of hits of each class and of all, with their intervals.

    Args:
        hits: by name, a chance in [0, 1] for each crop.
        labels: int64 ``[N]``, of the crops.
        class_names: of all classes.

    Returns:
        By name and class, the share and the ends of its interval.
    """
    groups = {class_names[k]: labels == k for k in labels.unique().tolist()}
    groups["both"] = torch.ones_like(labels, dtype=torch.bool)
    print(f"{'':22}" + "".join(f"{f'{n} ({int(g.sum())})':>24}" for n, g in groups.items()))
    rows = {}
    for name, each in hits.items():
        rows[name] = {}
        for group, inside in groups.items():
            some = torch.tensor(each, dtype=torch.float64)[inside]
            rows[name][group] = [float(some.mean()), *interval(float(some.sum()), len(some))]
        cells = [f"{mean:.2f} ({low:.2f} to {high:.2f})" for mean, low, high in rows[name].values()]
        print(f"{name:22}" + "".join(f"{cell:>24}" for cell in cells))
    return rows


def picture(images, masks, maps):
    """Crops with the box of their cell, and below each its maps: a row a method."""
    tiles = [pictures.tile(image.numpy()) for image in images]
    scale = tiles[0].shape[0] // images.shape[2]
    boxes = masks_to_boxes(masks).numpy()
    boxes[:, 2:] += 1  # from the last pixel to the edge

    def row(drawn):
        pairs = zip(drawn, boxes * scale, strict=True)
        return np.concatenate([pictures.outline(tile, box[None], [0]) for tile, box in pairs], 1)

    rows = [row(tiles)]
    for method, found in maps.items():
        heat = torch.stack(found).clamp(min=0).numpy()
        heat /= np.maximum(heat.max((1, 2), keepdims=True), 1e-12)
        drawn = [pictures.overlay(*pair) for pair in zip(tiles, heat, strict=True)]
        rows.append(pictures.caption(row(drawn), [METHODS[method].title]))
    return np.concatenate(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", help="a run's id, or its first characters; else train")
    parser.add_argument("--crops", type=Path, default=Path("data/bccd_crops"), help="their folder")
    parser.add_argument("--store", help="the MLflow store of the run")
    parser.add_argument("--methods", nargs="+", default=COMPARED, choices=METHODS, metavar="METHOD")
    parser.add_argument("--picture", type=Path, help="a PNG file for the maps of some crops")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.run:
        run = load_run(options.run, uri=options.store)
    else:
        if not (options.crops / "boxes.json").exists():
            write_crops(Path(os.environ.get("LIT_IMGPROC_DATA", "data")) / "bccd", options.crops)
        begun = time.perf_counter()
        run = train(options.crops, options.store)
        print(f"run {run.id}, {time.perf_counter() - begun:.0f} s", flush=True)

    module, data = run.module, run.datamodule
    images, labels, masks = boxed_crops(data)
    targets = [Target(k) for k in labels.tolist()]
    background = data.batch("train", range(0, data.splits()["train"], 20))["image"].float() / 255
    noise = torch.rand(masks.shape, generator=torch.Generator().manual_seed(0))
    hits = {
        "centre of the crop": [centre_baseline(mask) for mask in masks],
        "random place": [pointing_game(*pair) for pair in zip(noise, masks, strict=True)],
        "share of the area": masks.double().mean((1, 2)).tolist(),
    }
    maps, seconds = {}, {}
    for method in options.methods:
        begun = time.perf_counter()
        maps[method] = attribution_maps(module, images, targets, method, background=background)
        seconds[method] = (time.perf_counter() - begun) / len(images)
        title = METHODS[method].title
        hits[title] = [pointing_game(*pair) for pair in zip(maps[method], masks, strict=True)]
    said = torch.tensor([one.label for one in module.attribution_targets({"image": images})])
    right = float((said == labels).double().mean())
    print(f"\n{len(images)} test crops, {right:.3f} of them told right")
    rows = table(hits, labels, module.class_names)
    if options.picture:
        # Of each class as many, from the beginning.
        numbers = torch.cat([(labels == k).nonzero()[:DRAWN, 0] for k in labels.unique()])
        some = {method: [found[n] for n in numbers.tolist()] for method, found in maps.items()}
        drawing = picture(images[numbers], masks[numbers], some)
        cv2.imwrite(str(options.picture), cv2.cvtColor(drawing, cv2.COLOR_RGB2BGR))
    if options.json:
        print(json.dumps({"run": run.id, "hits": rows, "seconds": seconds}))


if __name__ == "__main__":
    main()
