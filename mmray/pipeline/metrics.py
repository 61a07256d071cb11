"""The meter of a run, whose counts Ray also exports to Prometheus, at the metrics port of its node."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge

from mmray.drift import Counts as Seen
from mmray.drift import VariantReference
from mmray.pipeline.meter import Meter
from mmray.pipeline.snapshot import STAGES, Snapshot

_STATES = ("busy", "planned", "copied")  # of a device, as `mmray.predictor.blame.Runner.occupied` counts them


class ExportingMeter(Meter):
    """A meter that exports to Prometheus.

    Args:
        run: name of the run, a tag of each figure.
        disagreement: as of `Meter`.
        reference: as of `Meter`.
    """

    def __init__(
        self, run: str, disagreement: float | None = None, reference: VariantReference | None = None
    ) -> None:
        super().__init__(disagreement, reference)
        self._tags = {"run": run}
        self._rows = _counter("rows", "Records that are done, by what became of them.", "outcome")
        self._seconds = _counter("stage_seconds", "Busy seconds of all workers by stage.", "stage")
        self._device_s = _counter(
            "device_seconds",
            "Seconds of a device: busy, planned (a shape that it met for the first time), copied.",
            "device",
            "state",
        )
        self._batches = _counter("device_batches", "Batches of a device by shape.", "device", "shape")
        self._exits = _counter("exits", "Records by the stage of the cascade that answered them.", "stage")
        self._shadowed = _counter(
            "shadowed", "Early answers that were compared with full ones, by what came of it.", "answer"
        )
        self._broken_shards = _counter("unreadable_shards", "Shards that cannot be read.")
        self._workers = Gauge(
            "mmray_job_workers", "Workers by the stage that they are at.", tag_keys=("run", "stage")
        )
        self._drift = Gauge(
            "mmray_job_drift",
            "How much records differ from those of the tune split: population stability index.",
            tag_keys=("run", "sketch"),
        )
        self._alarms = Gauge(
            "mmray_job_drift_alarm", "1 once records surely differ from the tune split.", tag_keys=("run",)
        )
        self._stages: set[str] = set()  # stages that workers were ever in

    def fail(self, shard: str, reason: str) -> None:
        """As of a meter."""
        super().fail(shard, reason)
        self._broken_shards.inc(tags=self._tags)

    def add(
        self,
        counts: Mapping[str, float],
        occupied: Mapping[str, float] | None = None,
        device: str = "",
        seen: Seen | None = None,
    ) -> None:
        """As of a meter."""
        super().add(counts, occupied, device, seen)
        rejects, agreed = counts.get("rejects", 0), counts.get("agreed", 0)
        self._inc(self._rows, counts.get("rows", 0) - rejects, outcome="predicted")
        self._inc(self._rows, rejects, outcome="rejected")
        self._inc(self._shadowed, agreed, answer="same")
        self._inc(self._shadowed, counts.get("shadowed", 0) - agreed, answer="other")
        for name, number in counts.items():
            if name in STAGES:
                self._inc(self._seconds, number, stage=name)
            elif name.startswith("left "):
                self._inc(self._exits, number, stage=name[5:])
        for name, number in (occupied or {}).items():
            if name in _STATES:
                self._inc(self._device_s, number, device=device, state=name)
            elif name.startswith("shape "):
                self._inc(self._batches, number, device=device, shape=name[6:])

    def read(self, *, is_last: bool = False) -> Snapshot:
        """As of a meter."""
        snapshot = super().read(is_last=is_last)
        if snapshot.drift:
            self._alarms.set(float(snapshot.drift.alarm is not None), tags=self._tags)
            for name, index in snapshot.drift.psi.items():
                self._drift.set(index, tags={**self._tags, "sketch": name})
        at_work = Counts(doing.stage for doing in snapshot.doing.values())
        self._stages.update(at_work)
        for stage in self._stages:
            self._workers.set(at_work[stage], tags={**self._tags, "stage": stage})
        return snapshot

    def _inc(self, counter: Counter, number: float, **tags: str) -> None:
        if number > 0:
            counter.inc(number, tags=self._tags | tags)


def _counter(name: str, about: str, *tags: str) -> Counter:
    return Counter(f"mmray_job_{name}", about, tag_keys=("run", *tags))
