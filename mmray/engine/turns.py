"""A device that several threads share: they take turns, and what they wait and what it works is told.

While one thread's batch is on the device, another prepares its next one.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from time import perf_counter
from typing import NamedTuple

from mmray.batching import Feeds


class Turn(NamedTuple):
    """One inference, and its times in seconds."""

    outputs: Feeds
    waited_s: float  # for the device to become free
    busy_s: float  # of the device
    wall_s: float  # since it ended the inference before; of its first one, as busy_s


class Device:
    """Runs one inference at a time. Its busy fraction is the sum of `busy_s` over that of `wall_s`."""

    def __init__(self) -> None:
        self._turn = Lock()
        self._ended: float | None = None

    def run(self, infer: Callable[[Feeds], Feeds], feeds: Feeds) -> Turn:
        """Run a batch when its turn has come."""
        asked = perf_counter()
        with self._turn:
            begun = perf_counter()
            outputs = infer(feeds)
            ended = perf_counter()
            since = begun if self._ended is None else self._ended
            self._ended = ended
        return Turn(outputs, begun - asked, ended - begun, ended - since)
