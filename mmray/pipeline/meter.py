"""Counts of all workers, for the progress display and the summary. Holds no data of the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from threading import Lock
from time import time

from mmray.drift import Counts, VariantReference, Watch
from mmray.pipeline.snapshot import STAGES, START, DeviceUse, Doing, End, Message, Place, Snapshot

_SURE = 0.999  # confidence of the bound at which a shift is reported


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
        """Nodes will shut down soon, by id."""
        with self._lock:
            self._leaving.update(nodes)

    def is_leaving(self, node: str) -> bool:
        """Whether a node will shut down soon."""
        with self._lock:
            return node in self._leaving

    def fail(self, shard: str, reason: str) -> None:
        """A shard cannot be read."""
        with self._lock:
            self._moves += 1
            self._unreadable[shard] = reason

    def enter(self, worker: str, stage: str, places: tuple[Place, ...] | None = None) -> None:
        """A worker begins a stage with these rows; None: with those of its previous stage."""
        with self._lock:
            before = self._doing.get(worker)
            self._moves += before is None
            if places is None:
                places = before.places if before else ()
            self._doing[worker] = Doing(stage, places)

    def tell(self, worker: str, message: Message) -> None:
        """A worker's message: its finished work, and what it is doing now."""
        self.add(message.counts, message.occupied, message.device, message.seen)
        self.enter(worker, message.stage, message.places)

    def leave(self, worker: str, message: Message) -> None:
        """A worker has finished, with these last counts; one that never sends this has died."""
        self.add(message.counts, message.occupied, message.device, message.seen)
        with self._lock:
            self._doing.pop(worker, None)

    def give_up(self, worker: str, end: End, stage: str) -> None:
        """A worker ends itself, in this stage."""
        with self._lock:
            self._moves += 1
            if doing := self._doing.get(worker):
                self._doing[worker] = doing._replace(stage=stage, end=end)

    def break_off(self, reason: str) -> None:
        """A worker cannot continue, and no record is the cause."""
        with self._lock:
            self._broken = self._broken or reason

    def take_lost(self) -> list[Doing]:
        """What the workers that died since the last call were doing. Call it while none is working.

        Workers that were still starting are not included: Ray ends them when no work is left.
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
            counts: as listed above.
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
            # Once early exits are disabled, later stages see other records.
            if seen is not None and self._watch and not self._differing():
                self._watch.add(seen)

    def shift(self) -> str:
        """Why early answers can no longer be trusted: they differ, or records have shifted; or empty."""
        return self._differing() or str((self._watch and self._watch.alarm) or "")

    def _differing(self) -> str:
        """Says that early answers differ from full ones significantly more often than allowed; or empty.

        This is called repeatedly, so the bound has a very high confidence.
        """
        if self._disagreement is None:
            return ""
        from mmray.stats.bounds import lower_bound  # loads scipy, which takes .35 s

        shadowed, agreed = int(self._counts["shadowed"]), int(self._counts["agreed"])
        share = lower_bound(shadowed - agreed, shadowed, _SURE)
        if share <= self._disagreement:
            return ""
        return (
            f"{shadowed - agreed} of {shadowed} compared early answers differ from full ones, so "
            f"at least {share:.1%} of all do; the cascade was chosen for {self._disagreement:.1%}: these "
            "records are not like those"
        )

    def read(self, *, is_last: bool = False) -> Snapshot:
        """Counts so far; `is_last`: no more will come."""
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
