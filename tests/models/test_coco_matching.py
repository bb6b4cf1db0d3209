"""Which detection finds which object, against closed forms, pycocotools and VOC's devkit."""

import numpy as np
import pytest
import torch
from measured import found_of, ours, pycocotools, random_sets, truth_of


def devkit(found, truth, label):
    """Average precision of a class as VOC 2007's devkit counts, without its extra pixel."""
    rows = [
        (float(score), image, box)
        for image, one in enumerate(found)
        for box, k, score in zip(one["boxes"].tolist(), one["labels"], one["scores"], strict=True)
        if k == label
    ]
    objects = [[box for box, k in zip(one["boxes"].tolist(), one["labels"], strict=True)
                if k == label] for one in truth]  # fmt: skip
    seen = [[False] * len(boxes) for boxes in objects]
    hits = []
    for _, image, box in sorted(rows, key=lambda row: -row[0]):
        best, at = 0.0, -1
        for n, other in enumerate(objects[image]):
            width = min(box[2], other[2]) - max(box[0], other[0])
            height = min(box[3], other[3]) - max(box[1], other[1])
            if width > 0 and height > 0:
                both = width * height
                areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
                if both / (sum(areas) - both) > best:
                    best, at = both / (sum(areas) - both), n
        hit = best >= 0.5 and not seen[image][at]
        hits.append(hit)
        if hit:
            seen[image][at] = True
    found_so_far = np.cumsum(hits)
    recall = found_so_far / sum(map(len, objects))
    precision = found_so_far / np.arange(1, len(hits) + 1)
    return np.mean([max(precision[recall >= n / 10], default=0) for n in range(11)])


def test_voc_2007_equals_the_rule_of_its_devkit():
    """Objects of a class lie apart, where COCO and the devkit match alike.

    Their numbers, 17 and 13, are no multiples of ten: no recall is at a tenth, to be rounded.
    """
    random = np.random.default_rng(5)
    found, truth = [], []
    for left in ([0, 0, 1, 0, 1, 0, 1, 1], [0, 1, 0], [1] * 7 + [0] * 8, [0, 0, 0, 1]):
        boxes = np.array([[50 * n, 0, 50 * n + 40, 30] for n in range(len(left))], np.float64)
        guesses = boxes.repeat(3, 0) + random.normal(0, 4, (3 * len(boxes), 4))
        wrong = random.random(len(guesses)) < 0.15
        labels = np.where(wrong, 1 - np.repeat(left, 3), np.repeat(left, 3))
        found.append(found_of(guesses, labels, random.random(len(guesses)).astype(np.float32)))
        truth.append(truth_of(boxes, left))
    assert sorted(torch.cat([one["labels"] for one in truth]).bincount().tolist()) == [13, 17]
    _, values = ours(found, truth, 2)
    expected = np.mean([devkit(found, truth, k) for k in (0, 1)])
    assert 0.3 < expected < 0.95
    assert values["map_50_voc07"] == pytest.approx(expected, abs=1e-9)


A, B, C = [0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]
NEAR_A = [0, 0, 10, 8]  # IoU 0.8


@pytest.mark.parametrize(
    ("found", "truth", "score"),
    [
        (found_of([A, B]), truth_of([A, B]), 1),
        (found_of([]), truth_of([]), 1),  # rightly nothing
        (found_of([A]), truth_of([]), 0),
        (found_of([]), truth_of([A]), 0),
        (found_of([A, C]), truth_of([A, B]), 1 / 3),  # one hit, one false, one missed
        (found_of([A, NEAR_A]), truth_of([A]), 1 / 2),  # found twice
        (found_of([A, B], scores=[0.5, 0.49]), truth_of([A]), 1),  # below the threshold
        (found_of([A], [1]), truth_of([A], [0]), 0),  # of another class
        (found_of([NEAR_A, NEAR_A, B]), truth_of([A, B], None, [1, 0]), 1),  # a crowd
        (found_of([]), truth_of([A], None, [1]), 1),
    ],
)
def test_the_matching_score_of_an_image(found, truth, score):
    _, values = ours([found], [truth], 2)
    assert values["matching_50"] == pytest.approx(score)


def test_the_matching_score_is_a_mean_of_images_and_has_masks_of_its_own():
    corner = torch.zeros(1, 20, 60, dtype=torch.bool)
    corner[:, :10, :4] = True  # IoU 0.4 with the whole of A
    whole = torch.zeros(1, 20, 60, dtype=torch.bool)
    whole[:, :10, :10] = True
    none = {"masks": whole[:0]}
    found = [found_of([A]) | {"masks": corner}, found_of([A]) | {"masks": whole},
             found_of([]) | none]  # fmt: skip
    truth = [truth_of([A]) | {"masks": whole}] * 2 + [truth_of([]) | none]
    _, values = ours(found, truth, 1, masks=True)
    assert values["matching_50"] == 1
    assert values["mask_matching_50"] == pytest.approx(2 / 3)
    _, values = ours(found, truth, 1, masks=True, score_threshold=1.1)
    assert values["matching_50"] == pytest.approx(1 / 3)


def test_matches_are_those_of_coco():
    """True positives at IoU 0.5, by image, from pycocotools' own evaluation of each image."""
    found, truth = random_sets(7, classes=1, crowds=0.3, ties=True, images=25, empty=0.1)
    evaluation = pycocotools(found, truth, 1)
    hits = dict.fromkeys(range(len(truth)), 0)
    false = dict(hits)
    for one in evaluation.evalImgs[: len(truth)]:  # of the first range of area: all
        if one is not None:
            matched = one["dtMatches"][0][np.array(one["dtScores"]) >= 0.5] > 0
            ignored = one["dtIgnore"][0][np.array(one["dtScores"]) >= 0.5].astype(bool)
            hits[one["image_id"] - 1] = int((matched & ~ignored).sum())
            false[one["image_id"] - 1] = int((~matched & ~ignored).sum())
    scores = []
    for n, there in enumerate(truth):
        objects = int((there["iscrowd"] == 0).sum())
        total = objects + false[n]
        scores.append(hits[n] / total if total else 1)
    _, values = ours(found, truth, 1)
    assert values["matching_50"] == pytest.approx(np.mean(scores))


def test_the_confusion_matrix_pairs_boxes_whatever_their_class():
    found = [
        # The worse box on A is a second one: background. B is taken for class 0.
        found_of([NEAR_A, A, B, [60, 0, 70, 10]], [0, 1, 0, 2], [0.9, 0.8, 0.7, 0.6]),
        found_of([A, C, B], [1, 1, 2], [0.9, 0.8, 0.4]),
    ]
    truth = [truth_of([A, B, C], [0, 1, 2]), truth_of([A, C, B], [1, 1, 2], [0, 1, 0])]
    metric, _ = ours(found, truth, 3)
    assert metric.confusion.tolist() == [
        [1, 0, 0, 0],  # A
        [1, 1, 0, 0],  # B of the first image as class 0, A of the second
        [0, 0, 0, 2],  # C of the first is missed, B of the second has a score of 0.4
        [0, 1, 1, 0],  # the second box on A, the box on nothing; that on the crowd is left out
    ]
