"""Tiles of large images and views of augmented ones, with a detector that is always right."""

import numpy as np
import pytest
import torch
from bright import detect, detect_masks, spots
from torch.testing import assert_close

from lit_imgproc import seams
from lit_imgproc.models.detection.views import VIEWS, augmented, tiled, with_views

LIMIT = 1000


def scene(height, width, *squares):
    """An image with bright rectangles: left, top, right, bottom, brightness."""
    image = torch.zeros(3, height, width)
    for left, top, right, bottom, light in squares:
        image[:, top:bottom, left:right] = light
    return image


def same(found, wanted, **options):
    """The same objects, in whatever order those of one score are."""
    assert found.keys() == wanted.keys()
    assert found["scores"].tolist() == sorted(found["scores"].tolist(), reverse=True)

    def ordered(one):
        keys = zip(one["labels"].tolist(), one["boxes"].round().tolist(), strict=True)
        rows = [row for _, row in sorted((key, row) for row, key in enumerate(keys))]
        return {name: value[rows] for name, value in one.items()}

    assert_close(ordered(found), ordered(wanted), **options)


# Tiles -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("find", [detect, detect_masks])
@pytest.mark.parametrize(("width", "height"), [(12, 10), (26, 31), (90, 12), (70, 75), (140, 9)])
def test_an_object_on_seams_is_found_once_wherever_it_lies(find, width, height):
    """Tiles of 64 with 24 pixels in common: objects of 12 are whole in one, others in none."""
    look = tiled(find, 64, 24, LIMIT)
    for left, top in [(0, 0), *zip(range(1, 160, 3), range(2, 200, 5), strict=False)]:
        right, bottom = min(left + width, 150), min(top + height, 130)
        if right - left < 2 or bottom - top < 2:
            continue
        image = scene(130, 150, (left, top, right, bottom, 0.875))
        same(look([image])[0], find([image])[0], rtol=0, atol=0)


def test_seams_in_a_photograph_full_of_objects():
    """Objects of two classes beside each other, at every place."""
    generator = np.random.default_rng(0)
    squares = []
    for row in range(0, 400, 25):
        for column in range(0, 500, 25):
            left, top = column + generator.integers(1, 5), row + generator.integers(1, 5)
            width, height = generator.integers(4, 19, 2)
            squares.append(
                (left, top, left + width, top + height, (0.5, 0.9)[generator.integers(2)])
            )
    image = scene(400, 500, *squares)
    wanted = spots(image, masks=True)
    assert len(wanted["boxes"]) == 320
    same(tiled(detect_masks, 96, 32, LIMIT)([image])[0], wanted, rtol=0, atol=0)


def test_a_whole_box_stands_before_parts_that_score_higher():
    def wrong_way_round(images):
        found = detect(images)
        for one in found:
            extent = one["boxes"][:, 2:] - one["boxes"][:, :2]
            one["scores"] = 1 / (1 + extent.prod(1))
        return found

    image = scene(64, 100, (50, 20, 68, 40, 0.5))  # 14 pixels of it in the first tile of 64
    (found,) = tiled(wrong_way_round, 64, 28, LIMIT)([image])
    assert found["boxes"].tolist() == [[50, 20, 68, 40]]


def test_objects_of_two_classes_in_one_place_stay_two():
    image = scene(64, 100, (40, 20, 62, 40, 0.5), (44, 24, 58, 36, 0.9))
    (found,) = tiled(detect, 64, 28, LIMIT)([image])
    assert found["labels"].tolist() == [1, 0]
    assert found["boxes"].tolist() == [[44, 24, 58, 36], [40, 20, 62, 40]]


def join(boxes, scores, tiles, *, labels=None, windows=((0, 0, 64, 64), (40, 0, 104, 64))):
    boxes = np.array(boxes, np.float64)
    labels = np.zeros(len(boxes), np.int64) if labels is None else np.array(labels)
    arrays = (np.array(scores), labels, np.array(tiles), np.array(windows, np.float64))
    return seams.join(boxes, *arrays, (64, 104))


def test_the_rule_for_seams():
    # Boxes of two tiles: IoU 9/11 is one object, 8/12 too, 5/15 two.
    for shift, count in ((1, 1), (2, 1), (5, 2)):
        joined = join([[45, 0, 55, 9], [45 + shift, 0, 55 + shift, 9]], [0.5, 0.9], [0, 1])
        assert len(joined.boxes) == count
        assert joined.boxes[0].tolist() == [45 + shift, 0, 55 + shift, 9]
        assert joined.scores[0] == 0.9
        assert joined.members[0] == [1]
    # Within a tile the network has told objects apart, however much they overlap.
    assert len(join([[45, 0, 55, 9], [46, 0, 56, 9]], [0.5, 0.9], [0, 0]).boxes) == 2
    # A part of what another tile shows whole, and a small object beside it there.
    joined = join([[30, 0, 50, 9], [40, 0, 50, 9], [44, 0, 49, 5]], [0.5, 0.9, 0.4], [0, 1, 1])
    assert joined.boxes.tolist() == [[30, 0, 50, 9], [44, 0, 49, 5]]
    # The same part where the other tile has found nothing: it is said to see more, and is believed.
    assert len(join([[40, 0, 50, 9]], [0.9], [1]).boxes) == 0
    # Parts that agree where both tiles see: 24 pixels of 64, although their IoU is 24/84.
    joined = join([[10, 0, 64, 9], [40, 0, 94, 9]], [0.5, 0.9], [0, 1])
    assert joined.boxes.tolist() == [[10, 0, 94, 9]]
    assert (joined.scores.tolist(), joined.members) == ([0.9], [[1, 0]])
    # A side that no seam cuts is that of the best part.
    joined = join([[10, 1, 64, 9], [40, 0, 94, 8]], [0.9, 0.5], [0, 1])
    assert joined.boxes.tolist() == [[10, 1, 94, 9]]
    # A part need not end at the seam itself: a tenth of its length is near enough.
    for left, count in ((41.5, 1), (44, 2)):
        assert len(join([[20, 0, 60, 9], [left, 0, 60, 9]], [0.5, 0.9], [0, 1]).boxes) == count
    # Parts that do not: rows 0 to 9 and 20 to 29.
    assert len(join([[10, 0, 64, 9], [40, 20, 94, 29]], [0.5, 0.9], [0, 1]).boxes) == 2
    # Parts of two classes.
    assert len(join([[10, 0, 64, 9], [40, 0, 94, 9]], [0.5, 0.9], [0, 1], labels=[0, 1]).boxes) == 2
    # Two objects that cross the seam one over the other find their own parts.
    boxes = [[10, 0, 64, 10], [10, 4, 64, 14], [40, 0, 80, 10], [40, 4, 94, 14]]
    joined = join(boxes, [0.9, 0.8, 0.9, 0.8], [0, 0, 1, 1])
    assert joined.boxes.tolist() == [[10, 0, 80, 10], [10, 4, 94, 14]]


def test_an_edge_of_the_image_is_no_seam():
    joined = join([[0, 0, 20, 9], [90, 50, 104, 64]], [0.5, 0.9], [0, 1])
    assert joined.boxes.tolist() == [[90, 50, 104, 64], [0, 0, 20, 9]]


def test_tiles_are_of_full_size_and_come_in_batches_of_as_many_as_there_are_images():
    seen = []

    def look(images):
        seen.append([tuple(image.shape) for image in images])
        return detect(images)

    images = [scene(100, 150), scene(30, 40), scene(64, 64), scene(20, 70)]
    found = tiled(look, 64, 16, LIMIT)(images)
    assert [len(one["boxes"]) for one in found] == [0] * 4
    assert [len(batch) for batch in seen] == [4, 4, 2]
    shapes = [shape for batch in seen for shape in batch]
    assert shapes == [(3, 64, 64)] * 6 + [(3, 30, 40), (3, 64, 64)] + [(3, 20, 64)] * 2


def test_the_best_detections_of_a_tiled_image_stay():
    squares = [(20 * n, 10, 20 * n + 9, 19, 0.8 + 0.02 * n) for n in range(7)]
    image = scene(64, 140, *squares)
    (found,) = tiled(detect_masks, 64, 20, 3)([image])
    assert found["boxes"][:, 0].tolist() == [120, 100, 80]
    assert found["masks"].shape == (3, 64, 140)
    assert found["masks"].sum((1, 2)).tolist() == [81, 81, 81]


# Views -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("find", [detect, detect_masks])
@pytest.mark.parametrize("views", ["hflip", "d4"])
def test_views_of_an_equivariant_detector_change_nothing(find, views):
    images = [
        scene(40, 70, (3, 5, 20, 9, 0.875), (30, 11, 37, 31, 0.5), (60, 0, 70, 3, 0.625)),
        scene(33, 21, (1, 2, 5, 20, 0.75)),
        scene(10, 12),
    ]
    assert len(VIEWS[views]) == {"hflip": 2, "d4": 8}[views]
    for found, wanted in zip(
        augmented(find, VIEWS[views], LIMIT)(images), find(images), strict=True
    ):
        same(found, wanted, rtol=0, atol=0)


def looks(*answers):
    """A detector that says these one after the other: rows of box, label and score."""
    rest = iter(answers)

    def look(images):
        rows = torch.tensor(next(rest), dtype=torch.float32).reshape(-1, 6)
        found = {"boxes": rows[:, :4], "labels": rows[:, 4].long(), "scores": rows[:, 5]}
        return [found] * len(images)

    return look


def test_boxes_are_fused_by_their_scores():
    """Of a width of 100: the second view says 30 to 50 of what is 50 to 70 in the image."""
    first = [[52, 10, 72, 20, 0, 0.75], [0, 0, 9, 9, 1, 0.5]]
    second = [[30, 10, 50, 20, 0, 0.25], [91, 0, 100, 9, 0, 0.5]]
    (found,) = augmented(looks(first, second), VIEWS["hflip"], LIMIT)([scene(40, 100)])
    # (3 * 52 + 50) / 4; scores are means over the two views, and a class of its own is not fused.
    assert_close(found["boxes"], torch.tensor([[51.5, 10, 71.5, 20], [0, 0, 9, 9], [0, 0, 9, 9]]))
    assert_close(found["scores"], torch.tensor([0.5, 0.25, 0.25]))
    assert sorted(found["labels"].tolist()[1:]) == [0, 1]


def test_boxes_of_one_view_are_never_fused():
    first = [[10, 10, 30, 30, 0, 0.75], [11, 10, 31, 30, 0, 0.5]]
    (found,) = augmented(looks(first, []), VIEWS["hflip"], LIMIT)([scene(40, 100)])
    assert found["boxes"].tolist() == [[10, 10, 30, 30], [11, 10, 31, 30]]


def test_views_within_tiles():
    image = scene(130, 150, (50, 50, 80, 60, 0.875), (5, 100, 140, 108, 0.5))
    options = {"tile_size": 64, "tile_overlap": 16, "max_detections": 10}
    look = with_views(detect_masks, test_time_augmentation="d4", **options)
    same(look([image])[0], detect_masks([image])[0], rtol=0, atol=0)


def test_without_views_nothing_is_put_between():
    options = {"tile_size": None, "tile_overlap": 0, "max_detections": 10}
    assert with_views(detect, test_time_augmentation="none", **options) is detect
