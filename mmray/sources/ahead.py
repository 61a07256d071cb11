"""Load things in threads, a bounded number and amount ahead of whoever takes them, in their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_order(
    items: Iterable[T],
    load: Callable[[T], R],
    cost: Callable[[T], int],
    size: Callable[[R], int],
    *,
    threads: int,
    most: int,
) -> Iterator[tuple[T, R]]:
    """Each item with what was loaded for it, in order.

    What `load` raises is raised where its item would come. A consumer that stops early lets the threads go.

    Args:
        items: are taken by the caller's thread.
        load: is called in the threads.
        cost: bytes that an item is thought to take, before it is loaded.
        size: bytes that it takes.
        threads: that load.
        most: bytes of all that is loaded or loading, and not taken; one item goes always.
    """
    waiting: deque[tuple[T, Future[R]]] = deque()

    def held() -> int:
        done = (future.done() and not future.exception() for _, future in waiting)
        return sum(size(f.result()) if d else cost(item) for d, (item, f) in zip(done, waiting, strict=True))

    pool = ThreadPoolExecutor(threads, "ahead")
    try:
        for item in items:
            while waiting and (len(waiting) >= 2 * threads or held() + cost(item) > most):
                first, future = waiting.popleft()
                yield first, future.result()
            waiting.append((item, pool.submit(load, item)))
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)
