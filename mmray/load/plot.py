"""A plot of a sweep: latency over throughput, a colour for each setting, and the target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mmray.load.sweep import Found

_SIZE_INCHES, _DPI = (8, 4.2), 120


def draw_sweep(found: Sequence[Found], target_ms: float, file: Path) -> None:
    """Write a PNG: the 99th percentile solid with its interval, the median dashed, both on a log scale.

    Args:
        found: settings with their steps; a step without a 99th percentile (refusals) has no point there.
        target_ms: the line that must not be crossed.
        file: where to.
    """
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    axes = figure.subplots()
    for i, one in enumerate(found):
        colour = f"C{i % 10}"
        steps = sorted(one.steps, key=lambda step: step.asked_per_s)
        whole = [step for step in steps if math.isfinite(step.p99_ms)]
        rates = [step.answered_per_s for step in whole]
        axes.plot(rates, [step.p99_ms for step in whole], colour, marker="o", ms=4, label=str(one.setting))
        for step in whole:
            high_ms = step.p99_high_ms if math.isfinite(step.p99_high_ms) else step.p99_ms
            axes.plot([step.answered_per_s] * 2, [step.p99_low_ms, high_ms], colour, lw=1, alpha=0.5)
        half = [step for step in steps if math.isfinite(step.p50_ms)]
        axes.plot(
            [step.answered_per_s for step in half], [step.p50_ms for step in half], colour, ls="--", alpha=0.6
        )
    axes.axhline(target_ms, color="k", lw=1)
    axes.annotate(
        f"target {target_ms:g} ms",
        (1, target_ms),
        xycoords=("axes fraction", "data"),
        ha="right",
        va="bottom",
    )
    axes.set(xlabel="good answers a second", ylabel="latency from when it was due, ms", yscale="log")
    axes.set_xlim(0, None)
    for which in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        which("{x:g}")
    kinds = [
        Line2D([], [], color="k", label="99th percentile"),
        Line2D([], [], color="k", ls="--", label="median"),
    ]
    axes.legend(handles=[*axes.get_legend_handles_labels()[0], *kinds], frameon=False, fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    partial = file.with_suffix(".partial")
    figure.savefig(partial, dpi=_DPI, format="png")
    partial.replace(file)
