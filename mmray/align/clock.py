"""The relation of two clocks: a straight line, estimated from common events.

The offset first, as the peak in the histogram of all differences between the events of two trains: the
cross-correlogram of point processes (Perkel, Gerstein & Moore 1967, Biophysical Journal 7), read as Knapp &
Carter read a cross-correlation (1976, IEEE Trans. ASSP 24). As drift smears the peak, each drift of a grid is
tried. Then offset and drift together, by a line through the pairs that match: the median of pairwise slopes
(Theil 1950; Sen 1968, J. Am. Stat. Assoc. 63), refined by least squares over the pairs that stay close, which
are matched again each time (trimmed iterated closest points: Chetverikov et al. 2002, ICPR).

Events in only one train do no harm unless chance could explain the peak; then the fit is refused. If
temperature bends a clock, fit shorter pieces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from mmray.errors import InputError

Array = npt.NDArray[np.float64]
Seconds = TypeVar("Seconds", float, Array)

_LEAST = 8  # events in common
_FALSE_ALARM = 1e-4  # probability that chance gives such a peak anywhere in the search
_RIVAL = (
    0.75  # relative height of a second peak above which the fit is ambiguous: trains that repeat themselves
)
_COARSE_S = 7_200.0  # the histogram uses no more than this, so that the grid has a few hundred drifts
_MAX_PAIRS = 2_000_000  # differences in the histogram; of denser trains, every n-th event is used
_ANCHORS = 400  # pairs whose 80,000 slopes are compared
_ROUNDS = 20
_LEAST_GATE_S = 1e-3  # streams that agree perfectly must still match after rounding
_SAMPLE = 10_000  # differences from which the jitter is estimated
_NORMAL_95 = 1.96  # standard deviations that hold 95 % of a normal distribution
_INTERVAL_95 = 1.92  # drop of a log-likelihood from its maximum that bounds a 95 % interval (Wilks 1938)


@dataclass(frozen=True)
class Clock:
    """Takes one clock to the common one, in seconds: common = offset_s + (1 + drift_ppm / 1e6) * own."""

    offset_s: float = 0.0
    drift_ppm: float = 0.0

    def to_common(self, own_s: Seconds) -> Seconds:
        return self.offset_s + (1 + self.drift_ppm / 1e6) * own_s

    def from_common(self, common_s: Seconds) -> Seconds:
        return (common_s - self.offset_s) / (1 + self.drift_ppm / 1e6)


@dataclass(frozen=True)
class Train:
    """Events on one clock.

    Args:
        at_s: float64 [events].
        resolution_s: each happened up to half of this before or after its time, uniformly: the distance of
            two frames, the hop of a detector.
    """

    at_s: Array
    resolution_s: float = 0.0


@dataclass(frozen=True)
class Search:
    """The search range of a clock."""

    max_offset_s: float = 30.0  # in the middle of the train
    max_drift_ppm: float = 500.0  # quartz is within 100; dropped samples of a recorder add to it
    spread_s: float = 0.06  # at the right clock, the two times of an event differ by no more than this


@dataclass(frozen=True)
class Fit:
    """A clock, and its error.

    Args:
        clock: from the train's own seconds to those of the reference.
        error_s: 95 % of single times, converted to the reference, have a smaller error. It includes the
            jitter of both trains' times and the largest error of the line. It excludes the resolution of the
            trains, which is a property of the events, not of the times.
        matched: events that both trains have.
        events: all of the train.
    """

    clock: Clock
    error_s: float
    matched: int
    events: int


def fit_clock(train: Train, reference: Train, search: Search | None = None) -> Fit:
    """Find the clock that takes a train to the reference.

    A delay that all events share, such as a detector's or of sound in air, is part of the offset.

    Raises:
        InputError: the trains have too little in common, or repeat themselves.
    """
    search = search or Search()
    own, other = np.unique(train.at_s), np.unique(reference.at_s)
    if min(len(own), len(other)) < _LEAST:
        raise InputError(f"{len(own)} and {len(other)} events; {_LEAST} are needed to compare two clocks")
    clock = _coarse(own, other, search)
    blur_s = float(np.hypot(train.resolution_s, reference.resolution_s))  # as one uniform distribution
    clock, mine, theirs, gate_s = _refine(clock, own, other, search, blur_s)
    return Fit(clock, _error_s(clock, mine, theirs, gate_s, blur_s), len(mine), len(own))


def _coarse(own: Array, other: Array, search: Search) -> Clock:
    """The offset, at the drift of a grid, on which most pairs of events agree."""
    own = own[own <= own[0] + _COARSE_S]
    middle, span = (own[0] + own[-1]) / 2, own[-1] - own[0]
    reach = search.max_offset_s + search.max_drift_ppm / 1e6 * span / 2
    position, difference = _differences(own, other, reach)
    position -= middle
    cell = search.spread_s  # two cells side by side count together, so that no edge splits the peak
    cells = int(2 * search.max_offset_s / cell) + 2
    steps = 1 + int(search.max_drift_ppm / 1e6 * span / cell)
    drifts = np.linspace(-search.max_drift_ppm, search.max_drift_ppm, 2 * steps + 1)
    heights, peak, drift = np.zeros(cells - 1, np.int64), 0, 0.0
    for candidate in drifts:
        cell_of = np.floor((difference - candidate / 1e6 * position + search.max_offset_s) / cell)
        inside = cell_of[(cell_of >= 0) & (cell_of < cells)].astype(np.int64)
        counts = np.bincount(inside, minlength=cells)
        both = counts[:-1] + counts[1:]
        if both.max() > heights[peak]:
            heights, peak, drift = both, int(both.argmax()), float(candidate)
    _check(heights, peak, len(drifts))
    offset = (peak + 1) * cell - search.max_offset_s
    return Clock(offset - drift / 1e6 * middle, drift)


def _differences(own: Array, other: Array, reach_s: float) -> tuple[Array, Array]:
    """Time of one event and distance to the other, of all pairs within reach: float64 [pairs] each."""
    first, last = (np.searchsorted(other, own + side) for side in (-reach_s, reach_s))
    if (pairs := int((last - first).sum())) > _MAX_PAIRS:
        every = -(-pairs // _MAX_PAIRS)
        own, first, last = own[::every], first[::every], last[::every]
    near = [other[a:b] - at for at, a, b in zip(own, first, last, strict=True)]
    return np.repeat(own, last - first), np.concatenate(near)


def _check(heights: npt.NDArray[np.int64], peak: int, drifts: int) -> None:
    """Refuse a peak that may be chance, or that has a competing one."""
    height, chance = int(heights[peak]), float(heights.mean())
    import scipy.special  # takes .15 s, which runs without alignment do not need

    if height < _LEAST or scipy.special.pdtrc(height - 1, chance) * len(heights) * drifts > _FALSE_ALARM:
        raise InputError(
            f"the clocks cannot be compared: at best {height} events agree, where chance gives {chance:.1f}; "
            "do the streams belong together, and within the largest offset?"
        )
    rivals = np.delete(heights, range(max(0, peak - 3), min(len(heights), peak + 4)))
    rival = int(rivals.max(initial=0))
    if rival - chance > _RIVAL * (height - chance):
        raise InputError(
            f"the clocks cannot be compared: {height} events agree on one offset and {rival} on another"
        )


def _refine(
    clock: Clock, own: Array, other: Array, search: Search, blur_s: float
) -> tuple[Clock, Array, Array, float]:
    """A line through the pairs of nearest events, these pairs (float64 [matched] each), and the largest
        distance
    in a pair.
    """
    gate, horizon = 2 * search.spread_s, _COARSE_S
    fit = _theil_sen
    for _ in range(_ROUNDS):
        mine, theirs = _pairs(clock, own[own <= own[0] + horizon], other, gate)
        if len(mine) < _LEAST:
            raise InputError(f"the clocks cannot be compared: only {len(mine)} events are in both streams")
        before, clock = clock, fit(mine, theirs)
        off = np.abs(theirs - clock.to_common(mine))
        converged = abs(clock.to_common(own[-1]) - before.to_common(own[-1])) < 1e-6 and fit is _least_squares
        if converged and horizon >= own[-1] - own[0]:
            break
        # 1.4826 times the median deviation is the standard deviation of a normal distribution.
        gate = min(gate, max(3.5 * 1.4826 * float(np.median(off)), blur_s, _LEAST_GATE_S))
        fit, horizon = _least_squares, 2 * horizon
    return clock, mine, theirs, gate


def _pairs(clock: Clock, own: Array, other: Array, gate_s: float) -> tuple[Array, Array]:
    """Events that are each other's nearest within the gate."""
    there = clock.to_common(own)
    theirs = _nearest(there, other)
    back = _nearest(other[theirs], there)
    mutual = (back == np.arange(len(own))) & (np.abs(other[theirs] - there) <= gate_s)
    return own[mutual], other[theirs[mutual]]


def _nearest(at: Array, among: Array) -> npt.NDArray[np.int64]:
    """Index of the nearest of some ascending times, for each time."""
    right = np.searchsorted(among, at).clip(1, len(among) - 1)
    nearest: npt.NDArray[np.int64] = right - (at - among[right - 1] <= among[right] - at)
    return nearest


def _theil_sen(mine: Array, theirs: Array) -> Clock:
    every = -(-len(mine) // _ANCHORS)
    x, y = mine[::every], (theirs - mine)[::every]
    i, j = np.triu_indices(len(x), 1)
    slope = float(np.median((y[j] - y[i]) / (x[j] - x[i])))
    return Clock(float(np.median(y - slope * x)), 1e6 * slope)


def _least_squares(mine: Array, theirs: Array) -> Clock:
    x, y = mine - mine.mean(), theirs - mine
    slope = float((x * y).sum() / (x * x).sum())
    return Clock(float(y.mean()) - slope * float(mine.mean()), 1e6 * slope)


def _error_s(clock: Clock, mine: Array, theirs: Array, gate_s: float, blur_s: float) -> float:
    """The error that 95 % of single times do not exceed."""
    off, lever = theirs - clock.to_common(mine), mine - mine.mean()
    jitter = _jitter_s(off, gate_s, blur_s) ** 2
    line = (jitter + blur_s**2 / 12) * float(1 / len(off) + (lever**2).max() / (lever**2).sum())
    return _NORMAL_95 * float(np.sqrt(jitter + line))


def _jitter_s(off: Array, gate_s: float, blur_s: float) -> float:
    """Upper bound of the standard deviation of the times themselves, from the differences of pairs.

    A difference is normal jitter plus uniform noise; or the pair is a mismatch, with any difference within
    the gate. Of the two unknowns, jitter and share of mismatches, the upper end of the jitter's 95 % interval
    by likelihood.
    """
    off = off[:: -(-len(off) // _SAMPLE)]
    blur_s = max(blur_s, 1e-4)
    jitters = np.geomspace(gate_s / 200, gate_s, 60)
    edges = (np.abs(off) + blur_s * np.array([[[0.5]], [[-0.5]]])) / jitters[:, None]
    import scipy.special

    above, below = scipy.special.ndtr(edges)
    matched = (above - below) / blur_s  # [jitters, pairs]: density of the difference
    likelihoods = [
        np.log((1 - mismatches) * matched + mismatches / (2 * gate_s)).sum(axis=1)
        for mismatches in np.linspace(0.01, 0.5, 20)
    ]
    profile = np.max(likelihoods, axis=0)
    return float(jitters[profile >= profile.max() - _INTERVAL_95].max())
