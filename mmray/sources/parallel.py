"""Many small requests to disks and stores in parallel: each mostly waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

THREADS = 32
_BATCH = 32  # items that a thread takes at a time, at most: a million futures would take a gigabyte

T = TypeVar("T")
R = TypeVar("R")


def in_parallel(ask: Callable[[T], R], items: Sequence[T], threads: int = THREADS) -> Iterator[R]:
    """The result for each item, in order. The first exception is raised, and the rest is cancelled."""
    size = max(1, min(_BATCH, len(items) // (4 * threads)))
    batches = [items[i : i + size] for i in range(0, len(items), size)]
    pool = ThreadPoolExecutor(threads)
    try:
        for answers in pool.map(lambda batch: [ask(item) for item in batch], batches):
            yield from answers
    finally:
        pool.shutdown(cancel_futures=True)
