"""The curves of a training: loss and tune accuracy over the epochs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mmray.training.loop import Entry

_SIZE_INCHES, _DPI = (8, 3.2), 120


def draw_curves(history: Sequence[Entry], file: Path) -> None:
    """Write a PNG: on the left the parts of the loss and the loss on tune, on the right accuracy on tune.

    Args:
        history: from `mmray.training.loop.train`; phases one after the other.
        file: path of the PNG.
    """
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = range(1, len(history) + 1)
    for part in history[0]["loss"]:
        left.plot(epochs, [entry["loss"].get(part) for entry in history], label=f"train, {part}")
    left.plot(epochs, [entry["tune_loss"] for entry in history], "k--", label="tune, labels")
    left.set(xlabel="epoch", ylabel="loss", ylim=(0, None))
    left.legend(frameon=False)
    accuracy = [entry["tune_accuracy"] for entry in history]
    right.plot(epochs, accuracy, "C2", marker="o")
    best = max(range(len(accuracy)), key=accuracy.__getitem__)
    right.annotate(
        f"{accuracy[best]:.3f}",
        (best + 1, accuracy[best]),
        xytext=(0, 6),
        textcoords="offset points",
        ha="center",
    )
    right.set(xlabel="epoch", ylabel="accuracy on tune")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    partial = file.with_suffix(".partial")
    figure.savefig(partial, dpi=_DPI, format="png")
    partial.replace(file)
