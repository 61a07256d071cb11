"""Simulations of `jobs/bench/gates.py`: groups of records, and bounds and choices based on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from mmray.stats.bounds import upper_bound
from mmray.stats.intervals import Clusters, holm

CONFIDENCE = 0.95
RESAMPLES = 1000  # of the percentile bootstrap; the same for all simulations of a case
SIZES = ("1", "1-50", "few of 50", "few of 50, hit more")
ONE, ANY, FEW, HIT = SIZES
GRID = np.round(np.arange(0.98, -0.01, -0.04), 2)  # thresholds, strictest first
SLICES, SLICE_LIMIT = 12, 0.1
WORST = 0.61  # probability of a wrong answer at zero confidence; then some thresholds are slightly too low

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ids = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Case:
    """Groups, and how events of their records depend on them."""

    groups: int
    sizes: str  # of SIZES
    within: float  # correlation of records of one group

    def draw(self, random: np.random.Generator) -> tuple[Ids, Floats]:
        """Group [N] of each record, and its relative frequency of events [N]."""
        few = max(0.02, 3 / self.groups)
        if self.sizes == ONE:
            sizes = np.ones(self.groups, np.intp)
        elif self.sizes == ANY:
            sizes = random.integers(1, 51, self.groups)
        else:
            sizes = np.where(random.random(self.groups) < few, 50, 1)
        group = np.repeat(np.arange(self.groups), sizes)
        if self.sizes != HIT:
            return group, np.ones(len(group))
        # In proportion to the size, so that the mean over all records of the population is 1.
        mean, square = 1 + 49 * few, 1 + (50**2 - 1) * few
        return group, sizes[group].astype(np.float64) * (mean / square)

    def latent(self, random: np.random.Generator, group: Ids) -> Floats:
        """Uniform numbers [N]; records of one group share theirs with probability sqrt(within)."""
        shared = random.random(group.max() + 1)[group]
        alone = random.random(len(group)) >= np.sqrt(self.within)
        return np.where(alone, random.random(len(group)), shared)


def percentiles(sums: Floats, sizes: Floats, seed: int) -> Floats:
    """Upper percentile of each simulation's mean [simulations], by a bootstrap over its groups.

    Args:
        sums: [simulations, groups], of the values of each group.
        sizes: the same, records.
        seed: of what is drawn.
    """
    groups = sums.shape[1]
    random = np.random.default_rng(seed)
    times = random.multinomial(groups, np.full(groups, 1 / groups), RESAMPLES).astype(np.float32)
    means = (times @ sums.T.astype(np.float32)) / (times @ sizes.T.astype(np.float32))
    return np.asarray(np.quantile(means, CONFIDENCE, axis=0), np.float64)


def bound_of_loss(case: Case, lost: float, gained: float, simulations: int) -> dict[str, Any]:
    """How often upper bounds of a mean hold: of a share that is `lost`, or of losses minus gains.

    A bound of the loss from above is one of the paired difference from below.
    """
    random = np.random.default_rng(1)
    truth = lost - gained
    ours, trials = np.empty(simulations), np.full(simulations, np.nan)
    sums, sizes = np.empty((simulations, case.groups)), np.empty((simulations, case.groups))
    for i in range(simulations):
        group, factor = case.draw(random)
        latent = case.latent(random, group)
        loses, gains = latent < lost * factor, latent > 1 - gained * factor
        clusters = Clusters(group)
        if gained:
            values = gains.astype(np.float64) - loses
            ours[i] = -clusters.lower(values, CONFIDENCE)
        else:
            values = -loses.astype(np.float64)
            ours[i] = clusters.upper(loses, CONFIDENCE)
            trials[i] = upper_bound(int(loses.sum()), case.groups, CONFIDENCE)
        sums[i], sizes[i] = np.bincount(group, -values), np.bincount(group)
    naive = percentiles(sums, sizes, seed=2)
    return {
        "new": float((ours >= truth).mean()),
        "percentile": float((naive >= truth).mean()),
        "trials": float((trials >= truth).mean()) if not gained else None,
        "mean_new": float(ours.mean()),
        "mean_percentile": float(naive.mean()),
    }


def wrong_slices(case: Case, bad: int, simulations: int) -> dict[str, Any]:
    """How often any of the slices at the limit passes.

    The other slices have a tenth of the errors; `found` is the share of them that passes.
    """
    random = np.random.default_rng(3)
    rates = np.where(np.arange(SLICES) < bad, SLICE_LIMIT, SLICE_LIMIT / 10)
    called_good = np.zeros((simulations, 3, SLICES), bool)
    for i in range(simulations):
        group, factor = case.draw(random)
        of_slice = random.integers(SLICES, size=case.groups)[group]  # as with labels, a group is in one
        wrong = case.latent(random, group) < rates[of_slice] * factor
        called_good[i] = _good_slices(
            [(group[rows], wrong[rows]) for rows in np.arange(SLICES)[:, None] == of_slice]
        )
    any_bad = called_good[:, :, :bad].any(axis=2).mean(axis=0)
    found = float(called_good[:, 0, bad:].mean()) if bad < SLICES else None
    return dict(zip(("new", "alone", "point"), any_bad.tolist(), strict=True)) | {"found": found}


def _good_slices(slices: Sequence[tuple[Ids, Bools]]) -> Bools:
    """Whether each slice passes, by Holm, by its own bound, and by the estimate [3, slices]."""
    clusters = [Clusters(group) for group, _ in slices]

    def shown(number: int, confidence: float) -> bool:
        return clusters[number].upper(slices[number][1], confidence) < SLICE_LIMIT

    numbers = range(len(slices))
    together = holm({str(n): partial(shown, n) for n in numbers}, CONFIDENCE)
    return np.array(
        [
            [str(n) in together for n in numbers],
            [shown(n, CONFIDENCE) for n in numbers],
            [wrong.mean() < SLICE_LIMIT if len(wrong) else False for _, wrong in slices],
        ]
    )


def chosen_exit(case: Case, budget: float, simulations: int) -> dict[str, Any]:
    """How often a threshold is chosen at which more records than the budget allows are harmed by early exits.

    A record of confidence c is harmed with probability WORST (1 - c)^2: WORST / 3 (1 - t)^3 of all.
    """

    def thresholds(group: Ids, sure: Floats, wrong: Bools) -> tuple[float, float]:
        clusters = Clusters(group)
        return (
            lowest(GRID, lambda t: clusters.upper(wrong & (sure >= t), CONFIDENCE), budget),
            lowest(GRID, lambda t: upper_bound(int(wrong[sure >= t].sum()), case.groups, CONFIDENCE), budget),
        )

    random = np.random.default_rng(4)
    found = np.array([thresholds(*_answers(case, random)) for _ in range(simulations)])
    ours, trials = (WORST / 3 * (1 - found) ** 3 > budget).mean(axis=0)
    return {"new": float(ours), "trials": float(trials), "left": float(1 - found[:, 0].mean())}


def chosen_risk(case: Case, risk: float, simulations: int) -> dict[str, Any]:
    """How often more of the answers above the chosen threshold are wrong than the risk allows.

    Of those, a share of WORST / 3 (1 - t)^2 is. Thresholds begin where a third of the risk would be shown if
    nothing were wrong, which is known without labels.
    """

    def thresholds(group: Ids, sure: Floats, wrong: Bools) -> tuple[float, float]:
        def bound(threshold: float) -> float:
            rows = sure >= threshold
            return Clusters(group[rows]).upper(wrong[rows], CONFIDENCE)

        def can_show(threshold: float) -> bool:
            rows = sure >= threshold
            return Clusters(group[rows]).upper(np.zeros(rows.sum(), bool), CONFIDENCE) <= risk / 3

        usable = GRID[next((i for i, t in enumerate(GRID) if can_show(t)), len(GRID)) :]
        return lowest(usable, bound, risk), lowest(usable, lambda t: float(wrong[sure >= t].mean()), risk)

    random = np.random.default_rng(5)
    found = np.array([thresholds(*_answers(case, random)) for _ in range(simulations)])
    ours, point = (WORST / 3 * (1 - found) ** 2 > risk).mean(axis=0)
    return {"new": float(ours), "point": float(point), "left": float(1 - found[:, 0].mean())}


def _answers(case: Case, random: np.random.Generator) -> tuple[Ids, Floats, Bools]:
    """For each record [N]: its group, its confidence, and whether its answer is wrong."""
    group, factor = case.draw(random)
    sure = case.latent(random, group)  # records of one caption have the same confidence
    return group, sure, case.latent(random, group) < WORST * (1 - sure) ** 2 * factor


def lowest(grid: Floats, bound: Callable[[float], float], allowed: float) -> float:
    """The lowest threshold whose bound is within the limit, like all before it; 1 if none is.

    Fixed sequence testing (Angelopoulos et al. 2021, "Learn then Test", section 2.3).
    """
    chosen = 1.0
    for threshold in grid:
        if bound(threshold) > allowed:
            break
        chosen = float(threshold)
    return chosen
