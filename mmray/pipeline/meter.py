"""Counts what all workers did, for the progress display and the summary. Holds no data of the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from time import perf_counter, time
from typing import Any, Literal, NamedTuple, TypeVar

from mmray.coverage import Missing
from mmray.drift import Counts, Drift, VariantReference, Watch

_SURE = 0.999  # of the bound at which a shift is called
_LEAST_S = 0.5  # over a shorter time a rate means nothing

T = TypeVar("T")
_END = object()

START = "start"  # the stage of a worker that loads what it needs

#: Stages whose seconds are counted, in the order of the data's way.
STAGES = ("read", "align", "image", "text", "audio", "model", "shadow", "write")


class Place(NamedTuple):
    """Rows of one shard that a worker is at."""

    shard: str  # id
    rows: Missing

    @property
    def name(self) -> str:
        """Of the shard, for people."""
        return self.shard.rpartition("@")[0]


End = Literal["died", "hung", "out of memory"]  # the last two ended themselves


class Doing(NamedTuple):
    """What a worker is at."""

    stage: str
    places: tuple[Place, ...] = ()
    end: End = "died"  # how it ended, if it did


class Told(NamedTuple):
    """What a worker says at a time: messages cost the head more than what is in them."""

    stage: str
    places: tuple[Place, ...] | None = None  # the rows that it is at; None: those that it said before
    counts: Mapping[str, float] = {}  # the others as of `Meter.add`
    occupied: Mapping[str, float] = {}
    device: str = ""
    seen: Counts | None = None


@dataclass(frozen=True)
class DeviceUse:
    """What one device did so far."""

    busy_s: float  # at work
    planned_s: float  # at inferences whose shape it met for the first time: it plans its kernels then
    copied_s: float  # of copies to it and back, which go on while it works
    wall_s: float  # between its first inference and the latest
    shapes: Mapping[str, int]  # batches by shape
    changes: int  # how often a batch had another shape than the one before
    padding: Mapping[
        str, float
    ]  # share of the places that stayed empty: rows, images, texts, tokens, patches

    @classmethod
    def of(cls, counts: Mapping[str, float]) -> DeviceUse:
        """From what `mmray.predictor.blame.Runner.occupied` counts."""
        places = {k[7:]: n for k, n in counts.items() if k.startswith("places ") and n}
        return cls(
            busy_s=float(counts["busy"]),
            planned_s=float(counts["planned"]),
            copied_s=float(counts["copied"]),
            wall_s=float(counts["wall"]),
            shapes={k[6:]: int(n) for k, n in sorted(counts.items()) if k.startswith("shape ")},
            changes=int(counts["changes"]),
            padding={name: 1 - counts[f"used {name}"] / n for name, n in places.items()},
        )

    def to_json(self) -> dict[str, Any]:
        """For summary.json."""
        rest_s = self.wall_s - self.planned_s
        return {
            "busy": round(self.busy_s / rest_s, 4) if rest_s > 0 else 0.0,
            "busy_s": round(self.busy_s, 3),
            "planned_s": round(self.planned_s, 3),
            "copied_s": round(self.copied_s, 3),
            "wall_s": round(self.wall_s, 3),
            "batches": sum(self.shapes.values()),
            "shapes": dict(self.shapes),
            "changes": self.changes,
            "padding": {name: round(share, 4) for name, share in self.padding.items()},
        }


@dataclass(frozen=True)
class Snapshot:
    """What was counted so far in this run, without what an earlier one had already done."""

    rows: int = 0  # predicted and rejected
    rejects: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)  # busy seconds of each stage, all workers
    task_s: float = 0.0  # seconds of the tasks that prepare for actors (split topology)
    devices: Mapping[str, DeviceUse] = field(default_factory=dict)  # by the name of the actor's device
    first: float = 0.0  # Unix time of the first block that was predicted, and how many rows it had
    first_rows: int = 0
    last: float = 0.0  # Unix time of the latest
    moves: int = 0  # grows with rows, and whenever a worker starts or gives up
    doing: Mapping[str, Doing] = field(default_factory=dict)  # by worker
    broken: str = ""  # why a worker cannot go on: a fault that is no record's
    unreadable: Mapping[str, str] = field(default_factory=dict)  # shards by name, and why
    left: Mapping[int, int] = field(default_factory=dict)  # rows by the stage of a cascade that answered them
    shadowed: int = 0  # early answers that were compared with full ones
    agreed: int = 0  # of those
    shift: str = ""  # why early answers can no longer be trusted
    canary: Mapping[str, float] = field(default_factory=dict)  # as `mmray.canary.Canary.compare` counts
    drift: Drift | None = None  # None: nothing to compare records with

    @property
    def rows_per_s(self) -> float:
        """Rate since the first block, so that starting up does not count; 0 where that is no time ago."""
        elapsed = self.last - self.first
        return (self.rows - self.first_rows) / elapsed if elapsed > _LEAST_S else 0.0

    @property
    def device_s(self) -> float:
        """Seconds that the devices were at work."""
        return sum(use.busy_s for use in self.devices.values())

    @property
    def device_busy(self) -> float:
        """Share of the time that the devices were at work, planning left out; 0 where nothing ran."""
        wall_s = sum(use.wall_s - use.planned_s for use in self.devices.values())
        return self.device_s / wall_s if wall_s > 0 else 0.0


class Meter:
    """Adds up counts of all workers. One for a run; several threads may use it.

    Args:
        disagreement: share of a cascade's early answers that may differ from full ones; None: no cascade.
        reference: what records are compared with; None: nothing.
    """

    def __init__(self, disagreement: float | None = None, reference: VariantReference | None = None) -> None:
        self._disagreement = disagreement
        self._watch = Watch(reference) if reference else None
        self._counts: Counter[str] = Counter()
        self._devices: dict[str, Counter[str]] = {}
        self._first = self._last = 0.0
        self._first_rows = 0
        self._moves = 0
        self._lock = Lock()
        self._doing: dict[str, Doing] = {}
        self._broken = ""
        self._unreadable: dict[str, str] = {}
        self._leaving: set[str] = set()

    def warn(self, nodes: Iterable[str]) -> None:
        """Nodes will go soon, by id."""
        with self._lock:
            self._leaving.update(nodes)

    def is_leaving(self, node: str) -> bool:
        """Whether a node will go soon."""
        with self._lock:
            return node in self._leaving

    def fail(self, shard: str, reason: str) -> None:
        """A shard cannot be read."""
        with self._lock:
            self._moves += 1
            self._unreadable[shard] = reason

    def enter(self, worker: str, stage: str, places: tuple[Place, ...] | None = None) -> None:
        """A worker begins a stage, with these rows; None: with those of its stage before."""
        with self._lock:
            before = self._doing.get(worker)
            self._moves += before is None
            if places is None:
                places = before.places if before else ()
            self._doing[worker] = Doing(stage, places)

    def tell(self, worker: str, told: Told) -> None:
        """All that a worker has to say: what it did, and what it is at now."""
        self.add(told.counts, told.occupied, told.device, told.seen)
        self.enter(worker, told.stage, told.places)

    def leave(self, worker: str, told: Told) -> None:
        """A worker has done its work, at last this; one that never says so has died."""
        self.add(told.counts, told.occupied, told.device, told.seen)
        with self._lock:
            self._doing.pop(worker, None)

    def give_up(self, worker: str, end: End, stage: str) -> None:
        """A worker ends itself, in this stage."""
        with self._lock:
            self._moves += 1
            if doing := self._doing.get(worker):
                self._doing[worker] = doing._replace(stage=stage, end=end)

    def break_off(self, reason: str) -> None:
        """A worker cannot go on, and no record is the reason."""
        with self._lock:
            self._broken = self._broken or reason

    def take_lost(self) -> list[Doing]:
        """What workers were at that died since this was asked. To be asked while none is at work.

        Those that had only begun to start are none of them: Ray ends them when there is no more to do.
        """
        with self._lock:
            lost = [doing for doing in self._doing.values() if doing.stage != START]
            self._doing.clear()
        return lost

    def add(
        self,
        counts: Mapping[str, float],
        occupied: Mapping[str, float] | None = None,
        device: str = "",
        seen: Counts | None = None,
    ) -> None:
        """Add ``rows``, ``rejects``, ``prepared`` rows, seconds by stage and of a ``task``; a device's use.

        Args:
            counts: as said.
            occupied: `mmray.predictor.blame.Runner.occupied`.
            device: name of the device that did it.
            seen: `mmray.predictor.Predictor.take_drift`.
        """
        with self._lock:
            self._moves += bool(counts.get("rows") or counts.get("prepared"))
            self._counts.update(counts)
            if occupied:
                self._devices.setdefault(device, Counter()).update(occupied)
            if rows := counts.get("rows"):
                self._last = time()
                if not self._first:
                    self._first, self._first_rows = self._last, int(rows)
            # Once early answers are wrong, none may leave early any more, and later stages see others.
            if seen is not None and self._watch and not self._differing():
                self._watch.add(seen)

    def shift(self) -> str:
        """Why early answers can no longer be trusted: they differ, or records are unlike; or empty."""
        return self._differing() or str((self._watch and self._watch.alarm) or "")

    def _differing(self) -> str:
        """Says that early answers surely differ from full ones more often than they may; or empty.

        As this is asked again and again, the bound is a very sure one.
        """
        if self._disagreement is None:
            return ""
        from mmray.stats.bounds import lower_bound  # loads scipy, which takes .35 s

        shadowed, agreed = int(self._counts["shadowed"]), int(self._counts["agreed"])
        share = lower_bound(shadowed - agreed, shadowed, _SURE)
        if share <= self._disagreement:
            return ""
        return (
            f"{shadowed - agreed} of {shadowed} early answers that were compared differ from full ones, so "
            f"at least {share:.1%} of all do; the cascade was chosen for {self._disagreement:.1%}: these "
            "records are not like those"
        )

    def read(self, *, is_last: bool = False) -> Snapshot:
        """What was counted so far; `is_last`: no more will come."""
        with self._lock:
            if is_last and self._watch and not self._differing():
                self._watch.finish()
            return Snapshot(
                rows=self._counts["rows"],
                rejects=self._counts["rejects"],
                seconds={stage: float(self._counts[stage]) for stage in STAGES},
                task_s=float(self._counts["task"]),
                devices={name: DeviceUse.of(counts) for name, counts in sorted(self._devices.items())},
                first=self._first,
                first_rows=self._first_rows,
                last=self._last,
                moves=self._moves,
                doing=dict(self._doing),
                broken=self._broken,
                unreadable=dict(self._unreadable),
                left={int(k[5:]): int(n) for k, n in sorted(self._counts.items()) if k.startswith("left ")},
                shadowed=int(self._counts["shadowed"]),
                agreed=int(self._counts["agreed"]),
                shift=self._differing(),
                canary={name: n for name, n in self._counts.items() if name.startswith("canary")},
                drift=self._watch.read() if self._watch else None,
            )


def drain(*counters: Counter[str]) -> dict[str, float]:
    """Take the sums of what the counters hold, and leave them empty."""
    taken: dict[str, float] = {}
    for counter in counters:
        for name, number in counter.items():
            taken[name] = taken.get(name, 0) + number
        counter.clear()
    return taken


@contextmanager
def measured(seconds: Counter[str], stage: str) -> Iterator[None]:
    """Add the seconds that the body takes to a stage."""
    start = perf_counter()
    try:
        yield
    finally:
        seconds[stage] += perf_counter() - start  # type: ignore[assignment]  # floats, too


def timed(items: Iterable[T], seconds: Counter[str], stage: str) -> Iterator[T]:
    """Iterate, adding the seconds that each item had to be waited for to a stage."""
    iterator = iter(items)
    while True:
        with measured(seconds, stage):
            item = next(iterator, _END)
        if item is _END:
            return
        yield item  # type: ignore[misc]
