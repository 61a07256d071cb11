"""Load things in threads, a bounded number and amount ahead of whoever takes them, in their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_order(
    items: Iterable[T], load: Callable[[T], R], cost: Callable[[T], int], *, threads: int, most: int
) -> Iterator[tuple[T, R]]:
    """Each item with what was loaded for it, in order.

    What `load` raises is raised where its item would come. A consumer that stops early lets the threads go.

    Args:
        items: are taken by the caller's thread.
        load: is called in the threads.
        cost: bytes that an item may take.
        threads: that load.
        most: bytes of all that is loaded and not taken; one item goes always.
    """
    waiting: deque[tuple[T, int, Future[R]]] = deque()
    held = 0
    pool = ThreadPoolExecutor(threads, "ahead")
    try:
        for item in items:
            size = cost(item)
            while waiting and (held + size > most or len(waiting) >= 2 * threads):
                first, done, future = waiting.popleft()
                held -= done
                yield first, future.result()
            waiting.append((item, size, pool.submit(load, item)))
            held += size
        while waiting:
            first, _, future = waiting.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)
