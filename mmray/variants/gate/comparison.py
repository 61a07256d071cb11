"""Whether a variant may replace its parent: decisions are compared on paired outputs, slice by slice.

Similar features are not enough: YAMNet in int8 kept a cosine of .98 while its best label agreed on .36 of the
records. Nor is the overall figure: a model with a broken audio encoder agrees on every record with a picture.
So every subset of the modalities and every label is a slice of its own.

Bounds decide, not point estimates: one-sided bounds, clustered by group (`mmray.stats.intervals`), and Holm's
procedure over the slices (1979, "A simple sequentially rejective multiple test procedure"), so that the
chance of passing any bad slice is that of a single bound. With too few records the verdict is NOT_ENOUGH,
never PASSED.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt

from mmray.evaluation import Outputs
from mmray.schema import set_name
from mmray.stats.intervals import Clusters, holm
from mmray.variants.gate.reasons import answer_of
from mmray.variants.gate.thresholds import Thresholds
from mmray.variants.gate.verdict import (
    FAILED,
    NOT_ENOUGH,
    PASSED,
    Accuracy,
    Answer,
    Comparison,
    Verdict,
    label_slice,
)

_TINY = 1e-12  # lower limit of a score, so that a zero does not make the divergence infinite


def compare(parent: Outputs, variant: Outputs, thresholds: Thresholds) -> Verdict:
    """Judge a variant's outputs by those of its parent.

    Args:
        parent: of the parent, N rows; any variant of a model may serve.
        variant: of the variant, for the same rows.
        thresholds: what it must keep.

    A variant passes if its bounds are within the thresholds on all records as they are and on every subset of
    the modalities, and no label is shown to lose more. A label with too few records does not fail the
    variant, but is not reported as passed either.
    """
    samples = _Samples(parent, variant, thresholds)
    overall = samples.on(parent.whole)
    subsets, labels = dict(_subsets(parent)), dict(_labels(parent))
    rows = subsets | {label_slice(name): mask for name, mask in labels.items()}
    slices = samples.family(rows)
    not_finite = int((~samples.finite).sum())
    verdict = Verdict(
        PASSED,
        "",
        overall,
        {name: slices[name] for name in subsets},
        {name: slices[label_slice(name)] for name in labels},
        not_finite,
    )
    answer, reason = answer_of(verdict, len(samples.finite), thresholds)
    return Verdict(answer, reason, overall, verdict.subsets, verdict.labels, not_finite)


class _Samples:
    """Outputs of parent and variant, which can be compared on any subset of rows."""

    def __init__(self, parent: Outputs, variant: Outputs, thresholds: Thresholds) -> None:
        self._parent, self._variant, self._thresholds = parent, variant, thresholds
        self.finite = np.asarray(np.isfinite(variant.scores).all(axis=1))
        self._was = parent.scores.argmax(axis=1)
        # Scores that are not finite give no decision: -2 is no class, and differs from -1, the unknown label.
        self._is_now = np.where(self.finite, variant.scores.argmax(axis=1), -2)

    def on(self, rows: npt.NDArray[np.bool_]) -> Comparison:
        """Compare the rows of a non-empty mask [N] by the thresholds for all records."""
        allowed = self._thresholds
        sample = self._sample(rows)
        within = sample.keeps(allowed.agreement, allowed.accuracy_loss, allowed.confidence)
        if sample.groups.count < allowed.least_groups:
            answer = NOT_ENOUGH
        elif within:
            answer = PASSED
        else:
            answer = NOT_ENOUGH if sample.looks(allowed.agreement, allowed.accuracy_loss) else FAILED
        return self._comparison(rows, sample, answer)

    def family(self, slices: Mapping[str, npt.NDArray[np.bool_]]) -> dict[str, Comparison]:
        """Compare slices; the chance that any of them passes by mistake is that of a single bound."""
        allowed = self._thresholds
        samples = {name: self._sample(rows) for name, rows in slices.items()}
        told = {name: s for name, s in samples.items() if s.groups.count >= allowed.least_groups}

        def shown(sample: _Sample, confidence: float) -> bool:
            return sample.keeps(allowed.slice_agreement, allowed.slice_accuracy_loss, confidence)

        good = holm({name: partial(shown, sample) for name, sample in told.items()}, allowed.confidence)
        strict = 1 - (1 - allowed.confidence) / max(1, len(told))  # Bonferroni: there are many slices
        found = {}
        for name, sample in samples.items():
            answer = PASSED if name in good else NOT_ENOUGH
            if name in told and name not in good and sample.loses(allowed, strict):
                answer = FAILED
            found[name] = self._comparison(slices[name], sample, answer)
        return found

    def _sample(self, rows: npt.NDArray[np.bool_]) -> _Sample:
        labelled = rows & (self._parent.labels >= 0)
        labels = self._parent.labels[labelled]
        change = (self._is_now[labelled] == labels).astype(float) - (self._was[labelled] == labels)
        return _Sample(
            (self._was != self._is_now)[rows],
            self._parent.groups[rows],
            change,
            self._parent.groups[labelled],
        )

    def _comparison(self, rows: npt.NDArray[np.bool_], sample: _Sample, answer: Answer) -> Comparison:
        both, confidence = rows & self.finite, self._thresholds.confidence
        return Comparison(
            verdict=answer,
            records=int(rows.sum()),
            groups=sample.groups.count,
            agreement=sample.agreement,
            agreement_bound=1 - sample.groups.upper(sample.differs, confidence),
            divergence=mean_divergence(self._parent.scores[both], self._variant.scores[both]),
            accuracy=self._accuracy(rows & (self._parent.labels >= 0), sample),
        )

    def _accuracy(self, rows: npt.NDArray[np.bool_], sample: _Sample) -> Accuracy | None:
        if not rows.any():
            return None
        labels, confidence = self._parent.labels[rows], self._thresholds.confidence
        return Accuracy(
            records=len(labels),
            parent=float((self._was[rows] == labels).mean()),
            variant=float((self._is_now[rows] == labels).mean()),
            difference=float(sample.change.mean()),
            bound=sample.labelled.lower(sample.change, confidence),
            interval=sample.labelled.interval(sample.change, confidence),
            own_interval=sample.labelled.interval(self._is_now[rows] == labels, confidence),
            groups=sample.labelled.count,
        )


@dataclass(frozen=True)
class _Sample:
    """What changed in n rows, of which m are labelled."""

    differs: npt.NDArray[np.bool_]  # [n], true if the decision differs
    groups_of_rows: npt.NDArray[np.str_]  # [n]
    change: npt.NDArray[np.float64]  # [m], 1 where it became right, -1 where it became wrong
    groups_of_labelled: npt.NDArray[np.str_]  # [m]

    @cached_property
    def groups(self) -> Clusters:
        return Clusters(self.groups_of_rows)

    @cached_property
    def labelled(self) -> Clusters:
        return Clusters(self.groups_of_labelled)

    @property
    def agreement(self) -> float:
        return 1 - float(self.differs.mean())

    def keeps(self, agreement: float, loss: float, confidence: float) -> bool:
        """Whether enough agreement, and no greater loss of accuracy, is shown."""
        # Estimates first, as they are fast: a bound is never better than the estimate.
        if not self.looks(agreement, loss):
            return False
        if agreement > 0 and 1 - self.groups.upper(self.differs, confidence) < agreement:
            return False
        return not len(self.change) or loss >= 1 or self.labelled.lower(self.change, confidence) >= -loss

    def looks(self, agreement: float, loss: float) -> bool:
        """Whether the estimates on these rows are within the thresholds."""
        return self.agreement >= agreement and (not len(self.change) or float(self.change.mean()) >= -loss)

    def loses(self, allowed: Thresholds, confidence: float) -> bool:
        """Whether a slice is shown to agree too little, or to lose accuracy, by too much as estimated."""
        if self.agreement < allowed.slice_agreement:
            least = 1 - self.groups.lower(self.differs, confidence)
            if least < allowed.slice_agreement:
                return True
        if not len(self.change) or float(self.change.mean()) >= -allowed.slice_accuracy_loss:
            return False
        return self.labelled.upper(self.change, confidence) < 0


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


def _labels(outputs: Outputs) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    """Name and mask [N] of each label that records, as they are, have."""
    unlabelled = (outputs.labels < 0).all()  # a model without labels has no classes, and so no slices
    of_row = outputs.scores.argmax(axis=1) if unlabelled else outputs.labels
    for i, name in enumerate(outputs.classes):
        rows = outputs.whole & (of_row == i)
        if rows.any():
            yield name, rows
