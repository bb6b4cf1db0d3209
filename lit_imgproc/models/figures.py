"""Figures that several families draw."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_CLASSES_NAMED = 10
"""With more classes than this, each is a grey line without a name."""


def confusion_figure(confusion: Tensor, names: list[str]) -> "Figure":
    """Draw counts ``[K, K]``: colours are shares of the true class, numbers up to 25 classes."""
    from matplotlib.figure import Figure

    shares = confusion.double() / confusion.sum(1, keepdim=True).clamp(min=1)
    side = max(4.0, 0.55 * len(names) + 2)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if len(names) <= 25:
        for row, counts in enumerate(confusion.tolist()):
            for column, count in enumerate(counts):
                ink = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", color=ink, size=8)
    return figure


def precision_recall_figure(curves: Tensor, names: list[str]) -> "Figure":
    """Draw each class's curve, and the mean of those that have objects, at IoU 0.5 and at 0.75.

    Args:
        curves: precision at 101 recalls from 0 to 1 ``[2, 101, K]``; -1 for a class without
            objects, which is left out.
        names: the names of the K classes.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.6), layout="constrained")
    recall = torch.linspace(0, 1, curves.shape[1]).numpy()
    for axes, curve, iou in zip(figure.subplots(1, 2), curves, ("0.5", "0.75"), strict=True):
        measured = [k for k in range(len(names)) if curve[0, k] > -1]
        named = len(measured) <= MAX_CLASSES_NAMED
        for k in measured:
            label = f"{names[k]}  {float(curve[:, k].mean()):.3f}"
            look = {"label": label} if named else {"color": "0.8", "linewidth": 0.7}
            axes.plot(recall, curve[:, k].numpy(), **look)
        if len(measured) > 1:
            mean = curve[:, measured].mean(1)
            label = f"mean of {len(measured)}  {float(mean.mean()):.3f}"
            axes.plot(recall, mean.numpy(), color="black", linewidth=2, label=label)
        axes.set(title=f"IoU {iou}", xlabel="recall", ylabel="precision")
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        axes.grid(alpha=0.3)
        if measured:
            axes.legend(title="average precision", loc="best", fontsize=8)
    return figure
