"""A plot of quality against time as inline SVG, coloured by the page's CSS: which variants are worth it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 720, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 160, 20, 50  # margins; names stand to the right of their points
_LINE = 15  # height of a name
_FAR = 0.1  # a failed variant further below the others than this is drawn at the lower edge


@dataclass(frozen=True)
class Point:
    """A variant: small `ms` and large `quality` are good."""

    name: str
    side: str  # CSS class of its colour
    ms: float
    quality: float
    passed: bool


def front(points: Sequence[Point]) -> list[Point]:
    """The passing points that no other passing one beats in both respects, the fastest first."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.ms, -p.quality)):
        if point.passed and (not best or point.quality > best[-1].quality):
            best.append(point)
    return best


def draw(points: Sequence[Point], quality: str) -> str:
    """SVG of the points and their front; a sentence where there is nothing to draw.

    Args:
        points: variants that were timed and judged.
        quality: title of the vertical axis.
    """
    if not points:
        return "<p>Nothing was timed: <code>mmray optimize</code> does.</p>"
    axes = _Axes(points)
    placed = sorted(points, key=lambda p: (axes.y(p.quality), p.ms))
    names_y = _spread([axes.y(p.quality) for p in placed])
    marks = [_mark(p, axes.x(p.ms), axes.y(p.quality), y) for p, y in zip(placed, names_y, strict=True)]
    return "".join(
        [
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(quality)} against time">',
            *axes.lines(quality),
            _front_line(front(points), axes),
            *marks,
            "</svg>",
        ]
    )


class _Axes:
    """Milliseconds from 0, and the range of quality that the passing points need."""

    def __init__(self, points: Sequence[Point]) -> None:
        top = max(p.quality for p in points)
        floor = min((p.quality for p in points if p.passed), default=top) - _FAR
        low = min(p.quality for p in points if p.quality >= floor)
        margin = max(0.01, 0.15 * (top - low))
        self._y_ticks = _ticks(max(0.0, low - margin), min(1.0, top + margin))
        self._x_ticks = _ticks(0.0, max(p.ms for p in points))

    def x(self, ms: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * ms / self._x_ticks[-1]

    def y(self, quality: float) -> float:
        """Qualities below the axis lie on its lower edge."""
        low, high = self._y_ticks[0], self._y_ticks[-1]
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - max(low, quality)) / (high - low)

    def lines(self, quality: str) -> list[str]:
        """Grid, ticks and titles."""
        right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
        decimals = max(0, -math.floor(math.log10(self._y_ticks[1] - self._y_ticks[0]) + 1e-9))
        across = [
            f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{self.y(q):.1f}" y2="{self.y(q):.1f}"/>'
            f'<text class="faint" x="{_LEFT - 8}" y="{self.y(q) + 4:.1f}" text-anchor="end">'
            f"{q:.{decimals}f}</text>"
            for q in self._y_ticks
        ]
        along = [
            f'<text class="faint" x="{self.x(ms):.1f}" y="{bottom + 18}" text-anchor="middle">{ms:g}</text>'
            for ms in self._x_ticks
        ]
        middle = (_LEFT + right) / 2
        titles = [
            f'<text class="faint" x="{middle}" y="{bottom + 38}" text-anchor="middle">'
            "milliseconds a record, in batches, one thread</text>",
            f'<text class="faint" x="{_LEFT}" y="{_TOP - 8}">{escape(quality.lower())}</text>',
        ]
        return [*across, *along, *titles]


def _ticks(low: float, high: float) -> list[float]:
    """Four to nine round values around a range (Heckbert 1990, "Nice numbers for graph labels")."""
    span = max(high - low, 1e-6)
    rough = span / 5
    power = 10 ** math.floor(math.log10(rough))
    step = power * next(f for f in (1, 2, 5, 10) if f * power >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(i * step, 10) for i in range(first, last + 1)]


def _spread(wanted: Sequence[float]) -> list[float]:
    """Heights of names, from the top, near where they are wanted and not over each other."""
    placed: list[float] = []
    for y in wanted:
        placed.append(max(y, placed[-1] + _LINE) if placed else y)
    overhang = placed[-1] - (_HEIGHT - _BOTTOM)
    for i in reversed(range(len(placed))):
        if overhang <= 0:
            break
        placed[i] = min(placed[i], _HEIGHT - _BOTTOM - _LINE * (len(placed) - 1 - i))
    return placed


def _mark(point: Point, x: float, y: float, name_y: float) -> str:
    """Filled where it passed, hollow and crossed where it failed; a thin line leads to its name."""
    name_x = _WIDTH - _RIGHT + 12
    told = f"{point.name}: {point.quality:.3f}, {point.ms:.1f} ms"
    shape = (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="currentColor"/>'
        if point.passed
        else f'<path class="cross" d="M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8"/>'
    )
    return (
        f'<g class="{escape(point.side)}"><title>{escape(told)}</title>{shape}'
        f'<path class="lead" d="M{x + 7:.1f} {y:.1f}L{name_x - 4} {name_y:.1f}"/>'
        f'<text x="{name_x}" y="{name_y + 4:.1f}">{escape(point.name)}</text></g>'
    )


def _front_line(best: Sequence[Point], axes: _Axes) -> str:
    """Steps along the best that there is for each time."""
    if len(best) < 2:
        return ""
    x, y = axes.x(best[0].ms), axes.y(best[0].quality)
    steps = "".join(f"H{axes.x(p.ms):.1f}V{axes.y(p.quality):.1f}" for p in best[1:])
    return f'<path class="front" d="M{x:.1f} {y:.1f}{steps}"/>'
