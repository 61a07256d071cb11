"""Read the next blocks while this one is processed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def readahead(items: Iterable[T], depth: int = 1) -> Iterator[T]:
    """Iterate in a separate thread, at most `depth` items ahead of the consumer, and one being made.

    An exception of the iterable is raised at its place in the consumer. If the consumer stops early, the
    thread ends.
    """
    iterator = iter(items)
    end: Any = object()
    with ThreadPoolExecutor(1, "readahead") as thread:
        ahead = deque(thread.submit(next, iterator, end) for _ in range(depth + 1))
        try:
            while (item := ahead.popleft().result()) is not end:
                ahead.append(thread.submit(next, iterator, end))
                yield item
        finally:
            thread.shutdown(cancel_futures=True)
