"""Counts of a replica: Ray exports them to Prometheus at each node's metrics port, with its own metrics."""

from __future__ import annotations

from collections import Counter as Counts

from ray.util.metrics import Counter, Gauge, Histogram

from mmray.drift import Drift

_SECONDS = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]


class Metrics:
    """Counters and histograms of one replica; Ray adds application, deployment and replica as tags."""

    def __init__(self) -> None:
        self.requests = Counter(
            "mmray_requests", "Requests by route and status.", tag_keys=("route", "status")
        )
        self.records = Counter(
            "mmray_records",
            "Records by what became of them: predicted, or the reject's type.",
            tag_keys=("outcome",),
        )
        self.seconds = Histogram(
            "mmray_request_seconds", "From a request's head to its answer.", _SECONDS, tag_keys=("route",)
        )
        self._device_s = Counter(
            "mmray_device_seconds",
            "Seconds of the device: busy, planned (a shape that it met for the first time), copied.",
            tag_keys=("state",),
        )
        self._shapes = Counter("mmray_device_batches", "Batches of a device by shape.", tag_keys=("shape",))
        self._changes = Counter(
            "mmray_device_shape_changes", "Batches of a device with another shape than the one before."
        )
        self._places = Counter(
            "mmray_device_places",
            "Places of a device's batches by dimension, and whether a record filled them or padding.",
            tag_keys=("dimension", "held"),
        )
        self.canary = Counter(
            "mmray_canary",
            "Records that a second bundle was asked as well: same or other label, rejected, failed, skipped.",
            tag_keys=("answer", "modalities"),
        )
        self.batch_rows = Histogram(
            "mmray_batch_rows", "Records of an inference.", [1, 2, 4, 8, 16, 32, 64, 128, 256]
        )

        self._drift = Gauge(
            "mmray_drift",
            "How much requests of today differ from the tune split: population stability index.",
            tag_keys=("sketch",),
        )
        self._alarm = Gauge(
            "mmray_drift_alarm", "1 once requests of today surely differ from the tune split."
        )

    def show_drift(self, found: Drift) -> None:
        """Export what a watch has found so far."""
        self._alarm.set(float(found.alarm is not None))
        for name, index in found.psi.items():
            self._drift.set(index, tags={"sketch": name})

    def count_device(self, *occupied: Counts[str]) -> None:
        """Add a device's use for each stage (`Runner.occupied`), and clear it."""
        for counts in occupied:
            for name, number in counts.items():
                kind, _, what = name.partition(" ")
                if kind in ("busy", "planned", "copied") and number:
                    self._device_s.inc(number, tags={"state": kind})
                elif kind == "shape":
                    self._shapes.inc(number, tags={"shape": what})
                elif kind == "changes" and number:
                    self._changes.inc(number)
                elif kind == "places":
                    used = counts[f"used {what}"]
                    for held, places in (("record", used), ("padding", number - used)):
                        if places:
                            self._places.inc(places, tags={"dimension": what, "held": held})
            counts.clear()
