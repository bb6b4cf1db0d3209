"""Figures that several families draw."""

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
