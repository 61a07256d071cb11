"""A device shared by several threads: they take turns, and waiting and busy times are recorded.

While one thread's batch is on the device, another packs its next one and copies it there.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from threading import Lock
from time import perf_counter
from typing import NamedTuple

from mmray.engine.nsight import marked


class Turn(NamedTuple):
    """Times of one inference in seconds."""

    waited_s: float  # waiting for the device
    busy_s: float  # the device at work
    planned_s: float  # the device, in its first inference of this shape; else 0, and busy_s is
    wall_s: float  # since the end of the previous inference; for the first one, its own time
    changed: bool  # whether the shape differs from that of the previous inference


class Device:
    """Runs one inference at a time. Its busy fraction is the sum of `busy_s` over that of `wall_s`."""

    def __init__(self) -> None:
        self._turn = Lock()
        self._ended: float | None = None
        self._seen: set[Hashable] = set()
        self._latest: Hashable = None

    def run(self, infer: Callable[[], None], shape: Hashable = None) -> Turn:
        """Run a batch when its turn has come.

        Args:
            infer: runs it, and returns when the device has finished.
            shape: of the batch, on a device that plans for each; None on a CPU.
        """
        asked = perf_counter()
        with self._turn:
            begun = perf_counter()
            with marked(f"compute {shape}" if shape else "compute"):
                self.work(infer, shape, changed=shape != self._latest)
            ended = perf_counter()
            since = begun if self._ended is None else self._ended
            is_new = shape is not None and shape not in self._seen
            changed = shape is not None and shape != self._latest
            self._ended, self._latest = ended, shape
            self._seen.add(shape)
        took = ended - begun
        return Turn(begun - asked, 0.0 if is_new else took, took if is_new else 0.0, ended - since, changed)

    def copy(self, move: Callable[[], None], size: int) -> float:
        """Copy `size` bytes to the device or back, at any time; returns the seconds that it took."""
        start = perf_counter()
        with marked("copy"):
            self.move(move, size)
        return perf_counter() - start

    def work(self, infer: Callable[[], None], shape: Hashable, *, changed: bool) -> None:  # noqa: ARG002
        """Run a batch now. A stand-in for a device takes longer."""
        infer()

    def move(self, move: Callable[[], None], size: int) -> None:  # noqa: ARG002
        """Copy now. A stand-in for a device takes longer."""
        move()
