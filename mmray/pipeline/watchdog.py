"""The meter of a run, and the watchdog that ends a run which gets nowhere."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mmray.drift import VariantReference
from mmray.errors import Interrupted, RunError
from mmray.pipeline.cluster import Nodes
from mmray.pipeline.liveness import MeterHandle
from mmray.pipeline.metrics import ExportingMeter
from mmray.pipeline.plan import Plan, Unit
from mmray.pipeline.snapshot import Doing, Snapshot

RESUME = "run the same command again to resume"
_POLL_S = 0.5
_ANSWER_S = 10.0
_GRACE_S = 5.0  # in which a worker that stands still ends itself, which is progress
_START_S = 900.0  # of a pass: machines may have to be started before a worker can say anything


class RunningMeter:
    """The meter of a run, and a watchdog over it.

    Args:
        handle: a Ray actor handle of a Meter.
        progress: told what was counted, twice a second, from a thread of its own.
        stall_s: seconds without a row that end the run.
    """

    def __init__(self, handle: MeterHandle, progress: Callable[[Snapshot], None], stall_s: float) -> None:
        self.handle = handle
        self.reason: str | None = None  # why the watchdog ended the run
        self._shards: Sequence[str] = ()  # under way, for where no worker says which it is at
        self._moves, self._since, self._starting = 0, monotonic(), True
        self._latest = Snapshot()
        self._progress = progress
        self._stall_s = stall_s
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def begin(self, units: Sequence[Unit]) -> None:
        """A pass begins: its workers have to start before they can move."""
        self._shards = sorted({work.shard.name for unit in units for work in unit})
        self._moves, self._since, self._starting = self.read().moves, monotonic(), True

    def read(self, *, is_last: bool = False) -> Snapshot:
        """What was counted so far; the latest that is known, where the meter does not answer."""
        with suppress(ray.exceptions.RayError):  # a lost meter costs figures, never the run
            self._latest = ray.get(self.handle.read.remote(is_last=is_last), timeout=_ANSWER_S)
        return self._latest

    def take_lost(self) -> list[Doing]:
        """As `Meter.take_lost`; nothing, where the meter was lost itself."""
        lost: list[Doing] = []
        with suppress(ray.exceptions.RayError):
            lost = ray.get(self.handle.take_lost.remote(), timeout=_ANSWER_S)
        return lost

    def check(self) -> None:
        """Raise a RunError where a worker broke off: to Ray Data its rows are lost, and all ends well."""
        if broken := self.read().broken:
            raise RunError(f"the run broke off: {broken}; {RESUME}")

    def stop(self) -> None:
        """End the watch."""
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        """Twice a second: tell the count, and interrupt the main thread where nothing is left to wait for."""
        nodes = Nodes()
        while not self._done.wait(_POLL_S):
            if leaving := nodes.look():
                self.handle.warn.remote(leaving)
            snapshot = self.read()
            self._progress(snapshot)
            still_s = monotonic() - self._since
            most_s = max(self._stall_s, _START_S) if self._starting else self._stall_s + _GRACE_S
            if snapshot.broken:
                self.reason = f"the run broke off: {snapshot.broken}"
            elif snapshot.moves != self._moves:
                self._moves, self._since, self._starting = snapshot.moves, monotonic(), False
            elif still_s > most_s:
                self.reason = f"no progress for {still_s:.0f} s ({_standing(snapshot, self._shards)})"
            if self.reason:
                # As Ctrl-C would: only a real signal wakes a main thread that waits on a lock.
                os.kill(os.getpid(), signal.SIGINT)
                return


def _standing(snapshot: Snapshot, under_way: Sequence[str]) -> str:
    """What the workers are at that stand still."""
    stages = Counter(doing.stage for doing in snapshot.doing.values())
    workers = ", ".join(f"{n} in {stage}" for stage, n in stages.items())
    places = {place.name for doing in snapshot.doing.values() for place in doing.places}
    idle = "none is at work" if snapshot.moves else "none has started"
    return f"workers: {workers or idle}; shards: {', '.join(sorted(places or under_way)[:3])}"


@contextmanager
def metered(
    progress: Callable[[Snapshot], None], plan: Plan, reference: VariantReference | None = None
) -> Iterator[RunningMeter]:
    """Count and watch while the body runs.

    Args:
        progress: told what was counted, twice a second, from a thread of its own.
        plan: `stall_s` seconds without a row interrupt the body; a cascade's early answers are watched.
        reference: what records are compared with; None: nothing.
    """
    # On the driver's node, which outlives the others; it needs no CPU: the workers may hold them all. A soft
    # affinity put it beside a worker where the driver's node has no CPUs (Ray 2.60), to die with that node.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    remote: Any = ray.remote  # its type does not know this strategy
    actor = remote(num_cpus=0, max_restarts=-1, scheduling_strategy=here)(ExportingMeter)
    config = plan.survey.config
    disagreement = plan.cascade.disagreement if plan.cascade else None
    handle = actor.remote(config.output, disagreement, reference)
    meter = RunningMeter(handle, progress, config.stall_s)
    try:
        yield meter
    except Interrupted as e:  # between two passes, where the watchdog's signal arrives late
        if meter.reason:
            raise RunError(f"{meter.reason}; {RESUME}") from e
        raise
    finally:
        meter.stop()
        ray.kill(handle)
