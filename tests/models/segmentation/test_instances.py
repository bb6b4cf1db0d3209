"""Objects in maps of probabilities: closed forms first, then real nuclei."""

import csv
import math

import cv2
import numpy as np
import pytest
from scipy import ndimage
from skimage.morphology import local_maxima, reconstruction

from lit_imgproc.models.segmentation.instances import (
    best_first,
    boxes_of,
    instance_scores,
    large,
    regrown,
    split_instances,
)


def discs(*given, size=(80, 120)):
    """1 in discs ``(x, y, radius)``, 0 elsewhere."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    inside = np.zeros(size, bool)
    for x, y, radius in given:
        inside |= (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
    return inside.astype(np.float32)


def assert_numbered(instances, count):
    """From 1 without gaps, each in one piece."""
    assert instances.dtype == np.int32
    assert np.unique(instances[instances > 0]).tolist() == list(range(1, count + 1))
    for number in range(1, count + 1):
        assert ndimage.label(instances == number)[1] == 1


# One and many ------------------------------------------------------------------------------------


@pytest.mark.parametrize("radius", [3, 8, 30])
def test_one_disc_is_one_object_and_all_of_it(radius):
    disc = discs((60, 40, radius))
    found = split_instances(disc)
    assert_numbered(found, 1)
    assert np.array_equal(found, disc)


@pytest.mark.parametrize(("radius", "other"), [(12, 12), (20, 6), (5, 5), (30, 9)])
def test_discs_that_touch_are_told_apart(radius, other):
    given = [(40, 40, radius), (40 + radius + other, 40, other)]
    found = split_instances(discs(*given))
    assert_numbered(found, 2)
    for x, y, size in given:
        alone = discs((x, y, size)) > 0
        own = found == found[y, x]
        assert (own & alone).sum() / (own | alone).sum() > 0.9


@pytest.mark.parametrize("neck", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("radius", [16, 24])
def test_a_neck_is_what_joins_two_discs_over_their_radius(neck, radius):
    """Circles whose centres are 2a apart meet at the height sqrt(r^2 - a^2)."""
    for joined, objects in ((neck - 0.1, 2), (neck + 0.1, 1)):
        half = radius * math.sqrt(1 - joined**2)
        pair = discs((60 - half, 50, radius), (60 + half, 50, radius), size=(100, 120))
        assert split_instances(pair, neck=neck).max() == objects


def test_parts_are_put_together_whatever_stands_beside_them():
    """The first two are one, with a wide neck; the third is another, behind a narrow one."""
    row = discs((30, 40, 14), (42, 40, 14), (67, 40, 12))
    found = split_instances(row)
    assert_numbered(found, 2)
    assert found[40, 30] == found[40, 42] != found[40, 67]


def test_extremes_of_neck():
    pair = discs((40, 40, 12), (63, 40, 12))
    assert split_instances(pair, neck=0.0).max() == 1
    assert split_instances(pair, neck=1.0).max() >= 2


def test_a_small_object_beside_a_large_one_is_found():
    found = split_instances(discs((40, 40, 25), (70, 40, 3)))
    assert_numbered(found, 2)
    assert found[40, 40] != found[40, 70] > 0


@pytest.mark.parametrize(("outer", "inner"), [(20, 12), (20, 17), (8, 4)])
def test_a_ring_is_one_object(outer, inner):
    ring = discs((60, 40, outer)) - discs((60, 40, inner))
    found = split_instances(ring)
    assert_numbered(found, 1)
    assert np.array_equal(found, ring)


def test_a_long_object_with_a_rough_outline_is_one():
    random = np.random.default_rng(0)
    bar = np.zeros((40, 120), np.float32)
    for column in range(10, 110):
        top, bottom = random.integers(-1, 2, 2)
        bar[14 + top : 26 + bottom, column] = 1
    assert split_instances(bar).max() == 1


def test_objects_that_meet_at_a_corner_are_two():
    corner = np.zeros((20, 20), np.float32)
    corner[2:10, 2:10] = corner[10:18, 10:18] = 1
    assert_numbered(split_instances(corner), 2)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 33)])
def test_nothing_and_everything(size):
    assert not split_instances(np.zeros(size, np.float32)).any()
    everything = split_instances(np.ones(size, np.float32), min_size=1)
    assert np.array_equal(everything, np.ones(size))
    assert everything.dtype == np.int32


def test_an_image_without_background_is_dropped_if_it_is_too_small():
    assert not split_instances(np.ones((3, 5), np.float32), min_size=16).any()


def test_all_but_a_pixel():
    probability = np.ones((40, 33), np.float32)
    probability[20, 16] = 0
    assert np.array_equal(split_instances(probability, neck=0.5), probability)


def test_specks_are_dropped_and_numbers_have_no_gaps():
    probability = discs((20, 20, 8), (60, 20, 8), (100, 60, 8))
    probability[0, 0], probability[70, 5:20], probability[40, 40:56] = 1, 1, 1
    found = split_instances(probability)
    assert_numbered(found, 4)
    assert found[0, 0] == found[70, 10] == 0 < found[40, 50]
    assert_numbered(split_instances(probability, min_size=17), 3)
    assert_numbered(split_instances(probability, min_size=1), 6)
    assert not split_instances(probability, min_size=1000).any()


def test_the_threshold_is_what_the_foreground_is_above():
    probability = discs((30, 40, 10)) * 0.5 + discs((80, 40, 10)) * 0.8
    assert split_instances(probability).max() == 1
    assert split_instances(probability, threshold=0.49).max() == 2
    assert split_instances(probability, threshold=0.9).max() == 0


def test_where_summits_are_equally_high_they_are_those_of_h_maxima():
    """A ratio is a difference then: scikit-image's reconstruction is the reference."""
    random = np.random.default_rng(3)
    counts = []
    for _ in range(10):
        x = 15 + np.cumsum([0, *random.choice([13, 14, 15, 20, 21, 22], 4)])
        row = discs(*((one, 25, 12) for one in x), size=(50, 130))
        depth = cv2.distanceTransform(row.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        lower = np.maximum(depth - 0.3 * depth.max(), 0)
        summits = local_maxima(reconstruction(lower, depth)) & (row > 0)
        counts.append(ndimage.label(summits, np.ones((3, 3)))[1])
        assert split_instances(row, neck=0.7).max() == counts[-1]
    assert min(counts) < max(counts)


# Borders that were taken away --------------------------------------------------------------------


def test_touching_objects_get_their_border_back_and_no_other():
    truth = np.zeros((30, 50), np.int32)
    truth[5:15, 5:20], truth[5:15, 20:40] = 1, 2
    taught = truth.copy()
    taught[:, 19:21] = 0
    assert np.array_equal(regrown(taught), truth)
    assert np.array_equal(split_instances((taught > 0).astype(np.float32)), truth)
    taught[:, 21] = 0  # three pixels apart: they do not touch
    assert np.array_equal(regrown(taught), taught)


def test_a_gap_of_one_pixel_is_closed():
    apart = np.array([[1, 1, 0, 2, 2], [1, 1, 0, 2, 2]], np.int32)
    assert regrown(apart).tolist() == [[1, 1, 2, 2, 2]] * 2


def test_objects_alone_do_not_grow():
    alone = discs((40, 40, 10)).astype(np.int32)
    assert np.array_equal(regrown(alone), alone)
    assert not regrown(np.zeros((9, 9), np.int32)).any()


# Scores, order, boxes ----------------------------------------------------------------------------


def test_scores_are_means_and_the_best_is_the_first():
    probability = np.array([[0.6, 0.8, 0.1], [0.95, 0.95, 0.1], [0.1, 0.51, 0.1]], np.float32)
    instances = np.array([[1, 1, 0], [2, 2, 0], [0, 3, 0]], np.int32)
    scores = instance_scores(probability, instances)
    assert scores.dtype == np.float32
    assert scores == pytest.approx([0.7, 0.95, 0.51])
    ranked, sure = best_first(probability, instances)
    assert ranked.tolist() == [[2, 2, 0], [1, 1, 0], [0, 3, 0]]
    assert sure == pytest.approx([0.95, 0.7, 0.51])


def test_no_objects_have_no_scores_and_no_boxes():
    nothing = np.zeros((4, 5), np.int32)
    ranked, sure = best_first(np.full((4, 5), 0.3, np.float32), nothing)
    assert np.array_equal(ranked, nothing)
    assert sure.shape == (0,)
    assert boxes_of(nothing).shape == (0, 4)


def test_boxes_are_around_all_pixels():
    instances = np.zeros((10, 12), np.int32)
    instances[2:5, 3:9], instances[9, 11] = 2, 1
    assert boxes_of(instances).tolist() == [[11, 9, 12, 10], [3, 2, 9, 5]]
    assert large(instances, 2).max() == 1


# Real nuclei -------------------------------------------------------------------------------------


def matching(found, truth):
    """TP / (TP + FP + FN) at IoU 0.5, by the pixels that two label images have in common."""
    _, truth = np.unique(truth, return_inverse=True)
    pairs = np.zeros((found.max() + 1, truth.max() + 1))
    np.add.at(pairs, (found.ravel(), truth.ravel()), 1)
    union = pairs.sum(1)[1:, None] + pairs.sum(0)[1:] - pairs[1:, 1:]
    hits = (pairs[1:, 1:] / union > 0.5).sum()
    return hits / (sum(union.shape) - hits)


def taught(truth):
    """What a network is taught: no foreground where a neighbour is of another nucleus."""
    square = np.ones((3, 3), bool)
    highest = ndimage.maximum_filter(truth, footprint=square)
    lowest = ndimage.minimum_filter(np.where(truth > 0, truth, 2**15), footprint=square)
    meets = (truth > 0) & ((highest != truth) | (lowest != truth))
    return ((truth > 0) & ~meets).astype(np.float32)


def together(truth):
    """Nothing between them."""
    return (truth > 0).astype(np.float32)


@pytest.mark.parametrize(("seen", "least"), [(taught, 0.97), (together, 0.86)])
def test_nuclei_are_told_apart_where_the_probabilities_are_right(shared_data, seen, least):
    """The test images of 256 pixels with 20 nuclei and more. Pieces as they lie: 0.99, 0.82."""
    folder = shared_data / "nuclei"
    with (folder / "index.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    names = [
        r["id"] for r in rows if r["width"] == r["height"] == "256" and int(r["n_nuclei"]) > 19
    ]
    assert len(names) > 10
    scores = []
    for name in names:
        truth = cv2.imread(str(folder / "labels" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        truth = truth.astype(np.int32)
        scores.append(matching(split_instances(seen(truth)), truth))
    assert np.mean(scores) > least
