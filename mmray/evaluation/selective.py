"""Abstaining: the lowest score from which on few enough of a model's answers are wrong.

Answering only where the confidence is high trades coverage, the share of records that are answered, for
selective risk, the share of wrong ones among the answers (El-Yaniv & Wiener 2010, "On the foundations of
noise-free selective classification"; Geifman & El-Yaniv 2017, "Selective classification for deep neural
networks"). Thresholds are found on tune and checked once on test.

For a wanted risk the threshold is lowered as long as an upper bound of the risk stays within it: fixed
sequence testing, which needs no correction for the thresholds before (Angelopoulos et al. 2021, "Learn then
Test", section 2.3). The first that is tried is the highest at which the bound would still stay within the
risk with one wrong answer; above it, chance alone would decide. Neither the thresholds nor the
first one depend on which answers are right, except through the temperatures, which are fitted on the same
records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import dropwhile, takewhile
from typing import Any

import numpy as np
import numpy.typing as npt

from mmray.bundle import Selective
from mmray.confidence import calibrated
from mmray.evaluation.outputs import Outputs
from mmray.evaluation.temperatures import LEAST_ROWS, calibration_error, fit_temperatures
from mmray.stats.intervals import Clusters

RISKS = (0.01, 0.02, 0.05, 0.1, 0.2)
NOT_ENOUGH = "not enough records"
TOO_OFTEN_WRONG = "even the most confident answers are wrong too often"
_CONFIDENCE = 0.95  # of each bound, one-sided; of intervals on test, two-sided
_POINTS = 40


@dataclass(frozen=True)
class Point:
    """What one threshold does."""

    threshold: float
    coverage: float  # share of the records that are answered
    risk: float  # share of the answers that are wrong
    bound: float  # upper bound of that share among all such records
    least_bound: float  # the same bound if only one answer were wrong

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return {name: round(getattr(self, name), 6) for name in ("threshold", "coverage", "risk", "bound")}


@dataclass(frozen=True)
class Judged:
    """What was found of a variant: for the scorecard, and fields of its entry in the manifest."""

    card: dict[str, Any]
    fields: dict[str, Any]  # `temperatures` and `selective` of `mmray.bundle.Variant`


#: For a variant whose answers were not judged.
NOTHING = Judged({}, {})


def risk_coverage(
    confidence: npt.NDArray[np.float32], right: npt.NDArray[np.bool_], groups: npt.NDArray[np.str_]
) -> list[Point]:
    """The risk-coverage curve in at most 40 points, from the most confident records to all of them.

    Args:
        confidence: [N], at least one.
        right: [N], whether the answer is.
        groups: [N], records of one group are not independent.
    """
    wanted = np.linspace(0, len(confidence), _POINTS + 1)[1:-1]
    sorted_up = np.sort(confidence)
    at = np.unique(sorted_up[len(confidence) - np.unique(np.ceil(wanted).astype(np.intp))])[::-1]
    return [_point(float(threshold), confidence, right, groups) for threshold in (*at, 0.0)]


def lowest_threshold(curve: Sequence[Point], risk: float) -> Point | str:
    """The lowest threshold that stays within the risk, as do all higher ones; or why there is none.

    Args:
        curve: of `risk_coverage`.
        risk: share of wrong answers, at most.
    """
    tried = list(dropwhile(lambda point: point.least_bound > risk, curve))
    if not tried:
        return NOT_ENOUGH
    kept = list(takewhile(lambda point: point.bound <= risk, tried))
    return kept[-1] if kept else TOO_OFTEN_WRONG


def judge_selective(tune: Outputs, test: Outputs, *, already: Mapping[str, float] | None = None) -> Judged:
    """Calibrate a variant, find its thresholds on tune, and measure them on test.

    Args:
        tune: outputs on records of the tune split, better also with fewer modalities than they have.
        test: likewise.
        already: temperatures already applied to the scores, as in a cascade, whose stages need them to
            decide; then none are fitted.
    """
    temperatures = fit_temperatures(tune) if already is None else dict(already)
    before, labels, _ = _whole(test, {})
    if not tune.classes or not len(before) or len(_whole(tune, {})[0]) < LEAST_ROWS:
        return Judged({"selective": {"reason": NOT_ENOUGH}}, {"temperatures": {}, "selective": ()})
    in_use = temperatures if already is None else {}
    card: dict[str, Any] = {"temperatures": temperatures}
    scores, labels, groups = _whole(test, in_use)
    card["calibration"] = {
        **_counts(groups, "test"),
        **({"before": calibration_error(before, labels).as_dict()} if already is None else {}),
        "after": calibration_error(scores, labels).as_dict(),
    }
    on_test = scores.max(axis=1), scores.argmax(axis=1) == labels, groups
    scores, labels, groups = _whole(tune, in_use)
    curve = risk_coverage(scores.max(axis=1), scores.argmax(axis=1) == labels, groups)
    found = {risk: lowest_threshold(curve, risk) for risk in RISKS}
    card["selective"] = {
        **_counts(groups, "tune"),
        "confidence": _CONFIDENCE,
        "curve": [point.as_dict() for point in curve],
        "thresholds": [_threshold_card(risk, point, *on_test) for risk, point in found.items()],
    }
    table = tuple(
        Selective(risk=risk, threshold=point.threshold, coverage=point.coverage, bound=point.bound)
        for risk, point in found.items()
        if isinstance(point, Point)
    )
    return Judged(card, {"temperatures": temperatures, "selective": table})


def _point(
    threshold: float,
    confidence: npt.NDArray[np.float32],
    right: npt.NDArray[np.bool_],
    groups: npt.NDArray[np.str_],
) -> Point:
    answered = confidence >= threshold
    clusters, wrong = Clusters(groups[answered]), ~right[answered]
    one = np.arange(len(wrong)) == 0
    return Point(
        threshold=threshold,
        coverage=float(answered.mean()),
        risk=float(wrong.mean()),
        bound=clusters.upper(wrong, _CONFIDENCE),
        least_bound=clusters.upper(one, _CONFIDENCE),
    )


def _threshold_card(
    risk: float,
    point: Point | str,
    confidence: npt.NDArray[np.float32],
    right: npt.NDArray[np.bool_],
    groups: npt.NDArray[np.str_],
) -> dict[str, Any]:
    """For the scorecard: a threshold, or why there is none, and what it does on test."""
    if isinstance(point, str):
        return {"risk": risk, "reason": point}
    answered = confidence >= point.threshold
    wrong, of = ~right[answered], Clusters(groups[answered])
    low, high = of.interval(wrong, _CONFIDENCE) if answered.any() else (0.0, 1.0)
    return {
        "risk": risk,
        "threshold": point.threshold,
        "tune": point.as_dict(),
        "test": {
            "records": len(right),
            "answered": len(wrong),
            "groups": of.count,  # of those answered
            "coverage": float(answered.mean()),
            "risk": float(wrong.mean()) if len(wrong) else None,
            "low": low,
            "high": high,
        },
    }


def _whole(
    outputs: Outputs, temperatures: Mapping[str, float]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.intp], npt.NDArray[np.str_]]:
    """Calibrated scores, labels and groups of the labelled records, as they are."""
    rows = outputs.whole & (outputs.labels >= 0)
    scores = calibrated(outputs.scores[rows], outputs.present[rows], outputs.modalities, temperatures)
    return scores, outputs.labels[rows], outputs.groups[rows]


def _counts(groups: npt.NDArray[np.str_], split: str) -> dict[str, Any]:
    return {"split": split, "records": len(groups), "groups": len(np.unique(groups))}
