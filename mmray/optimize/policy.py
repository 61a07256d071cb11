"""Which stages a cascade has and when a record may leave it, under a budget that the user states.

The stages are in the order of what their modalities cost, measured on this machine. One threshold for the
calibrated confidence serves all exits. It is lowered step by step for as long as an upper bound of what the
early answers cost keeps within the budget: fixed sequence testing, so that the one that is taken needs no
correction for the others that were looked at (Angelopoulos et al. 2021, "Learn then Test", section 2.3).

The bound is the exact binomial one (Clopper & Pearson 1934): of n groups of records, taken as independent, k
records were harmed. Early answers that are better than the whole model's do not make up for it. So it errs on
the careful side, and needs no labels where the budget is one of agreement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmray.bounds import upper_bound
from mmray.bundle import Exit
from mmray.cascade import softmax
from mmray.errors import InputError
from mmray.optimize.calibration import fit_temperature
from mmray.optimize.evidence import Evidence
from mmray.schema import set_name

_THRESHOLDS = (0.999, 0.995, *np.round(np.arange(0.99, 0.295, -0.01), 3).tolist())
_LEAST_ROWS = 30  # of a set of modalities that gets an exit
_WORTH = 0.02  # of the whole cost, that an exit after the first must save


@dataclass(frozen=True)
class Budget:
    """What early answers may cost; exactly one of the first two."""

    accuracy_loss: float | None  # share of records, at most, that are right in full and wrong early
    disagreement: float | None  # share of records, at most, that are decided otherwise
    confidence: float  # of the bound, one-sided

    @property
    def allowed(self) -> float:
        return self.accuracy_loss if self.accuracy_loss is not None else self.disagreement or 0.0


@dataclass(frozen=True)
class Point:
    """What one threshold does on the evidence."""

    threshold: float
    left: tuple[float, ...]  # share of the records that leave after each stage but the last
    harmed: int  # records that count against the budget
    bound: float  # of their share, upper
    accuracy: float
    agreement: float  # with the whole model, of all records
    speedup: float  # the whole model's cost over this one's

    @property
    def early(self) -> float:
        return sum(self.left)


@dataclass(frozen=True)
class Policy:
    """What was chosen, and what else there was to choose from."""

    stages: tuple[tuple[str, ...], ...]  # modalities of each
    exits: tuple[dict[str, Exit], ...]  # of each stage but the last
    disagreement: float  # upper bound of the share of early answers that the whole model would not give
    chosen: Point
    curve: tuple[Point, ...]  # from the strictest threshold on


def choose_policy(evidence: Evidence, costs: Mapping[str, float], budget: Budget) -> Policy:
    """Choose stages and exits.

    Args:
        evidence: of the model that is cut into stages.
        costs: milliseconds that each modality costs a record, preprocessing and encoder.
        budget: what early answers may cost.

    Raises:
        InputError: there are too few records to support the budget, or the model looks at one modality only.
    """
    order = sorted(evidence.modalities, key=lambda m: costs[m])
    if len(order) < 2:
        raise InputError("a cascade needs a model of two modalities or more")
    stages: tuple[tuple[str, ...], ...] = tuple((m,) for m in order)
    if budget.accuracy_loss is not None and (evidence.labels < 0).any():
        raise InputError("a budget of accuracy needs a known label of every record; state `disagreement`")
    groups = len(np.unique(evidence.groups))
    if upper_bound(0, groups, budget.confidence) > budget.allowed:
        best = upper_bound(0, groups, budget.confidence)
        raise InputError(
            f"{groups} groups of records cannot show that at most {budget.allowed:.2%} are harmed: even if "
            f"none were, the bound is {best:.2%}; give more evidence, or a larger budget"
        )
    trial = _Trial(evidence, stages, costs, budget)
    chosen = trial.strictest_beyond_doubt()
    while (worthless := trial.worthless(chosen)) is not None:
        merged = stages[worthless] + stages[worthless + 1]
        stages = (*stages[:worthless], merged, *stages[worthless + 2 :])
        trial = _Trial(evidence, stages, costs, budget)
        chosen = trial.at(chosen.threshold)
    return Policy(
        stages,
        trial.exits(chosen.threshold),
        trial.disagreement(chosen.threshold),
        chosen,
        tuple(trial.at(threshold) for threshold in _THRESHOLDS),
    )


class _Trial:
    """Stages tried on the evidence."""

    def __init__(
        self,
        evidence: Evidence,
        stages: Sequence[tuple[str, ...]],
        costs: Mapping[str, float],
        budget: Budget,
    ) -> None:
        self._evidence, self._budget = evidence, budget
        self._groups = len(np.unique(evidence.groups))
        self._costs = [sum(costs[m] for m in stage) for stage in stages]
        self._full = _decisions(evidence, evidence.present)
        self._temperatures: list[dict[str, float]] = []
        self._confidence: list[npt.NDArray[np.float32]] = []  # 0 where there is no exit
        self._early: list[npt.NDArray[np.intp]] = []
        for number in range(len(stages) - 1):
            seen = {m for stage in stages[: number + 1] for m in stage}
            self._add_stage(evidence.present & np.isin(evidence.modalities, list(seen)))

    def strictest_beyond_doubt(self) -> Point:
        """The lowest threshold that keeps within the budget together with all higher ones."""
        chosen = self.at(1.1)
        for threshold in _THRESHOLDS:
            point = self.at(threshold)
            if point.bound > self._budget.allowed:
                break
            chosen = point
        return chosen

    def worthless(self, point: Point) -> int | None:
        """The stage after the first whose exits save too little to be worth a graph of its own."""
        for number in range(1, len(point.left)):
            saved = point.left[number] * sum(self._costs[number + 1 :])
            if saved < _WORTH * sum(self._costs):
                return number
        return None

    def at(self, threshold: float) -> Point:
        """What a threshold does."""
        decided, left = self._decide(threshold)
        labels = self._evidence.labels
        right, was_right = decided == labels, self._full == labels
        differs = decided != self._full
        harmed = int((was_right & ~right if self._budget.accuracy_loss is not None else differs).sum())
        shares = [float((left == number).mean()) for number in range(len(self._costs) - 1)]
        reaching = 1 - np.concatenate([[0.0], np.cumsum(shares)])
        return Point(
            threshold=threshold,
            left=tuple(shares),
            harmed=harmed,
            bound=upper_bound(harmed, self._groups, self._budget.confidence),
            accuracy=float(right[labels >= 0].mean()) if (labels >= 0).any() else 0.0,
            agreement=float(1 - differs.mean()),
            speedup=float(sum(self._costs) / np.dot(reaching, self._costs)),
        )

    def exits(self, threshold: float) -> tuple[dict[str, Exit], ...]:
        """Of each stage but the last."""
        return tuple(
            {name: Exit(temperature=t, threshold=threshold) for name, t in found.items()}
            for found in self._temperatures
        )

    def disagreement(self, threshold: float) -> float:
        """Upper bound of the share of early answers that the whole model would not give."""
        decided, left = self._decide(threshold)
        early = left < len(self._costs) - 1
        groups = len(np.unique(self._evidence.groups[early]))
        return upper_bound(int((decided != self._full)[early].sum()), groups, self._budget.confidence)

    def _decide(self, threshold: float) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Decision of each record, and the stage that it leaves after."""
        decided, left = self._full.copy(), np.full(len(self._full), len(self._costs) - 1)
        for number in reversed(range(len(self._costs) - 1)):
            leaves = self._confidence[number] >= threshold
            decided[leaves], left[leaves] = self._early[number][leaves], number
        return decided, left

    def _add_stage(self, present: npt.NDArray[np.bool_]) -> None:
        """A stage that sees what is present: its temperatures, confidences and decisions."""
        evidence = self._evidence
        confidence = np.zeros(len(evidence), np.float32)
        temperatures = {}
        for name, rows in _sets(evidence, present):
            if rows.sum() < _LEAST_ROWS:
                continue
            logits = evidence.logits[name][rows]
            labelled = evidence.labels[rows] >= 0
            temperatures[name] = 1.0
            if labelled.sum() >= _LEAST_ROWS:
                temperatures[name] = fit_temperature(logits[labelled], evidence.labels[rows][labelled])
            confidence[rows] = softmax(logits / temperatures[name]).max(axis=1)
        self._temperatures.append(temperatures)
        self._confidence.append(confidence)
        self._early.append(_decisions(evidence, present))


def _sets(evidence: Evidence, present: npt.NDArray[np.bool_]) -> list[tuple[str, npt.NDArray[np.bool_]]]:
    """Name and rows [N] of each set of modalities that occurs and that there are logits for."""
    found = []
    for flags in np.unique(present, axis=0):
        name = set_name(evidence.modalities, flags)
        if name in evidence.logits:
            found.append((name, (present == flags).all(axis=1)))
    return found


def _decisions(evidence: Evidence, present: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    """Best class [N] of each record, from what is present; -1 where nothing is."""
    decided = np.full(len(evidence), -1, np.intp)
    for name, rows in _sets(evidence, present):
        decided[rows] = evidence.logits[name][rows].argmax(axis=1)
    return decided
