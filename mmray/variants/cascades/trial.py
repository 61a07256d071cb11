"""Tries settings of a cascade on known answers from each subset of the modalities.

A *setting* is an ordered partition of the modalities into stages and, for each stage but the last, the
minimum calibrated confidence for an early exit. A stage before the image's may look at the image at half size
(HALF). Costs are computed from milliseconds measured on this machine: a record costs the stages that it
reaches, and in each the modalities that it has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations, product

import numpy as np
import numpy.typing as npt

from mmray.bundle import Exit
from mmray.cascade import softmax
from mmray.evaluation import fit_temperature
from mmray.schema import set_name
from mmray.stats.intervals import Clusters
from mmray.variants.cascades.costs import Costs
from mmray.variants.cascades.evidence import HALF, Evidence, modality_of

# 0: every record that can exit does, so that later stages are only for records without the modalities seen.
# No threshold above 1: an exit that no record takes equals the partition in which both stages are one.
_THRESHOLDS = (
    *(0.0, 0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8),
    *(0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999),
)
_FEW_THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)  # for three exits: 19³ are too many
_LEAST_ROWS = 30  # for a set of modalities to get an exit
_LOG_TEMPERATURES = (-2.0, 2.0)
_NO_EXIT = -1.0  # below any threshold

Stages = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Setting:
    """Stages, and for each but the last the minimum confidence for an early exit."""

    stages: tuple[tuple[str, ...], ...]
    thresholds: tuple[float, ...]

    def __str__(self) -> str:
        """As in "text ≥.9 → image ≥0 → audio"."""
        named = ["+".join(stage) for stage in self.stages]
        exits = [f"{name} ≥{threshold:g}" for name, threshold in zip(named, self.thresholds, strict=False)]
        return " → ".join([*exits, named[-1]])


@dataclass(frozen=True)
class Outcome:
    """Result of a setting for N records."""

    decided: npt.NDArray[np.intp]  # [N], class
    left: npt.NDArray[np.intp]  # [N], stage of the answer, from 0
    ms: float  # expected, a record


@dataclass(frozen=True)
class Point:
    """A setting and its figures on the records that it is chosen by."""

    setting: Setting
    ms: float
    accuracy: float  # of the labelled records; without any, the same as `agreement`
    agreement: float  # with the full model, of all records
    early: float  # share of early exits


def settings(looks: Sequence[str]) -> Iterator[Setting]:
    """Every ordered partition into two stages or more, with every choice of thresholds."""
    for stages in partitions(looks):
        grid = _THRESHOLDS if len(stages) < 4 else _FEW_THRESHOLDS
        for thresholds in product(grid, repeat=len(stages) - 1):
            if thresholds:
                yield Setting(stages, thresholds)


def partitions(looks: Sequence[str]) -> list[Stages]:
    """Ordered partitions of a set, 13 for three: one stage first, a stage for each element last.

    With HALF they are the 31 of four in which it comes before the image.
    """
    found: dict[Stages, None] = {}
    for order in permutations(looks):
        for cuts in product((False, True), repeat=len(looks) - 1):
            starts = [0, *(i for i, is_cut in enumerate(cuts, start=1) if is_cut), len(looks)]
            parts = [order[a:b] for a, b in pairwise(starts)]
            stages = tuple(tuple(m for m in looks if m in part) for part in parts)
            stage_of = {look: number for number, stage in enumerate(stages) for look in stage}
            if HALF not in stage_of or stage_of[HALF] < stage_of["image"]:
                found[stages] = None
    return sorted(found, key=len)


def front(points: Sequence[Point]) -> tuple[Point, ...]:
    """The Pareto front in milliseconds and accuracy, the fastest first."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.ms, -p.accuracy)):
        if not kept or point.accuracy > kept[-1].accuracy:
            kept.append(point)
    return tuple(kept)


class Trial:
    """Settings tried on the evidence.

    Args:
        evidence: N records.
        costs: of the variant that gave it.
    """

    def __init__(self, evidence: Evidence, costs: Costs) -> None:
        self.evidence, self.costs = evidence, costs
        self._decided: dict[frozenset[str], npt.NDArray[np.intp]] = {}
        self._exits: dict[frozenset[str], tuple[npt.NDArray[np.float32], dict[str, float]]] = {}
        self._ms: dict[tuple[tuple[str, ...], bool], npt.NDArray[np.float64]] = {}

    def settings(self) -> Iterator[Setting]:
        """All settings that can be tried on the evidence; those with HALF come last."""
        every = self.evidence.modalities
        yield from settings(every)
        if self.evidence.half is not None:
            yield from settings((*every, HALF))

    def decided(self, looks: Sequence[str] | frozenset[str]) -> npt.NDArray[np.intp]:
        """Best class [N] of each record from only these looks; -1 if it has none of them."""
        seen = frozenset(looks)
        if seen not in self._decided:
            decided = np.full(len(self.evidence), -1, np.intp)
            for name, rows in self._sets(seen):
                decided[rows] = self.evidence.of(seen)[name][rows].argmax(axis=1)
            self._decided[seen] = decided
        return self._decided[seen]

    @property
    def whole(self) -> npt.NDArray[np.intp]:
        """Best class [N] from all modalities."""
        return self.decided(self.evidence.modalities)

    def ms(self, stage: Sequence[str], before: frozenset[str] = frozenset()) -> npt.NDArray[np.float64]:
        """Milliseconds [N] of each record in a stage, after other stages."""
        key = tuple(stage), HALF in before
        if key not in self._ms:
            each = dict.fromkeys(self.evidence.modalities, 0.0)
            for look in stage:
                each[modality_of(look)] += self.costs.of(look, before)
            self._ms[key] = self.costs.row + self.evidence.present @ np.array(list(each.values()))
        return self._ms[key]

    def outcome(self, setting: Setting) -> Outcome:
        """Decisions and costs of a setting."""
        decided = self.whole.copy()
        last = len(setting.stages) - 1
        left = np.full(len(decided), last, np.intp)
        waiting = np.ones(len(decided), np.bool_)
        total = 0.0
        seen: frozenset[str] = frozenset()
        for number, stage in enumerate(setting.stages):
            total += float(self.ms(stage, seen)[waiting].sum())
            seen |= set(stage)
            if number < last:
                leaves = waiting & (self._exit(seen)[0] >= setting.thresholds[number])
                decided[leaves], left[leaves] = self.decided(seen)[leaves], number
                waiting &= ~leaves
        return Outcome(decided, left, total / len(decided))

    def point(self, setting: Setting) -> Point:
        """The same, in figures."""
        found = self.outcome(setting)
        return Point(
            setting,
            found.ms,
            self.accuracy(found.decided),
            self.agreement(found.decided),
            float((found.left < len(setting.stages) - 1).mean()),
        )

    def agreement(self, decided: npt.NDArray[np.intp]) -> float:
        """Share of decisions [N] that equal the full model's."""
        return float((decided == self.whole).mean())

    def accuracy(self, decided: npt.NDArray[np.intp]) -> float:
        """Accuracy of decisions [N] on the labelled records; no decision counts as wrong.

        If no label is known, the full model counts as right.
        """
        labelled = self.evidence.labels >= 0
        if not labelled.any():
            return self.agreement(decided)
        return float((decided == self.evidence.labels)[labelled].mean())

    def exits(self, setting: Setting) -> tuple[dict[str, Exit], ...]:
        """Of each stage but the last."""
        found = []
        for number, threshold in enumerate(setting.thresholds, start=1):
            seen = frozenset(m for stage in setting.stages[:number] for m in stage)
            temperatures = self._exit(seen)[1]
            found.append({n: Exit(temperature=t, threshold=threshold) for n, t in temperatures.items()})
        return tuple(found)

    def disagreement(self, setting: Setting, confidence: float) -> float:
        """Upper bound of the share of early answers that differ from the full model's."""
        found = self.outcome(setting)
        early = found.left < len(setting.stages) - 1
        differs = (found.decided != self.whole)[early]
        return Clusters(self.evidence.groups[early]).upper(differs, confidence)

    def _exit(self, seen: frozenset[str]) -> tuple[npt.NDArray[np.float32], dict[str, float]]:
        """Confidence [N] after a stage that has seen these looks, and temperatures by set of modalities."""
        if seen not in self._exits:
            evidence = self.evidence
            confidence = np.full(len(evidence), _NO_EXIT, np.float32)
            temperatures = {}
            for name, rows in self._sets(seen):
                if rows.sum() < _LEAST_ROWS:
                    continue
                logits = evidence.of(seen)[name][rows]
                labelled = evidence.labels[rows] >= 0
                temperatures[name] = 1.0
                if labelled.sum() >= _LEAST_ROWS:
                    temperatures[name] = fit_temperature(logits[labelled], evidence.labels[rows][labelled])
                confidence[rows] = softmax(logits / temperatures[name]).max(axis=1)
            self._exits[seen] = confidence, temperatures
        return self._exits[seen]

    def _sets(self, seen: frozenset[str]) -> list[tuple[str, npt.NDArray[np.bool_]]]:
        """Name and rows [N] of each set of modalities that records have; those with none are in none."""
        looked_at = [modality_of(look) for look in seen]
        present = self.evidence.present & np.isin(self.evidence.modalities, looked_at)
        named = ((set_name(self.evidence.modalities, flags), flags) for flags in np.unique(present, axis=0))
        return [(name, (present == flags).all(axis=1)) for name, flags in named if name]
