"""Accuracy over milliseconds a record as inline SVG: the same points give the same bytes.

Colours are CSS variables of the page, so that one drawing works in light and dark mode; shapes mean the same.
Text stays text. Needs matplotlib.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.ticker import FixedLocator, FormatStrFormatter, FuncFormatter, MaxNLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from mmray.page.drawing import COLOURS, axes_within, canvas, to_svg
from mmray.page.table import share
from mmray.scorecards.cards import Accuracy, Point
from mmray.scorecards.labels import Box, place

_COLOUR = {"modality": COLOURS["grey"], "variant": COLOURS["blue"], "cascade": COLOURS["orange"]}
_MARKER = {"modality": "o", "variant": "s", "cascade": "D"}
_FAR = 0.25  # points further below the best than this are drawn at the lower edge, with their value
_LOGARITHMIC = 6.0  # logarithmic axis from this ratio of the slowest to the fastest
_LONGEST = 40  # characters of a name
_DODGE = 6.0  # offset of the test result to the right, in points


@dataclass(frozen=True)
class Frame:
    """Ranges of the axes. Bundles that are shown side by side share them."""

    ms: tuple[float, float]
    accuracy: tuple[float, float]
    logarithmic: bool

    @classmethod
    def around(cls, points: Sequence[Point]) -> Frame:
        """The frame that fits the points, at least one."""
        fastest, slowest = min(p.ms for p in points), max(p.ms for p in points)
        logarithmic = slowest / fastest >= _LOGARITHMIC
        results = [result for p in points for result in (p, p.test) if result]
        floor = max(p.accuracy for p in points) - _FAR
        low = min(r.low for r in results if r.accuracy >= floor)
        high = max(r.high for r in results)
        margin = max(0.01, 0.06 * (high - low))
        return cls(
            (fastest / 1.35, slowest * 1.35) if logarithmic else (0.0, slowest * 1.12),
            (max(0.0, low - margin), min(1.0 + margin / 2, high + margin)),
            logarithmic,
        )


def draw(points: Sequence[Point], labels: Sequence[str], frame: Frame, size: tuple[float, float]) -> str:
    """An `<svg>` of at least one point.

    Args:
        points: of one bundle.
        labels: of each point. A cascade's settings that were not chosen are only part of its curve.
        frame: what to show.
        size: width and height, in points.
    """
    with canvas(size, str(labels)) as figure:
        axes = axes_within(figure, (44, 12, 42, 22))
        _prepare(axes, frame, size[1])
        cascades = sorted((p for p in points if p.kind == "cascade"), key=lambda p: p.ms)
        # A line through expected values; the chosen setting was measured and is drawn where it was measured.
        curve = [p for p in cascades if not p.chosen]
        _draw_curve(axes, curve)
        named = [(p, label) for p, label in zip(points, labels, strict=True) if _stands_alone(p)]
        for i, (point, _) in enumerate(named):
            _draw_point(axes, point, f"point-{i}", frame)
        nameless = [(curve[len(curve) // 2], "cascade, none chosen")] if curve else []
        has_chosen = any(point.chosen for point in cascades)
        _draw_labels(axes, curve, named if has_chosen else named + nameless, frame)
        told = [_tooltip(point, label) for point, label in named]
        return to_svg(figure, "Accuracy against milliseconds a record", told)


def _stands_alone(point: Point) -> bool:
    return point.kind != "cascade" or point.chosen


def _prepare(axes: Axes, frame: Frame, height: float) -> None:
    """Limits, ticks, grid and titles."""
    low, high = frame.ms
    if frame.logarithmic:
        axes.set_xscale("log")
        steps = [m * 10.0**e for e in range(-4, 7) for m in (1, 2, 5)]
        axes.xaxis.set_major_locator(FixedLocator([step for step in steps if low <= step <= high]))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlim(low, high)
    axes.set_ylim(*frame.accuracy)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: share(value, ".2f")))
    scale = ", log scale" if frame.logarithmic else ""
    axes.set_xlabel(f"milliseconds a record{scale}", color=COLOURS["faint"])
    axes.figure.text(4, height - 12, "accuracy", color=COLOURS["faint"], transform=None)


def _draw_curve(axes: Axes, curve: Sequence[Point]) -> None:
    """A line through the settings of a cascade, in a band of their intervals."""
    colour, ms = _COLOUR["cascade"], [p.ms for p in curve]
    low, high = [p.low for p in curve], [p.high for p in curve]
    axes.fill_between(ms, low, high, color=colour, alpha=0.13, lw=0, zorder=1)
    axes.plot(ms, [p.accuracy for p in curve], color=colour, lw=1.6, marker=".", ms=5, zorder=3)


def _draw_point(axes: Axes, point: Point, identity: str, frame: Frame) -> None:
    """A filled mark for the split that was tuned on; beside it a hollow one for the test."""
    colour = _COLOUR[point.kind]
    if point.accuracy < frame.accuracy[0]:
        edge = frame.accuracy[0]
        axes.plot(
            point.ms, edge, ls="none", marker=7, ms=9, color=colour, clip_on=False, zorder=5, gid=identity
        )
        return
    _draw_mark(axes, point.ms, point, point, colour, identity)
    if point.test:
        _draw_mark(axes, point.ms, point, point.test, COLOURS["page"], f"{identity}-test", _DODGE)


def _draw_mark(
    axes: Axes, ms: float, point: Point, result: Accuracy, fill: str, identity: str, dodge: float = 0.0
) -> None:
    colour = _COLOUR[point.kind]
    moved = axes.transData + ScaledTranslation(dodge / 72, 0, axes.figure.dpi_scale_trans)
    axes.plot([ms, ms], [result.low, result.high], color=colour, lw=1.1, transform=moved, zorder=4)
    axes.plot(
        ms, result.accuracy, ls="none", marker=_MARKER[point.kind], ms=9 if point.chosen else 6.5,
        mfc=fill, mec=colour, mew=1.4, transform=moved, zorder=6 if point.chosen else 5, gid=identity,
    )  # fmt: skip


def _draw_labels(
    axes: Axes, curve: Sequence[Point], named: Sequence[tuple[Point, str]], frame: Frame
) -> None:
    """A name at every mark, placed where it covers as little as possible."""
    renderer = FigureCanvasAgg(axes.figure).get_renderer()
    texts, anchors = [], []
    marks: list[Box] = []
    lines: list[Box] = []
    for point, label in named:
        x, y = axes.transData.transform((point.ms, max(point.accuracy, frame.accuracy[0])))
        told = label if len(label) <= _LONGEST else label[: _LONGEST - 1] + "…"
        if point.accuracy < frame.accuracy[0]:
            told += f", {share(point.accuracy, '.2f')}"
        text = axes.text(
            0, 0, told, color=_COLOUR[point.kind], weight="bold" if point.chosen else "normal",
            transform=None, parse_math=False, va="center", ha="center", zorder=8,
        )  # fmt: skip
        texts.append(text)
        anchors.append((x, y))
        marks += _marks(axes, point, x, y)
        lines += _bars(axes, point)
    for (x0, y0), (x1, y1) in pairwise(axes.transData.transform((p.ms, p.accuracy)) for p in curve):
        lines += [Box.at(x0 + (x1 - x0) * t, y0 + (y1 - y0) * t, 6, 6) for t in (0, 0.25, 0.5, 0.75)]
    sizes = [(box.width, box.height) for box in (text.get_window_extent(renderer) for text in texts)]
    whole = axes.get_window_extent(renderer)
    room = Box(whole.x0, whole.y0, whole.x1 + 8, whole.y1 + 4)
    for text, (x, y), box in zip(texts, anchors, place(anchors, sizes, marks, lines, room), strict=True):
        text.set_position(box.middle)
        nearest = box.nearest(x, y)
        if (nearest[0] - x) ** 2 + (nearest[1] - y) ** 2 > 14**2:
            axes.plot(
                [x, nearest[0]], [y, nearest[1]], color=COLOURS["faint"], lw=0.6, transform=None, zorder=2,
                clip_on=False,
            )  # fmt: skip


def _marks(axes: Axes, point: Point, x: float, y: float) -> Iterator[Box]:
    """Boxes of a point's marks."""
    yield Box.at(x, y, 10, 10)
    if point.test:
        tested = axes.transData.transform((point.ms, point.test.accuracy))
        yield Box.at(tested[0] + _DODGE, tested[1], 9, 9)


def _bars(axes: Axes, point: Point) -> Iterator[Box]:
    """Boxes of its interval bars."""
    for result, dodge in ((point, 0.0), (point.test, _DODGE)):
        if result:
            (x, low), (_, high) = axes.transData.transform([(point.ms, result.low), (point.ms, result.high)])
            yield Box(x + dodge - 1.5, low, x + dodge + 1.5, high)


def _tooltip(point: Point, label: str) -> str:
    """The tooltip of a mark."""
    tested = f"; {_result(point.test, 'test')}" if point.test else ""
    return f"{label}: {point.ms:.1f} ms, {_result(point, point.split)}{tested}"


def _result(found: Accuracy, split: str) -> str:
    return (
        f"{share(found.accuracy)} [{share(found.low)}, {share(found.high)}] on {split} "
        f"({found.records:,} records in {found.groups:,} groups)"
    )
