"""Bounds of a share or a difference, for records in groups that are not independent of each other.

The bounds are those of a bootstrap that weights whole groups: each gets a weight drawn from an exponential
distribution (the Bayesian bootstrap, Rubin 1981; groups instead of records as in Cameron, Gelbach & Miller
2008, "Bootstrap-based improvements for inference with clustered errors"). One group in which
everything goes wrong is added to the observed ones, so that unobserved events do not count as impossible. If
all groups have one record and the values are yes or no, the bound is that of Clopper & Pearson (1934). For
any values within limits it is that of Gaffke (2005), see Learned-Miller & Thomas (2019), "A new confidence
interval for the mean of a bounded random variable".

No random numbers are drawn: the distribution of a weighted sum of exponential variables is known closely
enough by its saddlepoint (Lugannani & Rice 1980; for the bootstrap: Davison & Hinkley 1997, section 9.5). So
the same records give the same bound in any order, at any confidence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import ndtri

_EXACT = 1e-7  # of a bound
_CERTAIN = 40.0  # normal score of certainty

Values: TypeAlias = npt.NDArray[np.bool_] | npt.NDArray[np.float64] | npt.NDArray[np.float32]


class Clusters:
    """Groups of records, for bounds of the mean of any values of these records.

    Records of one group may depend on each other in any way. Groups are independent draws from a population
    of groups; the mean that is bounded is the one over all records of that population.

    Values are bool (a share, between 0 and 1) or float within [-1, 1] (a paired difference: -1 for a record
    that only the parent gets right, +1 for one that only the variant gets right).
    """

    def __init__(self, groups: npt.NDArray[Any]) -> None:
        """Take the groups.

        Args:
            groups: [N], a name or number of each record's group.
        """
        _, self._group = np.unique(groups, return_inverse=True)
        self._sizes = np.bincount(self._group).astype(np.float64)

    @property
    def count(self) -> int:
        """Number of groups."""
        return len(self._sizes)

    def upper(self, values: Values, confidence: float) -> float:
        """Upper bound of the mean.

        Args:
            values: [N], of each record; bool or within [-1, 1].
            confidence: one-sided, at least 0.5 and less than 1.

        Returns:
            Never less than the mean of the values; 1 if there are none.

        Raises:
            ValueError: the values are not one for each record, or not within [-1, 1]; or the confidence.
        """
        return self._upper(self._checked(values), confidence)

    def lower(self, values: Values, confidence: float) -> float:
        """Lower bound of the mean. Arguments and errors as for `upper`."""
        checked = self._checked(values)
        if values.dtype == np.bool_:
            return 1 - self._upper(1 - checked, confidence)
        return -self._upper(-checked, confidence)

    def interval(self, values: Values, confidence: float) -> tuple[float, float]:
        """Two-sided: both bounds, each with half of the error probability."""
        one_sided = (1 + confidence) / 2
        return self.lower(values, one_sided), self.upper(values, one_sided)

    def _checked(self, values: Values) -> npt.NDArray[np.float64]:
        if values.shape != self._group.shape:
            raise ValueError(f"values are {values.shape}, groups {self._group.shape}: one of each a record")
        checked = values.astype(np.float64)
        if not (np.abs(checked) <= 1).all():  # also where one is NaN
            raise ValueError("values must lie within [-1, 1]")
        return checked

    def _upper(self, values: npt.NDArray[np.float64], confidence: float) -> float:
        sums = np.bincount(self._group, weights=values).astype(np.float64)
        return _upper(sums, self._sizes, confidence)


def share_interval(
    happened: npt.NDArray[np.float64], sizes: npt.NDArray[np.float64], confidence: float
) -> tuple[float, float]:
    """As `Clusters.interval` of bool values, from sums of each group.

    Args:
        happened: [G], for how many records of each group the value is true.
        sizes: [G], records of each group; empty groups do not count.
        confidence: two-sided.
    """
    there, one_sided = sizes > 0, (1 + confidence) / 2
    happened, sizes = happened[there].astype(np.float64), sizes[there].astype(np.float64)
    return 1 - _upper(sizes - happened, sizes, one_sided), _upper(happened, sizes, one_sided)


def difference_interval(
    sums: npt.NDArray[np.float64], sizes: npt.NDArray[np.float64], confidence: float
) -> tuple[float, float]:
    """As `Clusters.interval` of values within [-1, 1], from sums [G] and sizes [G] of each group."""
    there, one_sided = sizes > 0, (1 + confidence) / 2
    sums, sizes = sums[there].astype(np.float64), sizes[there].astype(np.float64)
    return -_upper(-sums, sizes, one_sided), _upper(sums, sizes, one_sided)


def _upper(sums: npt.NDArray[np.float64], sizes: npt.NDArray[np.float64], confidence: float) -> float:
    """Upper bound of the mean, given the sum and the number of the values of each group."""
    if not 0.5 <= confidence < 1:
        raise ValueError(f"a confidence of {confidence} is not at least 0.5 and less than 1")
    if not len(sizes):
        return 1.0
    seen = float(sums.sum() / sizes.sum())
    # The added group has the size of large groups: these may be few, and go wrong more often. The mean size
    # would not cover that (jobs/bench/gates.py); the largest gives wider bounds.
    unseen = (sizes**3).sum() / (sizes**2).sum()
    # Many groups are equal. Complex numbers sort by both parts.
    kinds, counts = np.unique(sums + 1j * sizes, return_counts=True)
    sums, sizes = np.append(kinds.real, unseen), np.append(kinds.imag, unseen)
    counts = np.append(counts, 1)

    needed = float(ndtri(confidence))

    def excess(mean: float) -> float:
        return _score_below(sums - mean * sizes, counts) - needed

    if excess(seen) >= 0:
        return seen
    return float(brentq(excess, seen, 1.0, xtol=_EXACT))


def least_groups(share: float, confidence: float) -> int:
    """Number of groups of equal size needed to show that a share is at most this, if no event was observed.

    If sizes differ, more are needed: then use `Clusters.upper` with values that are all False.

    Raises:
        ValueError: the share is 0, which no number of groups can show.
    """
    if share <= 0:
        raise ValueError("no number of groups shows that something never happens: allow a share above 0")
    if share >= 1:
        return 1
    groups = math.ceil(math.log(1 - confidence) / math.log(1 - share))
    while Clusters(np.arange(groups)).upper(np.zeros(groups, np.bool_), confidence) > share:
        groups += 1
    return groups


def holm(shown_at: Mapping[str, Callable[[float], bool]], confidence: float) -> set[str]:
    """Which of several claims are shown, so that all of these together hold with the confidence.

    Step-down (Holm 1979, "A simple sequentially rejective multiple test procedure"): with m claims left, each
    must be shown at 1 - (1 - confidence) / m; those that are shown are removed, and the others need less.

    Args:
        shown_at: for each claim, whether the evidence shows it at a confidence. A claim shown at one is shown
            at any lower one.
        confidence: that no returned claim is false.
    """
    left, shown = dict(shown_at), set[str]()
    while left:
        needed = 1 - (1 - confidence) / len(left)
        found = {name for name, shows in left.items() if shows(needed)}
        if not found:
            break
        shown |= found
        left = {name: shows for name, shows in left.items() if name not in found}
    return shown


def _score_below(terms: npt.NDArray[np.float64], counts: npt.NDArray[np.intp]) -> float:
    """Normal score of the probability that a sum of exponential variables, each times its term, is at most 0.

    The saddlepoint formula of Lugannani & Rice (1980), "Saddle point approximation for the distribution of
    the sum of independent random variables", in the form of Barndorff-Nielsen (1986), "Inference on full or
    partial parameters based on the standardized signed log likelihood ratio". A bound is up to .6 %
    of itself too wide if no event was observed; less otherwise.

    Args:
        terms: [K], factors.
        counts: [K], how many variables have this factor.
    """

    def slope(point: float) -> float:  # of the logarithm of the moment generating function
        return float((counts * terms / (1 - terms * point)).sum())

    if terms.max() <= 0:
        return _CERTAIN
    if terms.min() >= 0:
        return -_CERTAIN
    inside = 1 - 1e-12
    lowest, highest = inside / terms.min(), inside / terms.max()
    if slope(highest) <= 0:
        return _CERTAIN
    if slope(lowest) >= 0:
        return -_CERTAIN
    point = brentq(slope, lowest, highest, xtol=1e-7 * min(-lowest, highest), rtol=1e-7)
    height = float((counts * np.log1p(-terms * point)).sum())
    if height < 1e-8:  # at the mean itself the formula is 0 / 0
        return 0.0
    root = math.copysign(math.sqrt(2 * height), point)
    width = point * math.sqrt(float((counts * (terms / (1 - terms * point)) ** 2).sum()))
    return root + math.log(width / root) / root
