"""The progress of a run over time: points in events.jsonl, few enough for a run of weeks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any

from mmray.pipeline.rundir import RunDirectory
from mmray.pipeline.snapshot import Snapshot

EVENT, DRIFT = "progress", "drift"
_LEAST_S = 2.0  # between two points, and this share of the time that has passed: 700 in a day, 900 in a week
_SHARE = 1 / 110


class Progress:
    """Passes counts on, and writes some of them.

    Args:
        out: the run directory.
        tell: gets the counts each time.
        clock: seconds.
    """

    def __init__(
        self, out: RunDirectory, tell: Callable[[Snapshot], None], clock: Callable[[], float] = monotonic
    ) -> None:
        self._out = out
        self._tell = tell
        self._clock = clock
        self._began = self._next = -1.0
        self._warned = False

    def __call__(self, snapshot: Snapshot) -> None:
        self._tell(snapshot)
        self._warn(snapshot)
        now = self._clock()
        if self._began < 0:
            self._began, self._next = now, now + _LEAST_S
        if now >= self._next:
            self._next = now + max(_LEAST_S, _SHARE * (now - self._began))
            self.write(snapshot)

    def write(self, snapshot: Snapshot) -> None:
        """Write a point. It is skipped if it cannot or may no longer be written: a run does not need it."""
        self._warn(snapshot)
        devices = {"device_busy": round(snapshot.device_busy, 4)} if snapshot.devices else {}
        self._log(EVENT, rows=int(snapshot.rows), rejects=int(snapshot.rejects), **devices)

    def _warn(self, snapshot: Snapshot) -> None:
        """Write a drift event, once."""
        if snapshot.drift and snapshot.drift.alarm and not self._warned:
            self._warned = True
            self._log(DRIFT, **snapshot.drift.to_json())

    def _log(self, event: str, **figures: Any) -> None:  # noqa: ANN401  (as JSON has it)
        with suppress(OSError):
            lease = self._out.lease
            if lease is None or lease.exists():
                self._out.log(event, **figures)
