"""Load items in threads, in order, with a bounded number and size ahead of the consumer."""

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
    """Each item with its loaded value, in order.

    An exception of `load` is raised in place of its item. If the consumer stops early, the threads end.

    Args:
        items: consumed in the caller's thread.
        load: called in the threads.
        cost: estimated bytes of an item before it is loaded.
        size: bytes of a loaded value.
        threads: number of threads.
        most: bytes of all values loading or loaded but not consumed; one item is always allowed.
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
