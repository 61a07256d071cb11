"""Intervals of rows of shards: the arithmetic of exactly-once.

An interval is (first row, last row, offset just past the last row), so that a reader that continues after it
can seek instead of reading finished rows. Offsets are defined by the shard's reader: bytes of a tar, entries
of an LMDB.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import NamedTuple


class Interval(NamedTuple):
    """Consecutive rows of one shard, both ends included."""

    first: int
    last: int
    stop: int  # offset just past the last row

    @property
    def rows(self) -> int:
        return self.last - self.first + 1


class Missing(NamedTuple):
    """Rows of one shard that are still to be read."""

    first: int
    last: int | None  # None: to the end of the shard
    start: int  # offset of `first`, where `first` > 0


WHOLE = Missing(0, None, 0)


def merge(intervals: Iterable[Interval]) -> list[Interval]:
    """Sort, and join those that touch or overlap."""
    merged: list[Interval] = []
    for interval in sorted(intervals):
        if merged and interval.first <= merged[-1].last + 1:
            last = max(merged[-1], interval, key=lambda i: i.last)
            merged[-1] = Interval(merged[-1].first, last.last, last.stop)
        else:
            merged.append(interval)
    return merged


def overlaps(done: list[Interval], interval: Interval) -> bool:
    """Whether an interval shares a row with merged ones."""
    after = bisect_left(done, interval.first, key=lambda i: i.last)
    return after < len(done) and done[after].first <= interval.last


def insert(done: list[Interval], interval: Interval) -> None:
    """Add an interval that overlaps none, in place, joining it with those that it touches."""
    index = bisect_left(done, interval.first, key=lambda i: i.last)
    if index < len(done) and done[index].first == interval.last + 1:
        after = done.pop(index)
        interval = Interval(interval.first, after.last, after.stop)
    if index and done[index - 1].last + 1 == interval.first:
        index -= 1
        interval = Interval(done.pop(index).first, interval.last, interval.stop)
    done.insert(index, interval)


def missing(done: Iterable[Interval], total: int | None) -> list[Missing]:
    """The gaps between and after finished intervals.

    Args:
        done: merged intervals of one shard.
        total: rows of the shard, once its end was seen.
    """
    gaps: list[Missing] = []
    row = start = 0
    for interval in done:
        if interval.first > row:
            gaps.append(Missing(row, interval.first - 1, start))
        row, start = interval.last + 1, interval.stop
    if total is None:
        gaps.append(Missing(row, None, start))
    elif row < total:
        gaps.append(Missing(row, total - 1, start))
    return gaps


def of_rows(rows: Iterable[tuple[int, int]]) -> list[Interval]:
    """Intervals of single rows given as (row, offset just past it), in any order."""
    return merge(Interval(row, row, stop) for row, stop in rows)
