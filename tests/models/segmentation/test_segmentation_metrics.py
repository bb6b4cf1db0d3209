"""Metrics of segmentation against torchmetrics, scikit-learn and segmentation_models_pytorch."""

import subprocess
import sys

import pytest
import torch
from segmentation_models_pytorch.metrics import get_stats, iou_score
from sklearn.metrics import recall_score
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassJaccardIndex,
)

from lit_imgproc.models.figures import confusion_figure
from lit_imgproc.models.segmentation.metrics import SegmentationMetrics
from lit_imgproc.models.segmentation.volume_metrics import VolumeMetrics


def names(count):
    return [f"class {k}" for k in range(count)]


def random_batches(seed, classes, *, size=(4, 16, 24), only_predicted=(), absent=(), ignored=0.1):
    """Three batches of predictions that are right half of the time, and masks."""
    random = torch.Generator().manual_seed(seed)

    def draw(left_out):
        allowed = torch.tensor([k for k in range(classes) if k not in left_out])
        return allowed[torch.randint(len(allowed), size, generator=random)]

    batches = []
    for _ in range(3):
        mask = draw({*only_predicted, *absent})
        right = torch.rand(size, generator=random) < 0.5
        prediction = torch.where(right, mask, draw(absent))
        mask[torch.rand(size, generator=random) < ignored] = 255
        batches.append((prediction, mask))
    return batches


def measured(batches, class_names, **options):
    metric = SegmentationMetrics(class_names, **options)
    for prediction, mask in batches:
        metric.update(prediction, mask)
    return metric, metric.compute()


KINDS = {
    "plain": {},
    "one class": {"classes": 1},
    "two classes": {"classes": 2},
    "nothing ignored": {"ignored": 0},
    "absent classes": {"classes": 7, "absent": (0, 3, 6)},
    "only predicted": {"classes": 6, "only_predicted": (2,), "absent": (1, 5)},
    "volumes": {"size": (2, 5, 6, 7), "absent": (2,)},
}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_values_equal_torchmetrics(kind, seed):
    options = {"classes": 4} | KINDS[kind]
    classes, absent = options["classes"], options.get("absent", ())
    batches = random_batches(seed, **options)
    metric, values = measured(batches, names(classes))
    prediction, mask = (torch.cat(side).flatten() for side in zip(*batches, strict=True))

    # torchmetrics would take one class to be an error.
    def reference(kind_of, **more):
        return kind_of(max(classes, 2), ignore_index=255, **more)(prediction, mask).tolist()

    there = [k for k in range(classes) if k not in absent]
    iou = reference(MulticlassJaccardIndex, average="none")
    dice = reference(MulticlassF1Score, average="none")
    true = sorted(set(mask.tolist()) - {255})
    known = mask != 255
    recall = recall_score(mask[known], prediction[known], labels=true, average="macro")
    expected = {
        "iou": reference(MulticlassJaccardIndex, average="macro"),
        "dice": sum(dice[k] for k in there) / len(there),
        "accuracy": reference(MulticlassAccuracy, average="micro"),
        "class_accuracy": recall,
    }
    expected |= {f"iou/class {k}": iou[k] for k in there}
    expected |= {f"dice/class {k}": dice[k] for k in there}
    assert values == pytest.approx(expected, abs=1e-6)  # and no name more
    confusion = torch.tensor(reference(MulticlassConfusionMatrix))[:classes, :classes]
    assert torch.equal(metric.confusion, confusion)


def test_values_equal_segmentation_models_pytorch():
    batches = random_batches(3, 5, ignored=0)
    _, values = measured(batches, names(5))
    stats = [get_stats(*batch, mode="multiclass", num_classes=5) for batch in batches]
    whole = [torch.cat(counts).sum(0, keepdim=True) for counts in zip(*stats, strict=True)]
    expected = iou_score(*whole, reduction="none")[0].tolist()
    assert [values[f"iou/class {k}"] for k in range(5)] == pytest.approx(expected, abs=1e-6)
    assert values["iou"] == pytest.approx(float(iou_score(*whole, reduction="macro")), abs=1e-6)


def test_half_overlapping_squares():
    prediction, mask = torch.zeros(2, 1, 8, 8, dtype=torch.int64)
    mask[0, 2:4, 2:4] = prediction[0, 2:4, 3:5] = 1
    metric, values = measured([(prediction, mask)], ["background", "square"])
    assert values["dice"] == values["dice/square"] == 0.5
    assert values["iou/square"] == pytest.approx(1 / 3)
    assert values["dice/background"] == pytest.approx(2 * 58 / 120)
    assert values["iou"] == pytest.approx((1 / 3 + 58 / 62) / 2)
    assert (values["accuracy"], values["class_accuracy"]) == (60 / 64, (0.5 + 58 / 60) / 2)
    assert metric.confusion.tolist() == [[58, 2], [2, 2]]  # rows are the truth
    assert confusion_figure(metric.confusion, metric.class_names).axes


def test_the_truth_is_in_the_rows():
    metric, _ = measured([(torch.ones(1, 1, 3).long(), torch.zeros(1, 1, 3).long())], names(2))
    assert metric.confusion.tolist() == [[0, 3], [0, 0]]


def test_a_background_has_a_dice_but_is_not_in_the_mean():
    batches = random_batches(4, 3)
    _, named = measured(batches, ["background", "a", "b"])
    _, plain = measured(batches, ["other", "a", "b"])
    assert named["dice"] == pytest.approx((named["dice/a"] + named["dice/b"]) / 2)
    assert plain["dice"] == pytest.approx(sum(plain[f"dice/{k}"] for k in ("other", "a", "b")) / 3)
    assert named["dice/background"] == plain["dice/other"]
    assert named["iou"] == plain["iou"]


def test_only_background_has_no_foreground_to_measure():
    none = torch.zeros(1, 4, 4, dtype=torch.int64)
    _, values = measured([(none, none)], ["background", "cell"], boundary_tolerance=2)
    ones = "iou", "iou/background", "dice/background", "accuracy", "class_accuracy"
    assert values == dict.fromkeys(ones, 1) | {"dice": -1, "boundary_f1": -1}


@pytest.mark.parametrize("size", [(2, 6, 6), (1, 3, 6, 6)])
def test_nothing_at_all_is_minus_one(size):
    prediction = torch.randint(3, size)
    mask = torch.full(size, 255)
    metric, values = measured([(prediction, mask)], names(3), boundary_tolerance=1)
    headlines = "iou", "dice", "accuracy", "class_accuracy", "boundary_f1"
    assert values == dict.fromkeys(headlines, -1)
    assert metric.confusion.sum() == 0


def test_all_images_weigh_by_their_pixels():
    """Of 4 + 12 pixels 4 + 3 are right: not the mean of 1 and 1/4."""
    first, second = torch.zeros(1, 2, 2).long(), torch.zeros(1, 3, 4).long()
    wrong = second.clone()
    wrong[0, :, 1:] = 1
    _, values = measured([(first, first), (wrong, second)], names(2))
    assert values["accuracy"] == 7 / 16


def test_after_a_reset_only_later_pixels_count():
    metric = SegmentationMetrics(names(2), boundary_tolerance=1)
    zero = torch.zeros(1, 5, 5, dtype=torch.int64)
    one = zero.clone()
    one[0, 2:, 2:] = 1
    with torch.inference_mode():  # as Lightning validates
        metric.update(zero, one)
        assert metric.compute()["boundary_f1"] == 0
        metric.reset()
    assert metric.confusion.sum() == 0
    metric.update(one, one)
    assert metric.compute()["boundary_f1"] == metric.compute()["iou"] == 1


def test_what_is_no_class_is_an_error():
    metric = SegmentationMetrics(names(3))
    zero = torch.zeros(1, 4, 4, dtype=torch.int64)
    for wrong in (3, 7, 254):
        with pytest.raises(ValueError, match="0 to 2 and 255 are allowed"):
            metric.update(zero, zero + wrong)
    with pytest.raises(ValueError, match="differ in shape"):
        metric.update(zero, zero[:, :2])


SCRIPT = """
import sys
import torch
from torch import distributed
from lit_imgproc.models.segmentation.metrics import SegmentationMetrics
from lit_imgproc.models.segmentation.volume_metrics import VolumeMetrics
from lit_imgproc.worker import leave
distributed.init_process_group("gloo")
rank, folder = distributed.get_rank(), sys.argv[1]
classes, batches, cases = torch.load(f"{folder}/sets.pt")
metric = SegmentationMetrics(classes, boundary_tolerance=2)
for batch in batches[rank::2]:
    metric.update(*batch)
volumes = VolumeMetrics(classes)
for case in cases[rank::2]:
    volumes.update(*case)
answers = metric.compute(), metric.confusion, volumes.compute()
torch.save(answers, f"{folder}/answers-{rank}.pt")
leave(0)
"""


def test_two_ranks_equal_one_process(tmp_path):
    classes = ["background", *names(4)]
    batches = random_batches(5, 5, absent=(2,))
    cases = [
        (prediction, mask, (2.0, 0.5, 1.0 + n))
        for n, (prediction, mask) in enumerate(random_batches(6, 5, absent=(1,)))
    ]
    torch.save((classes, batches, cases), tmp_path / "sets.pt")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([sys.executable, *torchrun, str(script), str(tmp_path)], check=True)
    metric, values = measured(batches, classes, boundary_tolerance=2)
    volumes = VolumeMetrics(classes)
    for case in cases:
        volumes.update(*case)
    for rank in (0, 1):
        answer, confusion, of_volumes = torch.load(tmp_path / f"answers-{rank}.pt")
        assert answer == values
        assert torch.equal(confusion, metric.confusion)
        assert of_volumes == pytest.approx(volumes.compute(), rel=1e-6)
