"""Places the names of a plot's points: near them, not over each other, and over little else."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_DISTANCES = (8.0, 13.0, 20.0, 30.0, 42.0, 56.0, 72.0)
_NEAR = 60.0  # points; a mark with neighbours this near is crowded
_DIRECTIONS = [math.radians(angle) for angle in range(0, 360, 30)]


@dataclass(frozen=True)
class Box:
    """A rectangle, in points from the lower left."""

    x0: float
    y0: float
    x1: float
    y1: float

    @classmethod
    def at(cls, x: float, y: float, width: float, height: float) -> Box:
        """Around a middle."""
        return cls(x - width / 2, y - height / 2, x + width / 2, y + height / 2)

    @property
    def middle(self) -> tuple[float, float]:
        return (self.x0 + self.x1) / 2, (self.y0 + self.y1) / 2

    def holds(self, point: tuple[float, float]) -> bool:
        return self.x0 <= point[0] <= self.x1 and self.y0 <= point[1] <= self.y1

    def overlap(self, other: Box) -> float:
        """Area that both cover."""
        width = min(self.x1, other.x1) - max(self.x0, other.x0)
        height = min(self.y1, other.y1) - max(self.y0, other.y0)
        return max(0.0, width) * max(0.0, height)

    def outside(self, room: Box) -> float:
        """How far it extends beyond a room."""
        return sum(
            max(0.0, d) for d in (room.x0 - self.x0, self.x1 - room.x1, room.y0 - self.y0, self.y1 - room.y1)
        )

    def nearest(self, x: float, y: float) -> tuple[float, float]:
        """Its point that is nearest to another point."""
        return min(max(x, self.x0), self.x1), min(max(y, self.y0), self.y1)


def place(
    anchors: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    marks: Sequence[Box],
    lines: Sequence[Box],
    room: Box,
) -> list[Box]:
    """A place for each name, greedily: those with the least free space around them choose first.

    Args:
        anchors: points that are named.
        sizes: width and height of each name.
        marks: what should stay visible.
        lines: what a name may cover if necessary.
        room: what names should stay within.
    """
    crowd = [sum(math.dist(a, b) < _NEAR for b in anchors) for a in anchors]
    placed: dict[int, Box] = {}
    for i in sorted(range(len(anchors)), key=lambda i: (-crowd[i], i)):
        anchor, names = anchors[i], list(placed.values())

        def cost(box: Box, anchor: tuple[float, float] = anchor, names: Sequence[Box] = names) -> float:
            """The cost of a place, in points of distance from the mark. Two names must never overlap."""
            end = box.nearest(*anchor)
            way = [_between(anchor, end, part) for part in (0.3, 0.5, 0.7, 0.9)]
            met = sum(m.holds(step) and not m.holds(anchor) for m in (*marks, *names) for step in way)
            return (
                100 * sum(box.overlap(name) for name in names)
                + 1000 * box.outside(room)
                + 3 * sum(box.overlap(mark) for mark in marks)
                + 0.4 * sum(box.overlap(line) for line in lines)
                + 30 * met
                + math.dist(anchor, end)
            )

        placed[i] = min(_candidates(anchor, sizes[i]), key=cost)
    return [placed[i] for i in range(len(anchors))]


def _between(a: tuple[float, float], b: tuple[float, float], part: float) -> tuple[float, float]:
    return a[0] + part * (b[0] - a[0]), a[1] + part * (b[1] - a[1])


def _candidates(anchor: tuple[float, float], size: tuple[float, float]) -> Iterator[Box]:
    """Boxes around a point."""
    width, height = size
    for distance in _DISTANCES:
        for angle in _DIRECTIONS:
            along, up = math.cos(angle), math.sin(angle)
            x = anchor[0] + along * (distance + width / 2)
            y = anchor[1] + up * (distance + height / 2)
            yield Box.at(x, y, width, height)
