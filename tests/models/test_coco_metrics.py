"""COCO's metrics against pycocotools, which is the reference implementation."""

import contextlib
import io
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from measured import (
    SIZE,
    columns_of,
    found_of,
    names,
    ours,
    pycocotools,
    random_sets,
    rles_of,
    truth_of,
)
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from lit_imgproc.models.coco_metrics import CocoMetrics
from lit_imgproc.models.rle import encode

STATS = ["map", "map_50", "map_75", "map_small", "map_medium", "map_large",
         "mar_1", "mar_10", "mar_100", "mar_small", "mar_medium", "mar_large"]  # fmt: skip


def class_means(evaluation):
    """Average precision of each class that has objects, at all IoUs and at 0.5."""
    precision = evaluation.eval["precision"][..., 0, -1]
    measured = [k for k in range(precision.shape[2]) if precision[0, 0, k] > -1]
    return {f"map/class {k}": precision[:, :, k].mean() for k in measured} | {
        f"map_50/class {k}": precision[0, :, k].mean() for k in measured
    }


def test_perfect_predictions_are_one():
    _, truth = random_sets(0)
    found = [
        found_of(one["boxes"].tolist(), one["labels"].tolist()) | {"masks": one["masks"]}
        for one in truth
    ]
    for one in truth:
        one["area"] = one["masks"].sum((1, 2)).float()
    _, values = ours(found, truth, 4, masks=True)
    assert values.pop("mar_1") < 1  # a class has several objects in an image
    assert values.pop("mask_mar_1") < 1
    measured = [value for value in values.values() if value != -1]
    assert measured == pytest.approx([1] * len(measured))


def test_a_box_at_iou_two_thirds_passes_four_of_ten_thresholds():
    _, values = ours([found_of([[20, 0, 120, 100]])], [truth_of([[0, 0, 100, 100]])], 1)
    assert values["map"] == pytest.approx(0.4)
    assert (values["map_50"], values["map_75"]) == (pytest.approx(1), 0)
    assert (values["map_large"], values["map_small"]) == (pytest.approx(0.4), -1)


KINDS = {
    "plain": {},
    "one class": {"classes": 1},
    "crowds": {"crowds": 0.3},
    "empty images": {"empty": 0.4},
    "ties": {"ties": True, "images": 20},
    "absent classes": {"classes": 8, "absent": 5},
    "all": {"classes": 6, "crowds": 0.3, "empty": 0.3, "ties": True, "absent": 2, "images": 30},
    "nothing found": {"images": 0},
}


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_boxes_and_masks_equal_pycocotools(kind, seed):
    found, truth = random_sets(seed, **KINDS[kind])
    if kind == "nothing found":
        _, truth = random_sets(seed)
        found = [found_of([]) | {"masks": torch.zeros(0, *SIZE, dtype=torch.bool)} for _ in truth]
    classes = KINDS[kind].get("classes", 4)
    metric, values = ours(found, truth, classes, masks=True)
    for prefix, shape in (("", "bbox"), ("mask_", "segm")):
        evaluation = pycocotools(found, truth, classes, shape)
        expected = dict(zip(STATS, evaluation.stats, strict=True)) | class_means(evaluation)
        measured = {name for name in values if name.startswith(f"{prefix}map") and "/" in name}
        assert measured == {prefix + name for name in expected if "/" in name}
        for name, value in expected.items():
            assert values[prefix + name] == pytest.approx(value, abs=1e-6), name
        if not prefix:
            curves = evaluation.eval["precision"][[0, 5], :, :, 0, -1]
            assert metric.curves.numpy() == pytest.approx(curves, abs=1e-6)


def test_masks_are_encoded_as_by_pycocotools():
    random = torch.Generator().manual_seed(0)
    masks = [torch.rand(40, 30, generator=random) < share for share in (0, 0.05, 0.5, 0.95, 1.1)]
    masks += [torch.zeros(40, 30, dtype=torch.bool) for _ in range(3)]
    masks[5][:, 3:6] = True  # whole columns: one run
    masks[6][0, 0] = masks[7][-1, -1] = True
    assert encode(torch.stack(masks)) == [rle["counts"] for rle in rles_of(masks)]
    assert encode(torch.stack(masks).byte()[:, :1]) == [
        rle["counts"] for rle in rles_of([mask[:1] for mask in masks])
    ]
    assert encode(torch.zeros(0, 40, 30)) == []


def test_numbers_of_objects_are_encoded_as_their_masks():
    random = np.random.default_rng(0)
    for shape, count in (((40, 30), 5), ((1, 50), 9), ((17, 1), 2), ((30, 30), 300)):
        numbers = random.integers(0, count + 1, shape)
        _, numbers = np.unique(numbers, return_inverse=True)
        numbers = torch.tensor(numbers.reshape(shape))
        masks = torch.stack([numbers == k for k in range(1, int(numbers.max()) + 1)])
        assert encode(numbers) == encode(masks)
    full = torch.ones(6, 7, dtype=torch.int32)
    assert encode(full) == encode(full[None] > 0)
    assert encode(torch.zeros(40, 30, dtype=torch.int64)) == []


def test_numbers_of_objects_are_measured_as_their_masks():
    corners = torch.tensor([[0, 0], [0, 40], [30, 10], [60, 60]])
    truth, found = torch.zeros(2, *SIZE, dtype=torch.int64)
    for number, (y, x) in enumerate(corners.tolist(), start=1):
        truth[y : y + 20, x : x + 20] = number
        found[y : y + 20, x + number : x + 20] = number
    boxes = torch.cat([corners.flip(1), corners.flip(1) + 20], 1).float()
    values = []
    for there, one in ((truth, found), [torch.stack([n == k for k in range(1, 5)])
                                        for n in (truth, found)]):  # fmt: skip
        _, measured = ours(
            [found_of(boxes.tolist()) | {"masks": one}],
            [truth_of(boxes.tolist()) | {"masks": there}], 1, masks=True,
        )  # fmt: skip
        values.append(measured)
    assert values[0] == values[1]
    assert 0.8 < values[0]["mask_map"] < 0.95


def test_the_area_is_that_of_the_annotation():
    there = truth_of([[0, 0, 100, 100]]) | {"area": torch.tensor([32.0**2 - 1])}
    _, values = ours([found_of([[0, 0, 100, 100]])], [there], 1)
    assert (values["map_small"], values["map_large"]) == (pytest.approx(1), -1)


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric CocoMetrics was called before")
@pytest.mark.parametrize("updates", [0, 1])
def test_nothing_at_all_is_minus_one(updates):
    metric = CocoMetrics(names(2), masks=True)
    none = torch.zeros(0, *SIZE, dtype=torch.bool)
    if updates:
        metric.update([found_of([]) | {"masks": none}], [truth_of([]) | {"masks": none}])
    values = metric.compute()
    matching = values.pop("matching_50"), values.pop("mask_matching_50")
    assert matching == ((1, 1) if updates else (-1, -1))
    assert set(values.values()) == {-1}
    assert {*STATS, *(f"mask_{name}" for name in STATS)} <= set(values)
    assert metric.confusion.sum() == 0


def test_after_a_reset_only_later_images_count():
    metric = CocoMetrics(names(1))
    metric.update([found_of([[0, 0, 5, 5]])], [truth_of([[50, 50, 90, 90]])])
    assert metric.compute()["map"] == 0
    metric.reset()
    assert metric.confusion is None
    metric.update([found_of([[0, 0, 5, 5]])], [truth_of([[0, 0, 5, 5]])])
    assert metric.compute()["map"] == pytest.approx(1)


def test_cells_of_bccd_equal_pycocotools(shared_data):
    random = np.random.default_rng(0)
    told = json.loads((shared_data / "bccd/coco/instances_val.json").read_text())
    number = {each["id"]: k for k, each in enumerate(told["categories"])}
    found, truth, results = [], [], []
    for image in told["images"]:
        rows = [row for row in told["annotations"] if row["image_id"] == image["id"]]
        boxes = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = [number[row["category_id"]] for row in rows]
        there = truth_of(boxes, labels, [row["iscrowd"] for row in rows])
        truth.append(there | {"area": torch.tensor([float(row["area"]) for row in rows])})
        moved = boxes.repeat(2, 0) * random.normal(1, 0.03, (2 * len(boxes), 4))
        one = found_of(moved, np.repeat(labels, 2), random.random(len(moved)).astype(np.float32))
        found.append(one)
        values = zip(columns_of(one["boxes"]), np.repeat(rows, 2), one["scores"], strict=True)
        results += [
            {"image_id": image["id"], "bbox": box, "score": float(score)}
            | {"category_id": row["category_id"]}
            for box, row, score in values
        ]
    for row in told["annotations"]:
        row["id"] += 1  # pycocotools takes an object of id 0 for none
    with contextlib.redirect_stdout(io.StringIO()):
        there = COCO()
        there.dataset = told
        there.createIndex()
        evaluation = COCOeval(there, there.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    _, values = ours(found, truth, len(number))
    assert 0.2 < values["map"] < 0.9
    for name, value in zip(STATS, evaluation.stats, strict=True):
        assert values[name] == pytest.approx(value, abs=1e-6), name


def test_hundreds_of_objects_in_an_image():
    """150 squares in a row, each found: with 100 detections two thirds of them can be."""
    boxes = [[20.0 * n, 0, 20.0 * n + 10, 10] for n in range(150)]
    found, truth = [found_of(boxes, scores=np.linspace(1, 0.5, 150))], [truth_of(boxes)]
    _, values = ours(found, truth, 1)
    assert values["mar_100"] == pytest.approx(2 / 3)
    assert values["map"] == pytest.approx(67 / 101)  # recalls 0, 0.01, ..., 0.66
    _, values = ours(found, truth, 1, max_detections=500)
    assert "mar_100" not in values
    assert (values["map"], values["mar_500"]) == (pytest.approx(1), pytest.approx(1))
    assert values["mar_10"] == pytest.approx(10 / 150)


@pytest.mark.parametrize("most", [20, 500])
def test_other_numbers_of_detections_equal_pycocotools(most):
    found, truth = random_sets(3, classes=1, images=15)
    found = [{key: torch.cat([value] * 9) for key, value in one.items()} for one in found]
    evaluation = pycocotools(found, truth, 1, most=most)
    _, values = ours(found, truth, 1, max_detections=most)
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    for a, area in enumerate(["", "_small", "_medium", "_large"]):
        assert values[f"map{area}"] == pytest.approx(precision[..., a, -1].mean(), abs=1e-6)
    for m, name in enumerate(["mar_1", "mar_10", f"mar_{most}"]):
        assert values[name] == pytest.approx(recall[:, :, 0, m].mean(), abs=1e-6)


def test_few_detections_are_the_last_of_the_recalls():
    _, values = ours([found_of([[0, 0, 9, 9]])], [truth_of([[0, 0, 9, 9]])], 1, max_detections=3)
    assert [name for name in values if name.startswith("mar_")][:2] == ["mar_1", "mar_3"]
    assert "mar_10" not in values


SCRIPT = """
import sys
import torch
from torch import distributed
from lit_imgproc.data.order import EvalBatches
from lit_imgproc.models.coco_metrics import CocoMetrics
from lit_imgproc.models.rle import encode
from lit_imgproc.worker import leave
distributed.init_process_group("gloo")
rank, folder = distributed.get_rank(), sys.argv[1]
answers = {}
for name, (found, truth, classes, alone) in torch.load(f"{folder}/sets.pt").items():
    metric = CocoMetrics(classes, masks=True)
    if alone:
        if rank == 0:
            metric.update(found, truth)
    else:
        for batch in EvalBatches(len(truth), 3, rank, 2):
            metric.update([found[n] for n in batch], [truth[n] for n in batch])
    answers[name] = metric.compute(), metric.curves, metric.confusion
torch.save(answers, f"{folder}/answers-{rank}.pt")
leave(0)
"""


def test_two_ranks_equal_one_process(tmp_path):
    ties = random_sets(1, images=23, ties=True, crowds=0.2, empty=0.3)
    found, truth = random_sets(2, images=8, ties=True)
    none = torch.zeros(0, *SIZE, dtype=torch.bool)
    for n in range(1, 8, 2):  # of rank 1
        found[n], truth[n] = found_of([]) | {"masks": none}, truth_of([]) | {"masks": none}
    nothing = found[1::2], truth[1::2]
    sets = {
        "ties": (*ties, names(4), False),
        "objects on one rank": (found, truth, names(4), False),
        "images on one rank": (*random_sets(3), names(4), True),
        "no objects": (*nothing, names(4), False),
    }
    torch.save(sets, tmp_path / "sets.pt")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([sys.executable, *torchrun, str(script), str(tmp_path)], check=True)
    answers = [torch.load(tmp_path / f"answers-{rank}.pt") for rank in (0, 1)]
    for name, (found, truth, classes, _) in sets.items():
        metric, values = ours(found, truth, len(classes), masks=True)
        for answer in answers:
            assert answer[name][0] == values, name
            assert torch.equal(answer[name][1], metric.curves)
            assert torch.equal(answer[name][2], metric.confusion)
