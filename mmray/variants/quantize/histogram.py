"""The distribution of one activation's values, in bounded memory, and its clipping range."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt

Method = Literal["percentile", "minmax", "entropy"]

#: Of "percentile": the share of the values that may lie beyond either end.
TAIL = 1e-4

_BINS = 4096  # on each side of zero
_LEVELS = 128  # of int8's magnitudes


class Histogram:
    """Counts of values in bins whose width is a power of two.

    If a value is beyond the last bin, bins are merged in pairs until it fits. So the result does not depend
    on the order of values.
    """

    def __init__(self) -> None:
        self.count = 0  # of the values in all samples
        self.low = self.high = 0.0  # of all values; zero is always within
        self._width = 0.0
        self._counts = np.zeros(2 * _BINS, np.int64)

    def add(self, low: float, high: float, values: npt.NDArray[np.float32]) -> None:
        """Add a batch: its extremes, and a sample of its values, at least one.

        Raises:
            ValueError: one of them is not finite.
        """
        if not (math.isfinite(low) and math.isfinite(high) and np.isfinite(values).all()):
            raise ValueError("a value is not finite")
        self.count += len(values)
        self.low, self.high = min(self.low, low), max(self.high, high)
        top = max(-self.low, self.high)
        if not top:
            return
        width = 2.0 ** math.frexp(top)[1] / _BINS
        while 0 < self._width < width:
            self._counts = np.pad(self._counts.reshape(-1, 2).sum(axis=1), _BINS // 2)
            self._width *= 2
        self._width = width
        self._counts += np.bincount(np.floor(values / width).astype(np.int64) + _BINS, minlength=2 * _BINS)

    def range(self, method: Method) -> tuple[float, float]:
        """Lowest and highest value to keep; zero lies between them. See `collect_ranges`."""
        if method == "minmax" or not self._width:
            return self.low, self.high
        low, high = self._within(TAIL) if method == "percentile" else self._closest()
        return max(low, self.low), min(high, self.high)

    def _within(self, tail: float) -> tuple[float, float]:
        """Range with at most so many of the values beyond its ends, rounded outwards to a bin."""
        share = np.cumsum(self._counts) / self._counts.sum()
        first = int(np.searchsorted(share, tail, side="right"))
        last = int(np.searchsorted(share, 1 - tail, side="left"))
        return min((first - _BINS) * self._width, 0.0), max((last + 1 - _BINS) * self._width, 0.0)

    def _closest(self) -> tuple[float, float]:
        """The clipping magnitude at which int8's levels lose least of the distribution.

        The bin at zero is no evidence for a threshold, and after a Relu it would dominate the others: it
        counts as much as its neighbour, as in NVIDIA's pytorch-quantization.
        """
        counts = (self._counts[_BINS:] + self._counts[_BINS - 1 :: -1]).astype(np.float64)
        counts[0] = counts[1]
        ends = range(_LEVELS, _BINS + 1, _LEVELS // 4)
        threshold = min(ends, key=lambda end: (_divergence(counts, end), -end)) * self._width
        return -threshold, threshold


def _divergence(counts: npt.NDArray[np.float64], end: int) -> float:
    """KL divergence of the counts, clipped from bin `end` on, from their int8 levels."""
    kept = counts[:end]
    clipped = kept.copy()
    clipped[-1] += counts[end:].sum()
    level = np.arange(end) * _LEVELS // end
    filled = kept > 0
    sums = np.bincount(level, kept, _LEVELS)
    bins = np.bincount(level, filled, _LEVELS)
    coarse = np.where(filled, (sums / np.maximum(bins, 1))[level], 0.0)
    p, q = clipped / max(clipped.sum(), 1), coarse / max(coarse.sum(), 1)
    there = p > 0
    return float((p[there] * np.log(p[there] / np.maximum(q[there], 1e-12))).sum())
