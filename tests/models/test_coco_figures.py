"""The figures of a detector's evaluation."""

import numpy as np
import pytest
import torch
from measured import found_of, ours, truth_of

from lit_imgproc.models.figures import confusion_figure, precision_recall_figure


def test_curves_of_the_classes_that_have_objects():
    """Two of three objects of class 0 are found, with a false one between; class 1 has none."""
    boxes = [[20.0 * n, 0, 20.0 * n + 10, 10] for n in range(4)]
    found = found_of([boxes[0], boxes[3], boxes[1]], [0, 0, 0], [0.9, 0.8, 0.7])
    metric, _ = ours([found], [truth_of(boxes[:3])], 2)
    precision = [1.0] * 34 + [2 / 3] * 33 + [0.0] * 34
    assert metric.curves[:, :, 0].tolist() == [pytest.approx(precision)] * 2
    assert (metric.curves[:, :, 1] == -1).all()

    figure = precision_recall_figure(metric.curves, ["cell", "platelet"])
    assert [axes.get_title() for axes in figure.axes] == ["IoU 0.5", "IoU 0.75"]
    for axes in figure.axes:
        (line,) = axes.lines  # one class is its own mean
        assert line.get_ydata() == pytest.approx(precision)
        assert line.get_xdata() == pytest.approx(np.linspace(0, 1, 101))
        (label,) = [text.get_text() for text in axes.get_legend().get_texts()]
        assert label == f"cell  {np.mean(precision):.3f}"


def test_of_many_classes_only_the_mean_is_named():
    curves = torch.linspace(1, 0, 101)[None, :, None] ** torch.arange(1, 31)[None, None, :] / 2
    curves = curves.repeat(2, 1, 1)
    curves[:, :, 7] = -1
    figure = precision_recall_figure(curves, [str(k) for k in range(30)])
    for axes in figure.axes:
        assert len(axes.lines) == 29 + 1
        mean = np.delete(curves[0].numpy(), 7, 1).mean(1)
        assert axes.lines[-1].get_ydata() == pytest.approx(mean, abs=1e-6)
        (label,) = [text.get_text() for text in axes.get_legend().get_texts()]
        assert label == f"mean of 29  {mean.mean():.3f}"


def test_without_objects_the_curves_are_empty():
    figure = precision_recall_figure(torch.full((2, 101, 3), -1.0), ["a", "b", "c"])
    assert [len(axes.lines) for axes in figure.axes] == [0, 0]
    assert figure.axes[0].get_legend() is None


def test_a_confusion_matrix_is_drawn_with_its_counts():
    metric, _ = ours([found_of([[0, 0, 9, 9], [20, 0, 29, 9]])], [truth_of([[0, 0, 9, 9]])], 1)
    (axes,) = confusion_figure(metric.confusion, ["cell", "background"]).axes
    assert [text.get_text() for text in axes.texts] == ["1", "0", "1", "0"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["cell", "background"]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("true", "predicted")
    assert axes.images[0].get_array().tolist() == [[1, 0], [1, 0]]  # shares of a row
