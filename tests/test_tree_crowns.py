"""The scoring of `benchmarks/tree_crowns.py`, whose figures are told."""

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

PATH = Path(__file__).resolve().parent.parent / "benchmarks" / "tree_crowns.py"
SPEC = importlib.util.spec_from_file_location("tree_crowns", PATH)
tree_crowns = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tree_crowns)


def test_the_overlap_is_torchvisions():
    generator = np.random.default_rng(0)
    low, extent = generator.uniform(0, 50, (2, 20, 2)), generator.uniform(1, 40, (2, 20, 2))
    boxes, others = np.concatenate([low, low + extent], 2)
    expected = box_iou(torch.from_numpy(boxes), torch.from_numpy(others))
    np.testing.assert_allclose(tree_crowns.ious(boxes, others), expected)


def test_boxes_and_crowns_meet_one_to_one():
    crowns = np.array([[0, 0, 10, 10], [0, 0, 10, 6.0]])
    assert tree_crowns.matches(crowns, crowns[:1]) == 1
    assert tree_crowns.matches(crowns, np.tile(crowns[:1], (5, 1))) == 2
    # Greedily the first box would take the first crown, and leave the second one without.
    assert tree_crowns.matches(crowns, np.array([[0, 0, 10, 9.0], [0, 0, 10, 16.0]])) == 2
    assert tree_crowns.matches(crowns[:1], np.array([[0, 0, 10, 4.0]])) == 1
    assert tree_crowns.matches(crowns[:1], np.array([[0, 0, 10, 3.9]])) == 0
    assert tree_crowns.matches(crowns, np.zeros((0, 4))) == 0


@pytest.mark.parametrize("count", [0, 1, 2, 7, 60, 101])
def test_the_grid_has_as_many_boxes_as_were_asked_for(count):
    boxes = tree_crowns.centre_grid(count, 300, 500, (20, 30))
    assert boxes.shape == (count, 4)
    np.testing.assert_allclose(boxes[:, 2:] - boxes[:, :2], np.tile([30, 20], (count, 1)))
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert ((centres > 0) & (centres < [500, 300])).all()
    assert len(np.unique(centres, axis=0)) == count


def test_the_grid_has_its_closed_form():
    boxes = tree_crowns.centre_grid(6, 200, 300, (10, 20))
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    expected = [[50, 50], [150, 50], [250, 50], [50, 150], [150, 150], [250, 150]]
    np.testing.assert_allclose(centres, expected)


def test_a_run_that_knows_all_crowns_is_told_as_such(shared_data, monkeypatch, capsys):
    from lit_imgproc.data.satellite.detection import RasterBoxes

    splits = {"train": ["2019*", "2018*"], "val": ["SOAP*"], "test": ["OSBS*"]}
    data = RasterBoxes(
        root=str(shared_data / "neon_trees"), images=".", annotations=".", class_names=["tree"],
        tile_size=400, splits=splits, num_workers=0,
    )  # fmt: skip
    (truth,) = [source for source in data.dataset("test").sources if "OSBS" in source.name]

    def predict(path):
        assert path == truth.raster.path
        boxes = truth.target.boxes.tolist()
        scores = [0.9] * (len(boxes) - 10) + [0.4] * 10
        return [{"boxes": boxes, "scores": scores, "size": [400, 400]}]

    run = SimpleNamespace(id="ab", datamodule=data, predict=predict)
    monkeypatch.setattr(tree_crowns, "load_run", lambda _: run)
    monkeypatch.setattr(sys, "argv", ["tree_crowns.py", "ab", "--json"])
    tree_crowns.main()
    out = capsys.readouterr().out
    assert tree_crowns.CAVEAT in out
    low, middle, _ = json.loads(out.splitlines()[-1])["scores"]
    crowns = len(truth.target.boxes)
    assert low["run"] == {"recall": 1, "precision": 1}
    assert middle["run"]["recall"] == pytest.approx((crowns - 10) / crowns)
    assert 0 < low["grid"]["recall"] < 0.6
