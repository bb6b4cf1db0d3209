"""The F1 of boundaries: closed forms of squares, and distance transforms as the reference."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from lit_imgproc.models.segmentation.boundary import boundary_counts, boundary_f1
from lit_imgproc.models.segmentation.metrics import SegmentationMetrics

SIDE = 20
FRAME = 4 * SIDE - 4  # the pixels on the boundary of a square


def square(left, top=10, size=(48, 64)):
    mask = torch.zeros(1, *size, dtype=torch.int64)
    mask[0, top : top + SIDE, left : left + SIDE] = 1
    return mask


def f1_of(prediction, mask, tolerance, classes=2):
    return boundary_f1(boundary_counts(prediction, mask, classes, tolerance))


def edges(labels, k):
    """Pixels of a class with another class, that is known, above, below or beside."""
    other = ndimage.binary_dilation((labels != k) & (labels != 255))
    return (labels == k) & other


def distance(places):
    return ndimage.distance_transform_edt(~places) if places.any() else np.full(places.shape, 1e9)


def reference(prediction, mask, classes, tolerance):
    counts = np.zeros((4, classes), int)
    for found, there in zip(prediction.numpy(), mask.numpy(), strict=True):
        judged = distance(there == 255) > tolerance + 1
        for k in range(classes):
            of_found, of_there = edges(found, k), edges(there, k)
            near_there, near_found = (distance(e) <= tolerance for e in (of_there, of_found))
            of_judged = of_found & judged
            counts[:, k] += [
                of_judged.sum(), (of_judged & near_there).sum(),
                of_there.sum(), (of_there & near_found).sum(),
            ]  # fmt: skip
    return counts


def blobs(random, classes, size, smooth):
    """Regions of the classes, larger ones with a larger ``smooth``."""
    noise = random.normal(size=(size[0], classes, *size[1:]))
    return torch.from_numpy(ndimage.gaussian_filter(noise, (0, 0, smooth, smooth)).argmax(1))


@pytest.mark.parametrize("shift", [0, 1, 3])
def test_a_shift_within_the_tolerance_is_forgiven(shift):
    f1, measured = f1_of(square(10 + shift), square(10), 3)
    assert measured.all()
    assert f1.tolist() == [1, 1]


@pytest.mark.parametrize("shift", [1, 2, 5])
def test_without_tolerance_only_equal_pixels_match(shift):
    """Two frames, one shifted along a side, share what is left of two of their sides."""
    counts = boundary_counts(square(10 + shift), square(10), 2, 0)
    assert counts[:, 1].tolist() == [FRAME, 2 * (SIDE - shift)] * 2
    assert boundary_f1(counts)[0][1] == pytest.approx(2 * (SIDE - shift) / FRAME)
    # Around a square there is a row more on each side, and no corners.
    assert counts[:, 0].tolist() == [4 * SIDE, 2 * (SIDE - shift)] * 2


def test_the_tolerance_is_a_disc():
    """A shift of 3 right and 4 down is 5 at the corners, and as the corner is, so is the F1."""
    point, moved = torch.zeros(2, 1, 20, 20, dtype=torch.int64)
    point[0, 5, 5] = moved[0, 9, 8] = 1
    assert f1_of(moved, point, 5)[0][1] == 1
    assert f1_of(moved, point, 4)[0][1] == 0


def test_the_edge_of_the_image_is_no_boundary():
    half = torch.zeros(1, 6, 8, dtype=torch.int64)
    half[:, :, 4:] = 1
    assert boundary_counts(half, half, 3, 1).tolist() == [[6, 6, 0]] * 4
    f1, measured = f1_of(half, half, 1, classes=3)
    assert (f1.tolist(), measured.tolist()) == ([1, 1, 0], [True, True, False])


def test_a_match_is_not_in_the_next_row_or_image():
    """Places at opposite ends of neighbouring rows are neighbours in memory."""
    found, there = torch.zeros(2, 2, 6, 6, dtype=torch.int64)
    found[0, 2, 5] = there[0, 3, 0] = 1
    found[0, 5, 5] = there[1, 0, 0] = 1
    counts = boundary_counts(found, there, 2, 2)
    assert counts[:, 1].tolist() == [2, 0, 2, 0]


def test_pixels_of_the_set_are_counted_not_images():
    """A large square that is found and a small one that is missed: not the mean of 1 and 0."""
    small = torch.zeros(1, 48, 64, dtype=torch.int64)
    small[0, 4:6, 4:6] = 1
    metric = SegmentationMetrics(["ground", "square"], boundary_tolerance=2)
    metric.update(square(10), square(10))
    metric.update(torch.zeros_like(small), small)
    recall = FRAME / (FRAME + 4)
    values = metric.compute()
    assert values["boundary_f1/square"] == pytest.approx(2 * recall / (1 + recall))
    mean = (values["boundary_f1/square"] + values["boundary_f1/ground"]) / 2
    assert values["boundary_f1"] == pytest.approx(mean)


def test_ignored_pixels_make_no_boundary():
    mask = square(10)
    mask[mask == 0] = 255  # nothing but the inside is known
    counts = boundary_counts(square(10), mask, 2, 2)
    assert counts[2:].sum() == 0  # where the square ends, nothing is known
    assert counts[:2].sum() == 0  # and nothing is held against a prediction there
    inside = square(10)
    inside[0, 18:22, 18:22] = 0  # far from all that is ignored
    counts = boundary_counts(inside, mask, 2, 2)
    assert counts[:, 1].tolist() == [16, 0, 0, 0]


@pytest.mark.parametrize("tolerance", [0, 1, 2, 5])
@pytest.mark.parametrize("classes", [1, 2, 6])
@pytest.mark.parametrize("ignored", [False, True])
def test_counts_equal_distance_transforms(classes, tolerance, ignored):
    random = np.random.default_rng(classes)
    mask = blobs(random, classes, (3, 40, 56), 3)
    moved = mask.roll((2, 1), (1, 2))
    noise = blobs(random, classes, (3, 40, 56), 1)
    prediction = torch.where(torch.from_numpy(random.random((3, 40, 56)) < 0.05), noise, moved)
    if ignored:
        mask[blobs(random, 4, (3, 40, 56), 2) == 0] = 255
        mask[2, :5] = 255
    counts = boundary_counts(prediction, mask, classes, tolerance)
    assert counts.tolist() == reference(prediction, mask, classes, tolerance).tolist()
    if classes > 1:
        assert (counts > 0).all() or tolerance == 0 or (ignored and tolerance == 5)


def test_nothing_is_measured_without_boundaries():
    f1, measured = boundary_f1(torch.zeros(4, 3, dtype=torch.int64))
    assert not measured.any()
    assert f1.tolist() == [0, 0, 0]
    one = torch.ones(1, 1, 1, dtype=torch.int64)
    assert boundary_counts(one, one, 2, 3).sum() == 0
