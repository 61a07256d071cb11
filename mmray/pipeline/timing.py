"""Seconds by stage, as workers count them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TypeVar

T = TypeVar("T")
_END = object()


def drain(*counters: Counter[str]) -> dict[str, float]:
    """Take the sums of the counters, and clear them."""
    taken: dict[str, float] = {}
    for counter in counters:
        for name, number in counter.items():
            taken[name] = taken.get(name, 0) + number
        counter.clear()
    return taken


@contextmanager
def measured(seconds: Counter[str], stage: str) -> Iterator[None]:
    """Add the seconds that the body takes to a stage."""
    start = perf_counter()
    try:
        yield
    finally:
        seconds[stage] += perf_counter() - start  # type: ignore[assignment]  # floats, too


def timed(items: Iterable[T], seconds: Counter[str], stage: str) -> Iterator[T]:
    """Iterate, adding the seconds of waiting for each item to a stage."""
    iterator = iter(items)
    while True:
        with measured(seconds, stage):
            item = next(iterator, _END)
        if item is _END:
            return
        yield item  # type: ignore[misc]
