"""Whether a variant may stand in for its parent: judged by decisions, on paired outputs, slice by slice.

Similar features prove nothing: YAMNet in int8 kept a cosine of .98 while its best label agreed on .36 of the
records. Nor does the whole prove its parts: a model that lost its hearing agrees wherever there is a picture.
So every subset of the modalities and every label counts by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from mmray.optimize.outputs import Outputs
from mmray.schema import set_name

_RESAMPLES = 2000
_TINY = 1e-12  # what a score counts as at least, so that a zero does not make the divergence infinite


class Thresholds(BaseModel):
    """What a variant must keep of its parent: of the decisions on all records, and in each slice."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    agreement: float = Field(0.97, ge=0, le=1)  # share of equal decisions, at least
    slice_agreement: float = Field(0.9, ge=0, le=1)
    accuracy_loss: float = Field(0.05, ge=0, le=1)  # a larger one must lie outside the interval
    slice_accuracy_loss: float = Field(0.05, ge=0, le=1)  # at most, unless the interval has 0 in it
    divergence: float = Field(0.05, ge=0)  # mean KL divergence of the scores in nats, at most
    least_rows: int = Field(30, ge=1)  # a label or a subset with fewer is not judged
    confidence: float = Field(0.95, gt=0, lt=1)  # of the intervals


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of a variant and its parent on the same labelled records."""

    records: int
    parent: float
    variant: float
    difference: float  # variant minus parent
    interval: tuple[float, float]  # of the difference


@dataclass(frozen=True)
class Comparison:
    """A variant and its parent on the same records."""

    records: int
    agreement: float  # share with the same decision
    divergence: float  # mean KL divergence of the variant's scores from the parent's, nats
    accuracy: Accuracy | None  # None where no record is labelled

    def as_dict(self) -> dict[str, Any]:
        """For JSON; figures of the accuracy are there only where there is one."""
        flat: dict[str, Any] = {
            "records": self.records,
            "agreement": self.agreement,
            "divergence": self.divergence,
        }
        if known := self.accuracy:
            flat |= {
                "labelled": known.records,
                "accuracy": known.variant,
                "parent_accuracy": known.parent,
                "difference": known.difference,
                "interval": list(known.interval),
            }
        return flat


@dataclass(frozen=True)
class Verdict:
    """What the gate found. `reason` is empty where the variant passed."""

    reason: str
    overall: Comparison  # on the records as they are
    subsets: dict[str, Comparison]  # "image+text": on records that have, or were left with, only these
    labels: dict[str, Comparison]  # on the records of one label, as they are
    not_finite: int  # rows with scores that are NaN or infinite

    @property
    def passed(self) -> bool:
        return not self.reason

    @property
    def slices(self) -> dict[str, Comparison]:
        """All of them, as in "image+text" or "label cat"."""
        return self.subsets | {f"label {name}": found for name, found in self.labels.items()}

    @property
    def worst_label(self) -> str | None:
        """The label whose decisions agree least; None where none has enough records."""
        return min(self.labels, key=lambda label: self.labels[label].agreement, default=None)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "passed": self.passed,
            "reason": self.reason,
            **self.overall.as_dict(),
            "not_finite": self.not_finite,
            "worst_label": self.worst_label,
            "slices": {name: found.as_dict() for name, found in self.slices.items()},
        }


def compare(parent: Outputs, variant: Outputs, thresholds: Thresholds) -> Verdict:
    """Judge a variant by its parent.

    On the records as they are, the accuracy must be *shown* not to be much worse: few records are a reason to
    refuse. In a slice, which is smaller and one of many, it must not be shown to be worse.
    A label's slice holds the records of that label, or those that the parent gives it where no record in all
    is labelled.

    Args:
        parent: N rows of outputs.
        variant: the same rows.
        thresholds: what must be kept.
    """
    pairs = _Pairs(parent, variant, thresholds.confidence)
    overall = pairs.on(parent.whole)
    subsets = {name: pairs.on(rows) for name, rows in _subsets(parent)}
    labels = {name: pairs.on(rows) for name, rows in _labels(parent, thresholds.least_rows)}
    verdict = Verdict("", overall, subsets, labels, int((~pairs.finite).sum()))
    return replace(verdict, reason=_reason(verdict, len(pairs.finite), thresholds))


def paired_interval(
    change: npt.NDArray[np.float64], groups: npt.NDArray[np.str_], confidence: float
) -> tuple[float, float]:
    """Bootstrap interval of the mean of paired differences; whole groups are drawn, not records.

    Percentiles of the resampled means (Efron & Tibshirani 1993, "An Introduction to the Bootstrap", ch. 13),
    paired as in Koehn (2004), "Statistical significance tests for machine translation evaluation", and
    clustered as in Davison & Hinkley (1997), "Bootstrap Methods and their Application", section 3.8. The same
    numbers give the same interval.

    Args:
        change: [N], of each record.
        groups: [N], records of one group are not independent.
        confidence: share of the resampled means within.
    """
    _, index = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(index, weights=change), np.bincount(index)
    random = np.random.default_rng(0)
    means = np.empty(_RESAMPLES)
    for i in range(_RESAMPLES):  # one at a time: all at once would take resamples x groups numbers
        drawn = random.integers(len(sums), size=len(sums))
        means[i] = sums[drawn].sum() / counts[drawn].sum()
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


class _Pairs:
    """Outputs of parent and variant, to be compared on any of their rows."""

    def __init__(self, parent: Outputs, variant: Outputs, confidence: float) -> None:
        self._parent, self._variant, self._confidence = parent, variant, confidence
        self.finite = np.asarray(np.isfinite(variant.scores).all(axis=1))
        self._was = parent.scores.argmax(axis=1)
        # What is not finite decides for nothing: -2 is no class, and not the -1 of an unknown label.
        self._is_now = np.where(self.finite, variant.scores.argmax(axis=1), -2)

    def on(self, rows: npt.NDArray[np.bool_]) -> Comparison:
        """Compare the rows of a mask [N], which has at least one."""
        both = rows & self.finite
        return Comparison(
            records=int(rows.sum()),
            agreement=float((self._was == self._is_now)[rows].mean()),
            divergence=mean_divergence(self._parent.scores[both], self._variant.scores[both]),
            accuracy=self._accuracy(rows & (self._parent.labels >= 0)),
        )

    def _accuracy(self, rows: npt.NDArray[np.bool_]) -> Accuracy | None:
        if not rows.any():
            return None
        labels = self._parent.labels[rows]
        was, is_now = self._was[rows] == labels, self._is_now[rows] == labels
        change = is_now.astype(np.float64) - was
        return Accuracy(
            records=len(labels),
            parent=float(was.mean()),
            variant=float(is_now.mean()),
            difference=float(change.mean()),
            interval=paired_interval(change, self._parent.groups[rows], self._confidence),
        )


def mean_divergence(parent: npt.NDArray[np.float32], variant: npt.NDArray[np.float32]) -> float:
    """Mean over the rows of the sum of p log(p / q); 0 where there are no rows."""
    p, q = (np.clip(scores.astype(np.float64), _TINY, None) for scores in (parent, variant))
    return float((p * np.log(p / q)).sum() / max(1, len(p)))


def _subsets(outputs: Outputs) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    """Name and mask [N] of each subset of the modalities that occurs, from the first alone to all."""
    found = np.unique(outputs.present, axis=0).tolist()
    for flags in sorted(found, key=lambda f: (sum(f), [not flag for flag in f])):
        name = set_name(outputs.modalities, flags)
        yield name, (outputs.present == flags).all(axis=1)


def _labels(outputs: Outputs, least_rows: int) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    """Name and mask [N] of each label that enough records, as they are, have."""
    unlabelled = (outputs.labels < 0).all()  # then a model without labels has no classes, and so no slices
    of_row = outputs.scores.argmax(axis=1) if unlabelled else outputs.labels
    for i, name in enumerate(outputs.classes):
        rows = outputs.whole & (of_row == i)
        if rows.sum() >= least_rows:
            yield name, rows


def _reason(verdict: Verdict, rows: int, allowed: Thresholds) -> str:
    """Why the variant is refused; empty where it is not."""
    if verdict.not_finite:
        return f"the scores of {verdict.not_finite} of {rows} rows are not finite"
    faults = [*_overall_faults(verdict.overall, allowed), *_slice_faults(verdict.slices, allowed)]
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return faults[0] + more if faults else ""


def _overall_faults(found: Comparison, allowed: Thresholds) -> Iterator[str]:
    if found.agreement < allowed.agreement:
        yield _disagree(found, allowed.agreement)
    if found.accuracy and found.accuracy.interval[0] < -allowed.accuracy_loss:
        lost, low = -found.accuracy.difference, -found.accuracy.interval[0]
        yield (
            f"accuracy falls by {lost:.3f}, and may fall by {low:.3f} "
            f"({allowed.confidence:.0%} interval, {found.accuracy.records} records), more than "
            f"{allowed.accuracy_loss:g}"
        )
    if found.divergence > allowed.divergence:
        yield f"scores diverge by {found.divergence:.3f} nats on average, more than {allowed.divergence:g}"


def _slice_faults(slices: dict[str, Comparison], allowed: Thresholds) -> Iterator[str]:
    """The worst first."""
    for name, found in sorted(slices.items(), key=lambda item: item[1].agreement):
        if found.records < allowed.least_rows:
            continue
        if found.agreement < allowed.slice_agreement:
            yield f"{name}: {_disagree(found, allowed.slice_agreement)}"
        elif found.accuracy and _is_worse(found.accuracy, allowed.slice_accuracy_loss):
            yield (
                f"{name}: accuracy falls by {-found.accuracy.difference:.3f} on {found.accuracy.records} "
                f"records, more than {allowed.slice_accuracy_loss:g}"
            )


def _is_worse(accuracy: Accuracy, allowed_loss: float) -> bool:
    return accuracy.difference < -allowed_loss and accuracy.interval[1] < 0


def _disagree(found: Comparison, least: float) -> str:
    agreeing = round(found.agreement * found.records)
    return f"decisions agree on {agreeing} of {found.records} records, less than {least:.1%}"
