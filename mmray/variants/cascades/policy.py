"""Chooses the stages of a cascade and its exit thresholds: the fastest setting within a budget.

Every ordered partition of the modalities is tried with every choice of thresholds (`trial`). A setting is
within the budget if a one-sided bound is: of differences paired by record, clustered by group
(`mmray.stats.intervals`). The same records choose the setting and give the bound, so the bound is slightly
optimistic (Cawley & Talbot 2010, "On Over-fitting in Model Selection and Subsequent Selection Bias in
Performance Evaluation"). The verdict comes from records that were not used for the choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from mmray.bundle import Exit
from mmray.errors import InputError
from mmray.stats.intervals import Clusters, Values
from mmray.variants.cascades.costs import Costs
from mmray.variants.cascades.evidence import Evidence
from mmray.variants.cascades.trial import Point, Trial, front

M = TypeVar("M", bound=str)

#: A budget's reference: the model with all of its modalities.
WHOLE = "whole"


@dataclass(frozen=True)
class Budget:
    """What a cascade may cost; exactly one of the first two."""

    accuracy_loss: float | None  # accuracy below the reference's, at most
    disagreement: float | None  # share of records decided differently from the full model, at most
    reference: str = WHOLE  # WHOLE, or modalities as "image" or "image+text"
    confidence: float = 0.95  # of the bound, one-sided

    @property
    def allowed(self) -> float:
        return self.accuracy_loss if self.accuracy_loss is not None else self.disagreement or 0.0

    def looks_at(self, modalities: Sequence[M]) -> tuple[M, ...]:
        """Modalities of the reference, in the order of the model's.

        Raises:
            InputError: the model does not take one of them.
        """
        wanted: Sequence[str] = modalities if self.reference == WHOLE else self.reference.split("+")
        for unknown in set(wanted) - set(modalities):
            raise InputError(
                f"the cascade's reference {self.reference!r}: the model takes no {unknown}, "
                f"but {', '.join(modalities)}"
            )
        return tuple(m for m in modalities if m in wanted)

    def __str__(self) -> str:
        if self.accuracy_loss is None:
            return f"at most {self.allowed:.2%} decided otherwise than by the whole model"
        other = "the whole model" if self.reference == WHOLE else self.reference
        return f"an accuracy at most {self.allowed:.2%} below that of {other}"


@dataclass(frozen=True)
class Policy:
    """The chosen setting, and the alternatives."""

    chosen: Point
    exits: tuple[dict[str, Exit], ...]  # of each stage but the last
    bound: float  # of the limited quantity: accuracy below the reference's, or decisions that differ
    disagreement: float  # upper bound of the share of early answers that differ from the full model's
    tried: int  # number of settings tried
    front: tuple[Point, ...]  # settings that no other beats in both ms and accuracy, the fastest first


def choose_policy(evidence: Evidence, costs: Costs, budget: Budget) -> Policy:
    """Choose the fastest setting whose bound is within the budget.

    Args:
        evidence: of the variant that is cut into stages, on N records that it was not trained on.
        costs: of that variant on this machine.
        budget: what a cascade may cost.

    Raises:
        InputError: no setting is within the budget; or the budget cannot be applied to such records.
    """
    if len(evidence.modalities) < 2:
        raise InputError("a cascade needs a model of two modalities or more")
    trial = Trial(evidence, costs)
    measure = _Measure(trial, budget)
    points = [point for setting in trial.settings() if (point := trial.point(setting)).early]
    bounds: dict[bytes, float] = {}  # by decisions: many settings decide the same, and a bound is slow
    # Among equally fast ones, the more accurate.
    for point in sorted(points, key=lambda p: (p.ms, -p.accuracy, [-t for t in p.setting.thresholds])):
        decided = trial.outcome(point.setting).decided
        if measure.estimate(decided) > budget.allowed or (known := decided.tobytes()) in bounds:
            continue  # the bound is above the estimate, and no bound was within the budget
        bounds[known] = measure.bound(decided)
        if bounds[known] <= budget.allowed:
            exits = trial.exits(point.setting)
            differing = trial.disagreement(point.setting, budget.confidence)
            return Policy(point, exits, bounds[known], differing, len(points), front(points))
    groups = len(np.unique(evidence.groups))
    figure = f"the best bound is {min(bounds.values()):.2%}" if bounds else "none does on these records"
    raise InputError(
        f"none of {len(points)} settings is shown to have {budget} ({budget.confidence:.0%} bound; {figure}; "
        f"{len(evidence)} records in {groups} groups); give more tuning records, or a larger budget"
    )


class _Measure:
    """The quantity that a budget limits, as an estimate and as a bound; smaller is better."""

    def __init__(self, trial: Trial, budget: Budget) -> None:
        evidence = trial.evidence
        self._confidence = budget.confidence
        self._labels: npt.NDArray[np.intp] | None = None
        if budget.accuracy_loss is None:
            self._rows = np.ones(len(evidence), np.bool_)
            self._reference = trial.whole
        else:
            self._rows = evidence.labels >= 0
            if not self._rows.any():
                raise InputError("a budget of accuracy needs labelled records; state `disagreement`")
            self._labels = evidence.labels[self._rows]
            self._reference = trial.decided(budget.looks_at(evidence.modalities))
        self._clusters = Clusters(evidence.groups[self._rows])

    def estimate(self, decided: npt.NDArray[np.intp]) -> float:
        return float(self._values(decided).mean())

    def bound(self, decided: npt.NDArray[np.intp]) -> float:
        return self._clusters.upper(self._values(decided), self._confidence)

    def _values(self, decided: npt.NDArray[np.intp]) -> Values:
        """For each record, its loss against the reference, or whether its decision differs."""
        now, was = decided[self._rows], self._reference[self._rows]
        if self._labels is None:
            differs: npt.NDArray[np.bool_] = now != was
            return differs
        lost: npt.NDArray[np.float64] = (was == self._labels).astype(np.float64) - (now == self._labels)
        return lost
