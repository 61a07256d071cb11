"""Read the next blocks while this one is worked on."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def readahead(items: Iterable[T], depth: int = 1) -> Iterator[T]:
    """Iterate in a thread of its own, at most `depth` items ahead of the consumer, and one in the making.

    An exception of the iterable is raised where the consumer meets it. A consumer that stops early lets the
    thread go.
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
