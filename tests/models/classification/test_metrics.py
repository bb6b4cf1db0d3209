"""The metrics of a split that comes in batches, against closed forms over the whole of it."""

import pytest
import torch

from lit_imgproc.models.classification.metrics import collection, full_metrics, quick_metrics


def answers(found, second):
    """Probabilities of ten classes: 0.7 for ``found``, 0.2 for ``second``, next to none else."""
    probabilities = torch.full((len(found), 10), 0.1 / 8)
    probabilities = probabilities.scatter(1, torch.tensor(second)[:, None], 0.2)
    return probabilities.scatter(1, torch.tensor(found)[:, None], 0.7)


@pytest.mark.parametrize("metrics", [quick_metrics, full_metrics])
def test_a_first_batch_without_mistakes_does_not_merge_metrics(metrics):
    """Twenty right answers, then ten of which one takes a 9 for a 0, with 9 second."""
    measured = collection(metrics(10, multilabel=False), "test/")
    classes, others = list(range(10)), [*range(1, 10), 9]
    measured.update(answers(classes * 2, [*range(1, 10), 0] * 2), torch.tensor(classes * 2))
    measured.update(answers([*range(9), 0], others), torch.tensor(classes))
    values = measured.compute()
    assert float(values["test/accuracy"]) == pytest.approx(29 / 30)
    assert float(values["test/accuracy_top5"]) == 1
    # F1 is 2 tp / (2 tp + fp + fn): 6/7 for class 0, 4/5 for class 9, 1 for the others.
    assert float(values["test/f1"]) == pytest.approx((8 + 6 / 7 + 4 / 5) / 10)
    if "test/calibration_error" in values:
        assert float(values["test/calibration_error"]) == pytest.approx(29 / 30 - 0.7, abs=1e-5)


def test_top5_counts_labels_among_the_five_most_probable():
    logits = torch.arange(10.0).repeat(10, 1)  # the classes 9, 8, 7, 6, 5, in this order
    measured = collection(quick_metrics(10, multilabel=False), "val/")
    values = measured(logits.softmax(1), torch.arange(10))
    assert float(values["val/accuracy"]) == pytest.approx(0.1)
    assert float(values["val/accuracy_top5"]) == pytest.approx(0.5)


def test_multilabel_metrics_keep_apart_too():
    measured = collection(full_metrics(2, multilabel=True), "test/")
    measured.update(torch.tensor([[0.9, 0.1], [0.1, 0.9]]), torch.tensor([[1, 0], [0, 1]]))
    measured.update(torch.tensor([[0.9, 0.9]]), torch.tensor([[1, 0]]))
    values = measured.compute()
    assert float(values["test/accuracy"]) == pytest.approx(5 / 6)
    assert float(values["test/exact_match"]) == pytest.approx(2 / 3)
    assert float(values["test/f1"]) == pytest.approx((1 + 2 / 3) / 2)
    # Of two positives that both come first, 1; of one that ties with a negative, 1/2.
    assert float(values["test/average_precision"]) == pytest.approx(3 / 4)


def test_classes_that_a_split_lacks_are_not_counted_as_zero():
    measured = collection(full_metrics(3, multilabel=False), "test/")
    probabilities = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.4, 0.5, 0.1]])
    measured.update(probabilities, torch.tensor([0, 1, 0]))
    # Class 0: 0.8 and 0.4 over 0.1; class 1: 0.8 over 0.1 and 0.5; class 2 has no image.
    assert float(measured.compute()["test/auroc"]) == 1

    labels = collection(full_metrics(3, multilabel=True), "test/")
    labels.update(probabilities, torch.tensor([[1, 0, 0], [0, 1, 0], [1, 0, 0]]))
    values = labels.compute()
    assert float(values["test/auroc"]) == 1
    assert float(values["test/average_precision"]) == 1
