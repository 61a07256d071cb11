"""What a replica counts: Ray exports it to Prometheus at each node's metrics port, beside its own figures."""

from __future__ import annotations

from ray.util.metrics import Counter, Histogram

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
        self.batch_rows = Histogram(
            "mmray_batch_rows", "Records of an inference.", [1, 2, 4, 8, 16, 32, 64, 128, 256]
        )
