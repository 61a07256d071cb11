"""Results of a load step: quantiles of latencies, with their intervals."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import bdtr

_TAIL = 0.99
_CONFIDENCE = 0.95
#: With fewer answers the interval of the 99th percentile has no upper end: .99 ** 368 is below .025.
LEAST_REQUESTS = 368


@dataclass(frozen=True)
class Sent:
    """One request. Times are seconds of one clock."""

    due_s: float  # when it was due
    sent_s: float
    done_s: float
    status: int  # of HTTP; 0: no answer came

    @property
    def latency_s(self) -> float:
        """From when it was due: a user of a stalled server also waits before sending.

        Infinite for a request that was refused or interrupted.
        """
        return self.done_s - self.due_s if self.status == 200 else math.inf


@dataclass(frozen=True)
class Step:
    """Requests at one rate."""

    asked_per_s: float  # the rate at which they were due, on average
    answered_per_s: float  # the share of it that got good answers
    requests: int
    p50_ms: float
    p99_ms: float  # infinite where more than 1 % got no good answer
    p99_low_ms: float  # the interval of that: both ends are measured latencies
    p99_high_ms: float
    late_ms: float  # 99th percentile of how late the client itself sent
    client_share: float  # of a core, that the client used
    statuses: dict[int, int]

    def holds(self, target_ms: float) -> bool:
        """Whether the 99th percentile is within the target, by the upper end of its interval."""
        return self.p99_high_ms <= target_ms

    def to_json(self) -> dict[str, Any]:
        """Its fields; null is infinite."""
        return {
            name: (None if math.isinf(value) else round(value, 3)) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }


def step_of(sent: Sequence[Sent], asked_per_s: float, client_share: float) -> Step:
    """Results of requests at one rate.

    Args:
        sent: at least one, in the order in which they were due.
        asked_per_s: requests a second.
        client_share: of a core, that sending them used.
    """
    latencies_ms = 1e3 * np.sort([one.latency_s for one in sent])
    late_ms = 1e3 * np.sort([one.sent_s - one.due_s for one in sent])
    low_ms, high_ms = interval(latencies_ms.tolist(), _TAIL, _CONFIDENCE)
    statuses = Counter(one.status for one in sent)
    return Step(
        asked_per_s=asked_per_s,
        answered_per_s=asked_per_s * statuses[200] / len(sent),
        requests=len(sent),
        p50_ms=quantile(latencies_ms.tolist(), 0.5),
        p99_ms=quantile(latencies_ms.tolist(), _TAIL),
        p99_low_ms=low_ms,
        p99_high_ms=high_ms,
        late_ms=quantile(late_ms.tolist(), _TAIL),
        client_share=client_share,
        statuses=dict(sorted(statuses.items())),
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """The least value that so many of the values do not exceed; no interpolation: some are infinite."""
    return ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)]


def interval(ordered: Sequence[float], share: float, confidence: float) -> tuple[float, float]:
    """Two of the values that enclose the quantile of their distribution, for any distribution.

    By order statistics: how many of n values are below the quantile is binomial (Hahn & Meeker, Statistical
    Intervals, 1991, section 5.2). The values must be independent. Latencies of requests in one
    queue are not quite independent, so the interval is somewhat too short.

    Args:
        ordered: values, ascending.
        share: which quantile, in (0, 1).
        confidence: that it is between them, in (0, 1), half of the rest on either side.

    Returns:
        Lower and upper end; 0 and infinity where there are too few values for one.
    """
    n = len(ordered)
    at_most = bdtr(
        np.arange(n + 1, dtype=float), n, share
    )  # k of the values are below the quantile, or fewer
    rest = (1 - confidence) / 2
    low = int(np.searchsorted(at_most, rest, side="right"))
    high = int(np.searchsorted(at_most, 1 - rest)) + 1
    return ordered[low - 1] if low else 0.0, ordered[high - 1] if high <= n else math.inf
