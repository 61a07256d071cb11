"""Progress messages of a worker, so that no run waits forever and every lost row is known.

A worker announces rows before it processes them. If it dies, its last message shows where. If it makes no
progress it ends itself, because nothing else could interrupt a call that hangs.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
import ray

from mmray.coverage import Missing
from mmray.drift import Counts
from mmray.errors import one_line
from mmray.pipeline.plan import Unit
from mmray.pipeline.snapshot import End, Message, Place

MeterHandle = Any  # a Ray actor handle of mmray.pipeline.meter.Meter; Ray gives it no type

AHEAD = 2  # blocks that are read while one is processed: one ready, one being read

_EVERY_S = 1.0  # interval of messages if no rows have to be announced
_REACH_ROWS = 1_000  # rows that are announced beyond the current ones

_TELL_S = 5.0  # for the last message of a worker that ends itself
_HELD_S = 2.0  # after that: in case the hanging call lets no other thread run
_ASK_S = 2.0  # between two checks whether the node will shut down; spot machines give 30 s notice or more


def places_of(rows: pa.Table, ahead: int = 0) -> tuple[Place, ...]:
    """The ranges of a table's rows, by shard.

    Args:
        rows: with the columns ``shard``, ``row`` and ``offset``; those of a shard in order.
        ahead: rows after the last that may be read meanwhile.
    """
    if not rows.num_rows:
        return ()
    places, rows = [], rows.select(["shard", "row", "offset"])
    for shard in pc.unique(rows["shard"]).to_pylist():
        own = rows.filter(pc.equal(rows["shard"], shard))
        first, last = own["row"][0].as_py(), own["row"][-1].as_py()
        places.append(Place(shard, Missing(first, last + ahead, own["offset"][0].as_py())))
    return tuple(places)


def beginning(unit: Unit, block_rows: int) -> tuple[Place, ...]:
    """Rows of a unit that are read before the first message."""
    shard, (row, _, start) = unit[0].shard, unit[0].wanted[0]
    return (Place(shard.id, Missing(row, row + (1 + AHEAD) * block_rows - 1, start)),)


class Reporter:
    """Tells the meter what a worker is doing; ends the process if it makes no progress.

    A message for each step of each block would be thousands a second at the head node. So rows are announced
    a thousand ahead, and finished work is reported in the same message, or once a second.

    Args:
        meter: a handle of the run's meter.
        stall_s: seconds without a row after which the process ends.
    """

    def __init__(self, meter: MeterHandle, stall_s: float) -> None:
        self.meter = meter
        self.sure = False  # whether to send each step and wait for its arrival: it may be the last message
        self._stall_s = stall_s
        self._name = uuid4().hex
        self._deadline: float | None = None
        self._changed = threading.Condition()
        self._watch: threading.Thread | None = None
        self._node = ray.get_runtime_context().get_node_id()
        self._leaving, self._asked = False, monotonic()
        self._answer: Any = None  # pending answer whether this node will shut down
        self._announced: dict[str, Missing] = {}
        self._stage = self._told_stage = ""
        self._told_at = 0.0
        self._counts: Counter[str] = Counter()
        self._occupied: Counter[str] = Counter()
        self._device = ""
        self._seen: Counts | None = None

    def is_leaving(self) -> bool:
        """Whether this node will shut down soon: then open parts are written, and the rest is left to others.

        Uses the meter's latest answer, because waiting for a busy meter is not worth it.
        """
        if self._answer is None and monotonic() - self._asked >= _ASK_S:
            self._asked, self._answer = monotonic(), self.meter.is_leaving.remote(self._node)
        elif self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
            with suppress(ray.exceptions.RayError):
                self._leaving = ray.get(self._answer)
            self._answer = None
        return self._leaving

    @contextmanager
    def working(self, stage: str, places: tuple[Place, ...] = ()) -> Iterator[None]:
        """While the body runs, its rows are suspect; an exception in it ends the run.

        If memory runs out the process ends itself: a record may be the cause, and `isolate` will find it.
        """
        self._stage = stage
        self._announce(places)
        self.move()
        try:
            yield
        except MemoryError:
            self._end("out of memory")
        except Exception as e:  # any error: bad data become rejects, so this is not a record's fault
            self.meter.break_off.remote(one_line(e))
            raise
        finally:
            self.rest()
            # Wait for it: else a finished worker could seem lost when the run asks for lost ones.
            with suppress(ray.exceptions.RayError):
                with self._changed:
                    left = self.meter.leave.remote(self._name, self._news())
                ray.get(left)

    def enter(self, stage: str, places: tuple[Place, ...] = ()) -> None:
        """A stage begins with these rows; None: with those of the previous stage."""
        self._stage = stage
        if self.sure:
            self._announce(places or None)
        elif not all(self._is_announced(place) for place in places):
            self._announce(tuple(_reaching(place) for place in places))

    def add(
        self,
        counts: Mapping[str, float],
        occupied: Mapping[str, float] | None = None,
        device: str = "",
        seen: Counts | None = None,
    ) -> None:
        """Rows are done: progress. The arguments are those of `Meter.add`."""
        with self._changed:
            self._counts.update(counts)
            self._occupied.update(occupied or {})
            self._device = device or self._device
            if seen is not None:
                self._seen = seen if self._seen is None else self._seen + seen
        self.move()

    def tell(self) -> None:
        """Send pending messages, if any."""
        with self._changed:
            if self._counts or self._occupied or self._seen is not None or self._stage != self._told_stage:
                self.meter.tell.remote(self._name, self._news())

    def move(self) -> None:
        """There is progress: reset the timer."""
        with self._changed:
            self._deadline = monotonic() + self._stall_s
            if self._watch is None:
                self._watch = threading.Thread(target=self._end_when_still, name="liveness", daemon=True)
                self._watch.start()
        faulthandler.dump_traceback_later(
            self._stall_s + _TELL_S + _HELD_S, exit=True, file=sys.__stderr__ or sys.stderr
        )

    def rest(self) -> None:
        """From now on the worker waits for others."""
        faulthandler.cancel_dump_traceback_later()
        with self._changed:
            self._deadline = None
            self._changed.notify()

    def _announce(self, places: tuple[Place, ...] | None) -> None:
        """Announce the next rows; None: the same as before."""
        with self._changed:
            if places is not None:
                self._announced = {place.shard: place.rows for place in places}
            told = self.meter.tell.remote(self._name, self._news(places))
        if self.sure:
            with suppress(ray.exceptions.RayError):
                ray.get(told, timeout=_TELL_S)

    def _is_announced(self, place: Place) -> bool:
        told, rows = self._announced.get(place.shard), place.rows
        return told is not None and told.first <= rows.first and (rows.last or 0) <= (told.last or 0)

    def _news(self, places: tuple[Place, ...] | None = None) -> Message:
        """Take the unreported counts; call it with the lock held."""
        message = Message(self._stage, places, self._counts, self._occupied, self._device, self._seen)
        self._counts, self._occupied, self._seen = Counter(), Counter(), None
        self._told_stage, self._told_at = self._stage, monotonic()
        return message

    def _end_when_still(self) -> None:
        with self._changed:
            while self._deadline is not None and (left := self._deadline - monotonic()) > 0:
                self._changed.wait(min(left, _EVERY_S))
                if monotonic() - self._told_at >= _EVERY_S:
                    self.tell()
            if self._deadline is None:  # a worker process has many tasks: no thread may be left of any
                self._watch = None
                return
        self._end("hung")

    def _end(self, how: End) -> None:
        with suppress(ray.exceptions.RayError, MemoryError):
            ray.get(self.meter.give_up.remote(self._name, how, self._stage), timeout=_TELL_S)
        faulthandler.dump_traceback(file=sys.__stderr__ or sys.stderr)
        os.kill(os.getpid(), signal.SIGKILL)


def _reaching(place: Place) -> Place:
    """The same rows, extended by those that may be processed before the next message."""
    return place._replace(rows=place.rows._replace(last=(place.rows.last or 0) + _REACH_ROWS))
