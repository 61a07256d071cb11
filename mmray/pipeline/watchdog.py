"""The meter of a run, and the watchdog that ends a run without progress."""

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
_GRACE_S = 5.0  # time for a stalled worker to end itself, which counts as progress
_START_S = 900.0  # for a new pass: machines may have to start before a worker can send a message


class RunningMeter:
    """The meter of a run, and a watchdog over it.

    Args:
        handle: a Ray actor handle of a Meter.
        progress: gets the counts twice a second, from a separate thread.
        stall_s: seconds without a row after which the run ends.
    """

    def __init__(self, handle: MeterHandle, progress: Callable[[Snapshot], None], stall_s: float) -> None:
        self.handle = handle
        self.reason: str | None = None  # why the watchdog ended the run
        self._shards: Sequence[str] = ()  # shards in progress, used if no worker reports its rows
        self._moves, self._since, self._starting = 0, monotonic(), True
        self._latest = Snapshot()
        self._progress = progress
        self._stall_s = stall_s
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def begin(self, units: Sequence[Unit]) -> None:
        """A pass begins: its workers must start before they can make progress."""
        self._shards = sorted({work.shard.name for unit in units for work in unit})
        self._moves, self._since, self._starting = self.read().moves, monotonic(), True

    def read(self, *, is_last: bool = False) -> Snapshot:
        """Counts so far; the latest known ones if the meter does not answer."""
        with suppress(ray.exceptions.RayError):  # a lost meter costs figures, never the run
            self._latest = ray.get(self.handle.read.remote(is_last=is_last), timeout=_ANSWER_S)
        return self._latest

    def take_lost(self) -> list[Doing]:
        """As `Meter.take_lost`; nothing if the meter itself was lost."""
        lost: list[Doing] = []
        with suppress(ray.exceptions.RayError):
            lost = ray.get(self.handle.take_lost.remote(), timeout=_ANSWER_S)
        return lost

    def check(self) -> None:
        """Raise a RunError if a worker gave up: Ray Data loses its rows, but ends without an error."""
        if broken := self.read().broken:
            raise RunError(f"the run was interrupted: {broken}; {RESUME}")

    def stop(self) -> None:
        """End the watch."""
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        """Twice a second: report counts, and interrupt the main thread if waiting is useless."""
        nodes = Nodes()
        while not self._done.wait(_POLL_S):
            if leaving := nodes.look():
                self.handle.warn.remote(leaving)
            snapshot = self.read()
            self._progress(snapshot)
            still_s = monotonic() - self._since
            most_s = max(self._stall_s, _START_S) if self._starting else self._stall_s + _GRACE_S
            if snapshot.broken:
                self.reason = f"the run was interrupted: {snapshot.broken}"
            elif snapshot.moves != self._moves:
                self._moves, self._since, self._starting = snapshot.moves, monotonic(), False
            elif still_s > most_s:
                self.reason = f"no progress for {still_s:.0f} s ({_standing(snapshot, self._shards)})"
            if self.reason:
                # Like Ctrl-C: only a real signal wakes a main thread that waits on a lock.
                os.kill(os.getpid(), signal.SIGINT)
                return


def _standing(snapshot: Snapshot, under_way: Sequence[str]) -> str:
    """What the stalled workers are doing."""
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
        progress: gets the counts twice a second, from a separate thread.
        plan: `stall_s` seconds without a row interrupt the body; a cascade's early answers are monitored.
        reference: for drift; None: nothing.
    """
    # On the driver's node, which outlives the others; without a CPU, as workers may hold all. With soft
    # affinity and no CPUs on the driver's node it was placed on a worker's node (Ray 2.60) and died with it.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    remote: Any = ray.remote  # its type lacks this strategy
    actor = remote(num_cpus=0, max_restarts=-1, scheduling_strategy=here)(ExportingMeter)
    config = plan.survey.config
    disagreement = plan.cascade.disagreement if plan.cascade else None
    handle = actor.remote(config.output, disagreement, reference)
    meter = RunningMeter(handle, progress, config.stall_s)
    try:
        yield meter
    except Interrupted as e:  # between two passes, in case the watchdog's signal arrives late
        if meter.reason:
            raise RunError(f"{meter.reason}; {RESUME}") from e
        raise
    finally:
        meter.stop()
        ray.kill(handle)
