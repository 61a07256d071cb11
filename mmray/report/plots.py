"""The three drawings of a report. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from mmray.page.drawing import COLOURS, axes_within, canvas, to_svg
from mmray.page.table import share
from mmray.report.history import History
from mmray.report.judged import Bin
from mmray.report.rows import BINS, Rows

_MARGINS = (54, 14, 40, 22)
_POINTS = 1_000  # of a curve, however long events.jsonl is
_UNITS = (("days", 86_400.0), ("hours", 3_600.0), ("minutes", 60.0), ("seconds", 1.0))
_LEAST_UNITS = 2.0  # of a unit on the axis
_LOGARITHMIC = 30  # logarithmic axis from this ratio of the highest bar to the median one
_LEAST = 0.7  # where bars begin on a logarithmic axis, so that a single record is visible


def draw_progress(history: History, size: tuple[float, float]) -> str:
    """Rows done over the time of work, calls one after the other."""
    with canvas(size, "progress") as figure:
        axes = axes_within(figure, _MARGINS)
        curve = [segment for segment in history.curve() if len(segment) > 1]
        longest = max((segment[-1][0] for segment in curve), default=1.0)
        unit, unit_s = next((u for u in _UNITS if longest >= _LEAST_UNITS * u[1]), _UNITS[-1])
        step = max(1, sum(map(len, curve)) // _POINTS)
        for number, segment in enumerate(curve):
            kept = [*segment[:-1:step], segment[-1]]
            x, y = [s / unit_s for s, _ in kept], [rows for _, rows in kept]
            axes.plot(x, y, color=COLOURS["blue"], lw=1.8, marker="." if len(kept) < 40 else "")
            axes.fill_between(x, y, color=COLOURS["blue"], alpha=0.12, lw=0)
            if number:
                axes.axvline(x[0], color=COLOURS["orange"], lw=1, ls="--")
        axes.set_ylim(0, None)
        axes.set_xlim(0, longest / unit_s * 1.02)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
        _titles(figure, axes, size, f"{unit} of work", "rows")
        return to_svg(figure, "Rows done over the time of work")


def draw_confidence(rows: Rows, size: tuple[float, float]) -> str:
    """Records by confidence; in front, those with a label other than the one that they carried."""
    with canvas(size, "confidence") as figure:
        axes = axes_within(figure, _MARGINS)
        at, width = (np.arange(BINS) + 0.5) / BINS, 0.9 / BINS
        some = rows.confidence[rows.confidence > 0]
        logarithmic = some.max() > _LOGARITHMIC * np.median(some)
        if logarithmic:
            axes.set_yscale("log")
            axes.set_ylim(_LEAST, 2 * some.max())
            axes.yaxis.set_minor_locator(NullLocator())
        else:
            axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.bar(at, rows.confidence, width, color=COLOURS["blue"])
        axes.bar(at, rows.wrong, width, color=COLOURS["orange"])  # part of those, drawn in front
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: share(value, ".1f")))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
        _titles(figure, axes, size, "confidence", "records, log scale" if logarithmic else "records")
        return to_svg(figure, "Records by confidence")


def draw_calibration(bins: Sequence[Bin], size: tuple[float, float]) -> str:
    """Share of right labels over confidence, by tenths of the records."""
    with canvas(size, "calibration") as figure:
        axes = axes_within(figure, _MARGINS)
        low = min([0.5, *(b.share.low for b in bins), *(b.confidence for b in bins)])
        axes.plot([low, 1], [low, 1], color=COLOURS["faint"], lw=1, ls="--")
        for number, found in enumerate(bins):
            x = found.confidence
            axes.plot([x, x], [found.share.low, found.share.high], color=COLOURS["blue"], lw=1.3)
            axes.plot(
                x, found.share.mean, "o", ms=6.5, color=COLOURS["blue"], gid=f"point-{number}", clip_on=False
            )
        ticks = [t / 10 for t in range(11) if t / 10 >= low - 0.05]
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(FixedLocator(ticks))
            axis.set_major_formatter(FuncFormatter(lambda value, _: share(value, ".1f")))
        axes.set_xlim(low - 0.02, 1.02)
        axes.set_ylim(low - 0.02, 1.02)
        told = [
            f"confidence {b.share.name}: mean {share(b.confidence)}, right {share(b.share.mean)} "
            f"[{share(b.share.low)}, {share(b.share.high)}], {b.share.records:,} records"
            for b in bins
        ]
        _titles(figure, axes, size, "confidence", "share of right labels")
        return to_svg(figure, "Share of right labels over confidence", told)


def _titles(figure: Figure, axes: Axes, size: tuple[float, float], below: str, beside: str) -> None:
    axes.set_xlabel(below, color=COLOURS["faint"])
    figure.text(4, size[1] - 12, beside, color=COLOURS["faint"], transform=None)


def _short(value: float) -> str:
    """As in "1.5 M"."""
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
