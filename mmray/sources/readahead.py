"""Read the next blocks while this one is worked on."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def readahead(items: Iterable[T], depth: int = 1) -> Iterator[T]:
    """Iterate in a thread of its own, at most `depth` items ahead of the consumer.

    An exception of the iterable is raised where the consumer meets it. A consumer that stops early lets the
    thread go.
    """
    ready: queue.Queue[tuple[bool, T | BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(message: tuple[bool, T | BaseException | None]) -> bool:
        while not stopped.is_set():
            try:
                ready.put(message, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def produce() -> None:
        try:
            for item in items:
                if not put((True, item)):
                    return
        except BaseException as e:  # the consumer raises it
            put((False, e))
        else:
            put((False, None))

    thread = threading.Thread(target=produce, name="readahead", daemon=True)
    thread.start()
    try:
        while True:
            more, item = ready.get()
            if more:
                yield item  # type: ignore[misc]  # an item, not an exception, comes with True
            elif item is not None:
                raise item  # type: ignore[misc]
            else:
                return
    finally:
        stopped.set()
        thread.join()
