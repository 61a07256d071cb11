"""What a worker tells of itself, so that rows are never waited for without end, nor lost without a name.

Before a worker touches rows it says which. One that dies can say no more, so what it said last tells where;
one that stands still ends itself, since nothing else could interrupt a call that hangs.
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
from mmray.pipeline.snapshot import End, Place, Told

MeterHandle = Any  # a Ray actor handle of mmray.pipeline.meter.Meter; Ray gives it no type

AHEAD = 2  # blocks that are read while one is worked on: one ready, one in the making

_EVERY_S = 1.0  # what a worker did is told as often as this, where no rows have to be announced
_REACH_ROWS = 1_000  # that are announced beyond those that are worked on

_TELL_S = 5.0  # for the last word of a worker that ends itself
_HELD_S = 2.0  # after that: where the call that hangs lets no other thread run
_ASK_S = 2.0  # between two questions whether the node will go; a spot machine is told 30 s or more before


def places_of(rows: pa.Table, ahead: int = 0) -> tuple[Place, ...]:
    """Where the rows of a table lie, by shard.

    Args:
        rows: with the columns ``shard``, ``row`` and ``offset``; those of a shard in order.
        ahead: rows behind the last that may be read meanwhile.
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
    """What is read of a unit before anything is told."""
    shard, (row, _, start) = unit[0].shard, unit[0].wanted[0]
    return (Place(shard.id, Missing(row, row + (1 + AHEAD) * block_rows - 1, start)),)


class Reporter:
    """Tells the meter what a worker is at; ends the process where that makes no progress.

    A message for each step of each block would be thousands a second at the head. So rows are announced
    a thousand ahead, and what is done since goes with that, or once a second.

    Args:
        meter: a handle of the run's meter.
        stall_s: seconds without a row that are too long.
    """

    def __init__(self, meter: MeterHandle, stall_s: float) -> None:
        self.meter = meter
        self.sure = False  # whether to tell each step, and wait until it has arrived: it may be the last word
        self._stall_s = stall_s
        self._name = uuid4().hex
        self._deadline: float | None = None
        self._changed = threading.Condition()
        self._watch: threading.Thread | None = None
        self._node = ray.get_runtime_context().get_node_id()
        self._leaving, self._asked = False, monotonic()
        self._answer: Any = None  # that is not there yet, to whether this node will go
        self._announced: dict[str, Missing] = {}
        self._stage = self._told_stage = ""
        self._told_at = 0.0
        self._counts: Counter[str] = Counter()
        self._occupied: Counter[str] = Counter()
        self._device = ""
        self._seen: Counts | None = None

    def is_leaving(self) -> bool:
        """Whether this node will go soon: what is open has to be closed, and the rest is for others.

        As the meter answered a moment ago: it may be busy, and nothing is worth waiting for it.
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
        """While the body runs its rows are in doubt; what it raises ends the run.

        But where its memory is used up it ends itself: that may be a record's doing, which will show.
        """
        self._stage = stage
        self._announce(places)
        self.move()
        try:
            yield
        except MemoryError:
            self._end("out of memory")
        except Exception as e:  # whatever it is: bad data are rows, so this is no record's fault
            self.meter.break_off.remote(one_line(e))
            raise
        finally:
            self.rest()
            # Waited for: else a worker that has ended could seem lost when the run asks who is.
            with suppress(ray.exceptions.RayError):
                with self._changed:
                    left = self.meter.leave.remote(self._name, self._news())
                ray.get(left)

    def enter(self, stage: str, places: tuple[Place, ...] = ()) -> None:
        """A stage begins, with these rows; without any, with those of the stage before."""
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
        """Say what there is to say, if anything."""
        with self._changed:
            if self._counts or self._occupied or self._seen is not None or self._stage != self._told_stage:
                self.meter.tell.remote(self._name, self._news())

    def move(self) -> None:
        """There is progress: the time that is left begins anew."""
        with self._changed:
            self._deadline = monotonic() + self._stall_s
            if self._watch is None:
                self._watch = threading.Thread(target=self._end_when_still, name="liveness", daemon=True)
                self._watch.start()
        faulthandler.dump_traceback_later(
            self._stall_s + _TELL_S + _HELD_S, exit=True, file=sys.__stderr__ or sys.stderr
        )

    def rest(self) -> None:
        """From now on it waits for others."""
        faulthandler.cancel_dump_traceback_later()
        with self._changed:
            self._deadline = None
            self._changed.notify()

    def _announce(self, places: tuple[Place, ...] | None) -> None:
        """Tell which rows it will be at; None: those that it told before."""
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

    def _news(self, places: tuple[Place, ...] | None = None) -> Told:
        """What was not told yet, which is forgotten then; to be called with the lock held."""
        told = Told(self._stage, places, self._counts, self._occupied, self._device, self._seen)
        self._counts, self._occupied, self._seen = Counter(), Counter(), None
        self._told_stage, self._told_at = self._stage, monotonic()
        return told

    def _end_when_still(self) -> None:
        with self._changed:
            while self._deadline is not None and (left := self._deadline - monotonic()) > 0:
                self._changed.wait(min(left, _EVERY_S))
                if monotonic() - self._told_at >= _EVERY_S:
                    self.tell()
            if self._deadline is None:  # a worker process has many tasks: a thread must not stay of each
                self._watch = None
                return
        self._end("hung")

    def _end(self, how: End) -> None:
        with suppress(ray.exceptions.RayError, MemoryError):
            ray.get(self.meter.give_up.remote(self._name, how, self._stage), timeout=_TELL_S)
        faulthandler.dump_traceback(file=sys.__stderr__ or sys.stderr)
        os.kill(os.getpid(), signal.SIGKILL)


def _reaching(place: Place) -> Place:
    """The same rows, and those behind them that may be worked on before anything is told again."""
    return place._replace(rows=place.rows._replace(last=(place.rows.last or 0) + _REACH_ROWS))
