"""Anchors fitted to boxes, against torchvision's own anchors and clusters that are known."""

import numpy as np
import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from lit_imgproc.data.anchors import Anchors, Boxes, coverage, fit, training_boxes
from lit_imgproc.data.coco.coco_json import CocoData
from lit_imgproc.data.errors import DataError
from lit_imgproc.data.imagenet.datamodule import ImageFolder

STRIDES = [4, 8, 16, 32, 64]


def silent(values, what, total):
    return values


def boxes_of(sizes, count=400, ratio=1.0, on=1, seed=0):
    """Boxes of some sizes, as many of each and each a class, with their centres on a lattice."""
    generator = np.random.default_rng(seed)
    side = np.repeat(np.asarray(sizes, np.float64), count)
    centres = generator.integers(256 // on, 768 // on, (len(side), 2)) * on
    half = np.stack([side / np.sqrt(ratio), side * np.sqrt(ratio)], 1) / 2
    labels = np.repeat(np.arange(len(sizes)), count)
    return Boxes(np.concatenate([centres - half, centres + half], 1), labels)


def test_coverage_is_that_of_torchvisions_anchors():
    generator = np.random.default_rng(1)
    low, extent = generator.uniform(40, 150, (60, 2)), generator.uniform(5, 90, (60, 2))
    edges = np.concatenate([low, low + extent], 1)
    sizes, ratios = [9.0, 30.0, 71.0], [0.4, 1.0, 1.7]
    anchors = AnchorGenerator(tuple((size,) for size in sizes), (tuple(ratios),) * 3)
    image = torch.zeros(1, 3, 256, 256)
    levels = [torch.zeros(1, 1, 256 // stride, 256 // stride) for stride in (4, 8, 16)]
    (grid,) = anchors(ImageList(image, [(256, 256)]), levels)
    best = box_iou(torch.from_numpy(edges), grid.double()).amax(1).numpy()

    one_class = Boxes(edges, np.zeros(60, np.int64))
    found = coverage(one_class, Anchors(sizes, ratios, [4, 8, 16]))
    expected = best.mean(), (best >= 0.5).mean(), (best >= 0.7).mean()
    assert (found.mean_iou, found.recall_50, found.recall_70) == pytest.approx(expected, abs=1e-6)


def test_the_usual_anchors_are_torchvisions_defaults():
    from torchvision.models.detection.faster_rcnn import _default_anchorgen

    expected = _default_anchorgen()
    usual = Anchors.usual(STRIDES)
    assert expected.sizes == tuple((size,) for size in usual.sizes)
    assert expected.aspect_ratios == (tuple(usual.ratios),) * 5


def test_a_box_half_a_stride_off_has_the_overlap_of_the_closed_form():
    """Of side s and shifted by d along both axes: (s - d)^2 / (2 s^2 - (s - d)^2)."""
    box = Boxes(np.array([[8.0, 8.0, 40.0, 40.0]]), np.zeros(1, np.int64))  # its centre is 24, 24
    for stride, shift in ((8, 0), (16, 8)):
        shared = (32 - shift) ** 2
        found = coverage(box, Anchors([32.0], [1.0], [stride])).mean_iou
        assert found == pytest.approx(shared / (2 * 32**2 - shared))


def test_known_clusters_are_found_exactly_where_the_grid_meets_them():
    found = fit(boxes_of([24, 64, 200], on=64), [4, 8, 16])
    assert found.anchors.sizes == pytest.approx([24, 64, 200], abs=1)  # rounded by torchvision
    assert found.anchors.ratios == [1.0]
    assert found.fitted.mean_iou == pytest.approx(1)
    assert found.fitted.recall_70 == pytest.approx(1)
    assert found.needed == [4, 8, 16]


def test_known_clusters_are_found_anywhere():
    found = fit(boxes_of([24, 64, 200]), [4, 8, 16])
    assert found.anchors.sizes == pytest.approx([24, 64, 200], rel=0.06)
    assert found.anchors.ratios == [1.0]


@pytest.mark.parametrize("ratio", [0.5, 2.0])
def test_the_ratio_is_height_by_width(ratio):
    found = fit(boxes_of([64], ratio=ratio, on=8), [8])
    assert found.anchors.ratios == pytest.approx([ratio], abs=0.05)
    width, height = found.anchors.sizes[0] / ratio**0.5, found.anchors.sizes[0] * ratio**0.5
    assert (width, height) == pytest.approx((64 / ratio**0.5, 64 * ratio**0.5), rel=0.05)


def test_objects_of_one_size_need_one_level_and_the_others_go_on_by_twos():
    found = fit(boxes_of([48], on=32), STRIDES)
    assert found.needed == [4]
    assert found.anchors.sizes == [48, 96, 192, 384, 768]
    large = fit(boxes_of([400], on=32), STRIDES)
    assert large.needed == [32]  # 16 has anchors of 256 pixels at most
    assert large.anchors.sizes == [50, 100, 200, 400, 800]


@pytest.mark.parametrize(
    "box", [[10.0, 10, 10.2, 10.3], [0, 100, 9000, 101], [0, 0, 1, 9000], [0, 0, 9000, 9000]]
)
def test_boxes_that_no_anchor_meets_still_give_anchors(box):
    found = fit(Boxes(np.array([box]), np.zeros(1, np.int64)), [4, 8])
    assert len(found.anchors.sizes) == 2
    assert min(*found.anchors.sizes, *found.anchors.ratios) > 0
    AnchorGenerator(tuple((size,) for size in found.anchors.sizes), (found.anchors.ratios,) * 2)


def test_a_rare_class_is_not_given_up():
    common, rare = boxes_of([64], 1000), boxes_of([16], 10)
    both = Boxes(
        np.concatenate([common.edges, rare.edges]), np.concatenate([common.labels, rare.labels + 1])
    )
    found = fit(both, [8, 16])
    assert found.anchors.sizes[0] < 24
    weights = both.weights
    assert weights[:1000].sum() == pytest.approx(0.5)
    assert weights.sum() == pytest.approx(1)


def test_the_fit_is_no_worse_than_random_searches():
    generator = np.random.default_rng(2)
    mixed = boxes_of(generator.lognormal(3.5, 0.5, 300), 1)
    mixed = Boxes(mixed.edges, np.zeros(300, np.int64))
    found = fit(mixed, [4, 8, 16, 32])
    for _ in range(200):
        sizes = np.sort(generator.lognormal(3.5, 0.5, 4).clip(4, 64)).round().tolist()
        ratios = np.exp(generator.normal(0, 0.2, 3)).tolist()
        tried = coverage(mixed, Anchors(sizes, ratios, [4, 8, 16, 32]))
        assert tried.mean_iou <= found.fitted.mean_iou + 0.003
    assert found.usual.mean_iou < found.fitted.mean_iou


def toy(tmp_path, **settings):
    CocoData.write_toy(tmp_path / "coco")
    return CocoData(root=str(tmp_path / "coco"), num_workers=0, batch_size=4, **settings)


def test_boxes_are_scaled_as_training_sees_them(tmp_path):
    data = toy(tmp_path, image_size=64, resize="squash")
    small = training_boxes(data, silent)
    large = training_boxes(
        CocoData(root=str(data.root), num_workers=0, batch_size=4, image_size=128, resize="squash"),
        silent,
    )
    np.testing.assert_allclose(np.sort(large.sizes), 2 * np.sort(small.sizes), rtol=1e-5)
    source = data.dataset("train").source
    assert len(small.edges) == int((~source.iscrowd).sum())


def test_data_without_boxes_are_told(tmp_path):
    ImageFolder.write_toy(tmp_path / "shapes")
    data = ImageFolder(root=str(tmp_path / "shapes"), image_size=32, num_workers=0)
    with pytest.raises(DataError, match="ImageFolder: its samples have no boxes"):
        training_boxes(data, silent)


@pytest.mark.parametrize("strides", [STRIDES, [8, 16, 32, 64]])
def test_the_anchors_fitted_to_blood_cells_beat_the_defaults(shared_data, strides):
    data = CocoData(
        root=str(shared_data / "bccd"), annotations="coco/instances_{split}.json",
        images="JPEGImages", image_size=312, max_size=416, num_workers=0,
    )  # fmt: skip
    found = fit(training_boxes(data, silent), strides)
    assert found.boxes > 2500
    assert found.fitted.mean_iou > found.usual.mean_iou + 0.05
    assert found.fitted.recall_50 > found.usual.recall_50
    assert found.fitted.recall_70 > found.usual.recall_70 + 0.1
