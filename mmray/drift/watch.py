"""Compares counts with a reference repeatedly; the chance of ever raising a false alarm is bounded.

Windows of 128 records, and of twice, four times, … as many, are tested as they close: each bin of kinds, and
of sizes each share up to an edge (the distance of Kolmogorov and Smirnov at fixed points), by Fisher's exact
test. The bound on false alarms is a sum of bounds (Bonferroni). Test m of a watch may err with a probability
of alpha / (m (m + 1)), which adds up to alpha over any number of tests. Within a test each sketch has an
equal part of that, and each of its events an equal part of the sketch's. So with a probability of at least
1 - alpha a watch never raises an alarm while records are drawn as those of the reference were, however long
it watches, and however the tests depend on each other.

That a level may be spent over many looks: Lan & DeMets 1983, "Discrete sequential boundaries for clinical
trials"; Johari et al. 2022, "Always Valid Inference". That tests of one dimension each, of features and of
decisions, find shifts well together: Rabanser et al. 2019, "Failing Loudly", sections 3.2 and 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from mmray.drift.exact import Numbers, chances
from mmray.drift.reference import Sketch, VariantReference
from mmray.drift.window import Counts, bins_of

ALPHA = 0.01  # probability that a watch ever raises a false alarm
WINDOW = 128  # records
LEVELS = 8  # the longest window has 128 x 2^7 = 16,384 records


@dataclass(frozen=True)
class Alarm:
    """What differs from the reference, and by how much."""

    sketch: str
    event: str  # as "face-smiling", or "at most 0.62"
    reference: float  # share of the reference's records
    found: float  # share of the window's
    window: int  # records of the window
    after: int  # records that were watched until then
    false_alarm: float  # bound of the chance of ever raising an alarm as clear as this without a shift
    psi: float  # of the sketch, see `stability_index`

    def __str__(self) -> str:
        """The text of a warning."""
        return (
            f"these records are not like those of the tune split: {self.sketch} {self.event}: "
            f"{self.found:.1%} of the last {self.window:,}, {self.reference:.1%} there (population stability "
            f"index {self.psi:.2f}; chance of such a false alarm: {self.false_alarm:.1g}); "
            "accuracy, thresholds and bounds of the scorecard need not hold for them"
        )


@dataclass(frozen=True)
class Drift:
    """What a watch has found so far."""

    records: int = 0
    tests: int = 0
    alarm: Alarm | None = None  # the first
    psi: Mapping[str, float] = field(default_factory=dict)  # by sketch, of all records so far

    @property
    def warning(self) -> str:
        """Empty without an alarm."""
        return str(self.alarm or "")

    def to_json(self) -> dict[str, Any]:
        """For summary.json and events.jsonl."""
        alarm = self.alarm and {name: _short(value) for name, value in asdict(self.alarm).items()}
        psi = {name: round(value, 4) for name, value in self.psi.items()}
        return {
            "records": self.records,
            "tests": self.tests,
            "warning": self.warning,
            "alarm": alarm,
            "psi": psi,
        }


class Watch:
    """Watches records of one source.

    Args:
        reference: of the variant that answers.
        alpha: probability of ever raising a false alarm, at most.
        window: records of the shortest window.
    """

    def __init__(self, reference: VariantReference, alpha: float = ALPHA, window: int = WINDOW) -> None:
        self._bins = bins_of(reference.sketches)
        self._alpha, self._window = alpha, window
        self._clock = next(iter(self._bins.values()))[1]  # the first sketch counts every record
        self._old = {name: np.array(sketch.counts, np.int64) for name, (sketch, _) in self._bins.items()}
        size = sum(len(counts) for counts in self._old.values())
        self._open = np.zeros(size, np.int64)
        # By length, the window that waits for its pair.
        self._waiting: list[Counts | None] = [None] * LEVELS
        self._whole = np.zeros(size, np.int64)
        self._tests = 0
        self._alarm: Alarm | None = None

    def add(self, counts: Counts) -> None:
        """Records seen since the last call."""
        self._open += counts
        self._whole += counts
        if self._open[self._clock].sum() >= self._window:
            self._close()

    @property
    def tests(self) -> int:
        """How many windows were tested."""
        return self._tests

    @property
    def alarm(self) -> Alarm | None:
        """The first, if any; no more is tested after it."""
        return self._alarm

    def finish(self) -> None:
        """The source has ended: test all records together, once, so that a short run is tested too."""
        if self._open.any() or self._tests:
            self._test(self._whole)

    def read(self) -> Drift:
        """What was found so far."""
        psi = {}
        for name, (_, bins) in self._bins.items():
            if self._whole[bins].any() and self._old[name].any():
                psi[name] = stability_index(self._old[name], self._whole[bins])
        return Drift(int(self._whole[self._clock].sum()), self._tests, self._alarm, psi)

    def _close(self) -> None:
        """Test the open window; two of a length make one of twice the length, tested as well."""
        closed, self._open = self._open, np.zeros_like(self._open)
        for level in range(LEVELS):
            self._test(closed)
            first, self._waiting[level] = self._waiting[level], None
            if first is None:
                self._waiting[level] = closed
                return
            closed = first + closed

    def _test(self, counts: Counts) -> None:
        if self._alarm:
            return
        self._tests += 1
        level = self._alpha / (self._tests * (self._tests + 1)) / len(self._bins)
        surest = (1.0, "", 0)
        for name, (sketch, bins) in self._bins.items():
            new, old = _events(sketch, counts[bins]), _events(sketch, self._old[name])
            if not (counts[bins].any() and self._old[name].any()):
                continue
            ps = chances(new, int(counts[bins].sum()), old, int(self._old[name].sum())) * len(new) / level
            surest = min(surest, (float(ps.min()), name, int(ps.argmin())))
        if surest[0] < 1.0:
            self._alarm = self._describe(counts, *surest)

    def _describe(self, counts: Counts, ratio: float, name: str, event: int) -> Alarm:
        sketch, bins = self._bins[name]
        new, old = counts[bins], self._old[name]
        return Alarm(
            name,
            f"at most {sketch.edges[event]:.4g}" if sketch.is_of_sizes else (*sketch.names, "other")[event],
            reference=float(_events(sketch, old)[event] / old.sum()),
            found=float(_events(sketch, new)[event] / new.sum()),
            window=int(counts[self._clock].sum()),
            after=int(self._whole[self._clock].sum()),
            false_alarm=self._alpha * ratio,
            psi=stability_index(old, new),
        )


def stability_index(old: Numbers, new: Numbers) -> float:
    """The population stability index of two samples' counts [k]: how much they differ, not how surely.

    Sum of (new share - old share) log(new share / old share), each count with a half more, for empty bins.
    Without a shift about (k - 1) (1 / n_old + 1 / n_new) is expected (Yurdakul & Naranjo 2020, "Statistical
    properties of the population stability index").
    """
    shares = [(counts + 0.5) / (counts.sum() + len(counts) / 2) for counts in (old, new)]
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())


def _events(sketch: Sketch, counts: Numbers) -> Numbers:
    """How many records have each event: a kind, or a size up to an edge."""
    found: Numbers = np.cumsum(counts)[:-1] if sketch.is_of_sizes else counts
    return found


def _short(value: object) -> object:
    return float(f"{value:.4g}") if isinstance(value, float) else value
