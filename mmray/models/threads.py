"""Threads of torch: one for each operator; the cores work on different batches.

Operators on several threads wait at a barrier many times in a batch, so one busy core slows all of them down.
Encoding 100 stamps on two cores, alternating: 3.4 s with several threads and 3.1 s with one while the cores
were free; 85 s and 28 s at a load of 9.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

In = TypeVar("In")
Out = TypeVar("Out")


@contextmanager
def one_thread() -> Iterator[None]:
    """Operators use one thread inside the body; the order of sums is fixed, so results are reproducible."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def map_in_order(function: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
    """Results in the order of the items, on as many Python threads as torch may use, one for each operator.

    Only a few items are drawn ahead, so `items` may be larger than the memory.
    """
    workers = torch.get_num_threads()
    waiting: deque[Future[Out]] = deque()
    with one_thread(), ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
