"""How many tree crowns a run finds, beside a grid of boxes that has not looked at the image.

A recall alone says little where crowns stand close: boxes laid out blindly meet some of them. So a
run on NEON's crowns (`detection/faster_rcnn_neon`) is told beside a baseline: as many boxes as the
run predicts in a scene, all of the training crowns' median size, their centres on a regular grid.
Boxes and crowns are assigned to each other one to one, with the greatest sum of IoUs, and count as
found from an IoU of 0.4 on, as NEON's own benchmark has it (doi 10.1371/journal.pcbi.1009180).

    python benchmarks/tree_crowns.py RUN            # a table
    python benchmarks/tree_crowns.py RUN --json     # and a last line of JSON
"""

import argparse
import json

import numpy as np
from scipy.optimize import linear_sum_assignment

from lit_imgproc import load_run

IOU = 0.4
SCORES = (0.3, 0.5, 0.7)
CAVEAT = (
    "Four scenes are all there is, and one of them is tested: this can say whether a run has "
    "learned anything, and not how well it finds crowns elsewhere."
)


def ious(boxes, others):
    """IoU ``[N,M]`` of boxes ``[N,4]`` and ``[M,4]``, xyxy."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(2)
    areas = [(each[:, 2:] - each[:, :2]).prod(1) for each in (boxes, others)]
    return common / (areas[0][:, None] + areas[1] - common)


def matches(truth, found, least=IOU):
    """How many of two sets of boxes meet, each at most once."""
    overlap = ious(truth, found)
    pairs = linear_sum_assignment(-overlap)
    return int((overlap[pairs] >= least).sum())


def centre_grid(count, height, width, size):
    """Exactly ``count`` boxes ``[N,4]`` of ``size`` (height, width), regularly over an image.

    Their centres are those of cells that are about square; where rows cannot have the same number
    of them, some have one more.
    """
    if count == 0:
        return np.zeros((0, 4))
    rows = min(max(round((count * height / width) ** 0.5), 1), count)
    boxes = []
    for row in range(rows):
        columns = count * (row + 1) // rows - count * row // rows
        x = (np.arange(columns) + 0.5) * width / columns
        y = np.full(columns, (row + 0.5) * height / rows)
        half = np.array([size[1], size[0]]) / 2
        centres = np.stack([x, y], 1)
        boxes.append(np.concatenate([centres - half, centres + half], 1))
    return np.concatenate(boxes)


def scenes(run):
    """The median height and width of the training crowns, and the rasters that are tested."""
    splits = {name: run.datamodule.dataset(name) for name in ("train", "test")}
    used = {
        name: {piece.source: split.sources[piece.source] for piece in split.pieces}
        for name, split in splits.items()
    }
    if shared := used["train"].keys() & used["test"].keys():
        names = ", ".join(used["test"][number].name for number in sorted(shared))
        raise SystemExit(f"{names}: is trained on in part; give whole scenes to the splits")
    crowns = np.concatenate([source.target.boxes for source in used["train"].values()])
    width, height = np.median(crowns[:, 2:] - crowns[:, :2], axis=0)
    return (height, width), list(used["test"].values())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="a run id, or its first characters")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    run = load_run(arguments.run)
    size, tested = scenes(run)
    said = [run.predict(source.raster.path)[0] for source in tested]
    print(f"training crowns: {size[0]:.1f} x {size[1]:.1f} pixels in the median")
    print("score from  crowns  boxes   recall (grid)    precision (grid)")
    rows = []
    for score in SCORES:
        crowns, boxes, hits, met = 0, 0, 0, 0
        for source, answer in zip(tested, said, strict=True):
            truth = source.target.boxes
            found = np.array(answer["boxes"], np.float64).reshape(-1, 4)
            found = found[np.array(answer["scores"]) >= score]
            height, width = answer["size"]
            blind = centre_grid(len(found), height, width, size)
            crowns, boxes = crowns + len(truth), boxes + len(found)
            hits, met = hits + matches(truth, found), met + matches(truth, blind)
        row = {"score": score, "crowns": crowns, "boxes": boxes}
        for name, count in (("run", hits), ("grid", met)):
            row[name] = {"recall": count / crowns, "precision": count / max(boxes, 1)}
        rows.append(row)
        one, other = row["run"], row["grid"]
        print(
            f"{score:10.1f}  {crowns:6d}  {boxes:5d}   {one['recall']:.3f} ({other['recall']:.3f})"
            f"    {one['precision']:.3f} ({other['precision']:.3f})"
        )
    print(CAVEAT)
    if arguments.json:
        print(json.dumps({"run": run.id, "iou": IOU, "scores": rows}))


if __name__ == "__main__":
    main()
