import cv2
import numpy as np
import pytest

from lit_imgproc import selective_search as module
from lit_imgproc.errors import UserError
from lit_imgproc.selective_search import (
    Regions,
    colour_bins,
    describe,
    group,
    selective_search,
    similarity,
    texture_bins,
    without_twins,
)

SQUARES = [[20, 30, 60, 70], [90, 40, 140, 90]]


@pytest.fixture(scope="module")
def squares():
    image = np.full((120, 160, 3), (30, 60, 200), np.uint8)
    for (x0, y0, x1, y1), colour in zip(SQUARES, [(230, 40, 40), (40, 220, 60)], strict=True):
        image[y0:y1, x0:x1] = colour
    return image


@pytest.fixture(scope="module")
def photograph(shared_data):
    path = sorted((shared_data / "bccd/JPEGImages").glob("*.jpg"))[0]
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def overlap(box, boxes):
    """Intersection over union, pixel by pixel of a mask."""
    area = np.zeros((500, 700), bool)
    area[box[1] : box[3], box[0] : box[2]] = True
    result = []
    for x0, y0, x1, y1 in np.asarray(boxes, int):
        inside = area[y0:y1, x0:x1].sum()
        result.append(inside / (area.sum() + (x1 - x0) * (y1 - y0) - inside))
    return np.array(result)


@pytest.mark.parametrize(("mode", "blur"), [("fast", 1), ("single", 3)])
def test_the_boxes_of_two_flat_squares_are_found(squares, mode, blur):
    found = selective_search(squares, mode=mode, most=100)
    # At a blurred edge there may be a rim of a third colour, which goes to the one or the other.
    for box in SQUARES:
        assert np.abs(found - box).max(1).min() <= blur
    assert [0, 0, 160, 120] in found.tolist()
    assert len(found) < 20


def test_a_grey_image_is_searched_too(squares):
    grey = cv2.cvtColor(squares, cv2.COLOR_RGB2GRAY)
    found = selective_search(grey, most=100)
    assert np.array_equal(found, selective_search(grey[:, :, np.newaxis], most=100))
    assert np.array_equal(found, selective_search(np.stack([grey] * 3, 2), most=100))
    for box in SQUARES:
        assert np.abs(found - box).max(1).min() <= 1


def test_a_large_image_is_searched_smaller_and_its_boxes_are_in_its_own_pixels(squares):
    large = cv2.resize(squares, (960, 720), interpolation=cv2.INTER_NEAREST)
    found = selective_search(large, most=100)
    for box in SQUARES:
        assert np.abs(found - np.array(box) * 6).max(1).min() <= 3 * 3
    assert [0, 0, 960, 720] in found.tolist()


def test_boxes_lie_in_the_image_none_twice_and_are_always_the_same(photograph):
    found = selective_search(photograph, most=2000)
    assert found.dtype == np.float32
    assert found.shape[1] == 4
    assert len(found) > 300
    assert np.array_equal(found, found.round())
    assert (found[:, :2] >= 0).all()
    assert (found[:, 2:] <= [640, 480]).all()
    assert (found[:, 2:] - found[:, :2] >= module.LEAST_SIDE).all()
    assert len(np.unique(found, axis=0)) == len(found)
    assert np.array_equal(found, selective_search(photograph, most=2000))
    # Fewer are the first of more.
    assert np.array_equal(found[:50], selective_search(photograph, most=50))
    for number in (0, 10, 100):
        others = np.delete(found, number, 0)
        assert overlap(found[number].astype(int), others).max() <= module.TWINS


def test_most_blood_cells_are_among_300_boxes(shared_data, photograph):
    from lit_imgproc.data.coco.coco_json import CocoData

    data = CocoData(
        root=str(shared_data / "bccd"),
        annotations="coco/instances_{split}.json",
        images="JPEGImages",
        resize="none",
        num_workers=0,
    ).dataset("val")
    found = []
    for index in (0, 30, 60, 80):
        sample = data[index]
        boxes = selective_search(sample["image"].permute(1, 2, 0).numpy(), most=300)
        assert len(boxes) == 300
        found += [overlap(box, boxes).max() > 0.5 for box in sample["boxes"].int().tolist()]
    assert len(found) > 40
    assert np.mean(found) > 0.75


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 3), (12, 400), (2000, 3)])
def test_an_image_of_any_size_has_a_box(size):
    random = np.random.default_rng(0)
    for image in (
        np.full((*size, 3), 90, np.uint8),
        random.integers(0, 256, (*size, 3), np.uint8),
    ):
        found = selective_search(image, most=100)
        assert len(found) >= 1
        assert (found[:, :2] >= 0).all()
        assert (found[:, 2:] <= [size[1], size[0]]).all()
        assert (found[:, 2:] > found[:, :2]).all()
    flat = selective_search(np.zeros((*size, 3), np.uint8), most=100)
    assert flat.tolist() == [[0, 0, size[1], size[0]]]


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros(8, np.uint8),
    ],
)
def test_what_is_no_8_bit_image_is_refused_in_a_sentence(image):
    with pytest.raises(UserError, match="is of uint8 images"):
        selective_search(image, most=10)


def region(box, share, colours, textures):
    return Regions(*(np.array(value, float) for value in (box, share, colours, textures)))


def test_similarities_are_those_of_the_paper():
    one = region([0, 0, 4, 5], 0.2, [0.5, 0.5, 0.0], [1.0, 0.0])
    other = region([6, 0, 10, 5], 0.1, [0.25, 0.25, 0.5], [0.3, 0.7])
    assert similarity(one, other, "C", 100) == pytest.approx(0.25 + 0.25)
    assert similarity(one, other, "T", 100) == pytest.approx(0.3)
    assert similarity(one, other, "S", 100) == pytest.approx(1 - 0.2 - 0.1)
    assert similarity(one, other, "F", 100) == pytest.approx(1 - (10 * 5 / 100 - 0.2 - 0.1))
    assert similarity(one, other, "CTSF", 100) == pytest.approx(0.5 + 0.3 + 0.7 + 0.8)
    assert similarity(one, one, "CT", 100) == pytest.approx(2)


def test_regions_are_measured():
    labels = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 2, 2]])
    colours = np.zeros((3, 12), int)
    colours[0, :2] = 24
    textures = np.full((24, 12), 9)
    regions, pairs = describe(labels, colours, textures)
    assert regions.boxes.tolist() == [[0, 0, 2, 2], [2, 0, 4, 2], [0, 2, 4, 3]]
    assert regions.shares.tolist() == [4 / 12] * 3
    assert pairs.tolist() == [[0, 1], [0, 2], [1, 2]]
    assert regions.colours.shape == (3, 75)
    assert regions.textures.shape == (3, 240)
    assert regions.colours[0, [0, 24, 25, 50]] == pytest.approx([2 / 12, 2 / 12, 4 / 12, 4 / 12])
    assert regions.colours[1, [0, 24, 25, 50]] == pytest.approx([4 / 12, 0, 4 / 12, 4 / 12])
    assert regions.textures[:, 9::10] == pytest.approx(np.full((3, 24), 1 / 24))
    assert regions.colours.sum(1) == pytest.approx(np.ones(3))


def test_regions_that_touch_in_a_corner_are_no_neighbours():
    labels = np.array([[0, 1], [2, 3]])
    _, pairs = describe(labels, np.zeros((3, 4), int), np.zeros((24, 4), int))
    assert pairs.tolist() == [[0, 1], [0, 2], [1, 3], [2, 3]]


def test_colours_fall_into_25_bins():
    image = np.array([[[0, 10, 11], [255, 244, 245]]], np.uint8)
    assert colour_bins(image).T.tolist() == [[0, 0, 1], [24, 23, 23]]


def test_textures_are_slopes_in_eight_directions():
    image = np.zeros((9, 40, 3), np.uint8)
    image[:, 20:, 0] = 200  # uphill to the right, in one channel
    bins = texture_bins(image).reshape(8, 3, 9, 40)
    edge = bins[:, :, 4, 19:21].max(-1)
    assert edge[:, 0].tolist() == [9, 7, 0, 0, 0, 0, 0, 7]
    assert not edge[:, 1:].any()
    assert not bins[:, :, :, :15].any()
    assert not bins[:, :, :, 25:].any()


def test_the_most_alike_are_merged_first():
    # Four in a row: the two in the middle are of one colour, and then the left one joins them.
    colours = np.array([[0.6, 0.4], [0.5, 0.5], [0.5, 0.5], [0.0, 1.0]])
    boxes = np.array([[0, 0, 1, 1], [1, 0, 2, 1], [2, 0, 3, 1], [3, 0, 4, 1]], float)
    regions = Regions(boxes, np.full(4, 0.25), colours, np.ones((4, 1)))
    pairs = np.array([[0, 1], [1, 2], [2, 3]])
    merged = group(regions, pairs, "C", 4)
    assert merged[:4].tolist() == boxes.tolist()
    assert merged[4:].tolist() == [[1, 0, 3, 1], [0, 0, 3, 1], [0, 0, 4, 1]]
    assert regions.boxes.tolist() == boxes.tolist()


@pytest.mark.parametrize("terms", ["CTSF", "TSF"])
def test_n_regions_make_2n_less_1_and_the_last_is_the_whole_image(photograph, terms):
    from skimage.segmentation import felzenszwalb

    small = cv2.resize(photograph, (160, 120), interpolation=cv2.INTER_AREA)
    labels = felzenszwalb(small, scale=50, sigma=0.8, min_size=20)
    count = labels.max() + 1
    assert count > 20
    regions, pairs = describe(labels, colour_bins(small), texture_bins(small))
    merged = group(regions, pairs, terms, labels.size)
    assert merged.shape == (2 * count - 1, 4)
    assert merged[-1].tolist() == [0, 0, 160, 120]
    for number in range(count):
        rows, columns = np.nonzero(labels == number)
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert merged[number].tolist() == box


def test_grouping_is_that_of_a_slow_reference(photograph):
    """All pairs are looked at anew after every merge, and histograms are taken of pixels."""
    from skimage.segmentation import felzenszwalb

    small = cv2.resize(photograph, (64, 48), interpolation=cv2.INTER_AREA)
    labels = felzenszwalb(small, scale=50, sigma=0.8, min_size=20)
    bins = colour_bins(small), texture_bins(small)
    regions, pairs = describe(labels, *bins)
    expected, current = [], labels.copy()
    while current.max():
        here, touching = describe(current, *bins)
        alike = similarity(here.take(touching[:, 0]), here.take(touching[:, 1]), "CTSF", 64 * 48)
        one, other = touching[alike.argmax()]
        current[current == other] = one
        rows, columns = np.nonzero(current == one)
        expected.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        current[current > other] -= 1
    assert len(expected) > 10
    assert group(regions, pairs, "CTSF", 64 * 48)[len(regions.shares) :].tolist() == expected


def test_of_nearly_equal_boxes_the_first_is_kept():
    boxes = np.array(
        [[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 7], [50, 0, 60, 10]], float
    )
    assert without_twins(boxes, 9).tolist() == boxes[[0, 3, 4]].tolist()
    assert without_twins(boxes, 2).tolist() == boxes[[0, 3]].tolist()
    assert without_twins(boxes[:0], 2).shape == (0, 4)
