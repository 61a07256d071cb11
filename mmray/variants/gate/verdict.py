"""The verdict of a gate on a variant, with its figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Answer = Literal["passed", "failed", "not enough records"]

PASSED: Answer = "passed"
FAILED: Answer = "failed"
NOT_ENOUGH: Answer = "not enough records"


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of a variant and its parent on the same labelled records."""

    records: int
    parent: float
    variant: float
    difference: float  # variant minus parent
    bound: float  # lower bound of the difference
    interval: tuple[float, float]  # of the difference, two-sided
    own_interval: tuple[float, float]  # of the variant's accuracy, two-sided
    groups: int


@dataclass(frozen=True)
class Comparison:
    """A variant and its parent on the same records."""

    verdict: Answer
    records: int
    groups: int
    agreement: float  # share with the same decision
    agreement_bound: float  # lower bound of `agreement`
    divergence: float  # mean KL divergence of the variant's scores from the parent's, nats
    accuracy: Accuracy | None  # None where no record is labelled

    def as_dict(self) -> dict[str, Any]:
        """For JSON; figures of the accuracy only if there is one."""
        flat: dict[str, Any] = {
            "verdict": self.verdict,
            "records": self.records,
            "groups": self.groups,
            "agreement": self.agreement,
            "agreement_bound": self.agreement_bound,
            "divergence": self.divergence,
        }
        if known := self.accuracy:
            flat |= {
                "labelled": known.records,
                "accuracy": known.variant,
                "parent_accuracy": known.parent,
                "difference": known.difference,
                "difference_bound": known.bound,
                "interval": list(known.interval),
                "accuracy_interval": list(known.own_interval),
            }
        return flat


@dataclass(frozen=True)
class Verdict:
    """Findings of the gate. `reason` says why the variant did not pass; it is empty if it did."""

    answer: Answer
    reason: str
    overall: Comparison  # on the records as they are
    subsets: dict[str, Comparison]  # "image+text": on records that have, or were left with, only these
    labels: dict[str, Comparison]  # on the records of one label, as they are
    not_finite: int  # rows with scores that are NaN or infinite

    @property
    def passed(self) -> bool:
        return self.answer == PASSED

    @property
    def slices(self) -> dict[str, Comparison]:
        """All of them, as in "image+text" or "label cat"."""
        return self.subsets | {label_slice(name): found for name, found in self.labels.items()}

    @property
    def untold(self) -> list[str]:
        """Labels with too few records for a verdict."""
        return [name for name, found in self.labels.items() if found.verdict == NOT_ENOUGH]

    @property
    def worst_label(self) -> str | None:
        """The label whose decisions agree least; None where there is none."""
        return min(self.labels, key=lambda label: self.labels[label].agreement, default=None)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "passed": self.passed,
            "reason": self.reason,
            **self.overall.as_dict(),
            "verdict": self.answer,
            "not_finite": self.not_finite,
            "worst_label": self.worst_label,
            "slices": {name: found.as_dict() for name, found in self.slices.items()},
        }


def label_slice(name: str) -> str:
    """Name of the slice of a label's records."""
    return f"label {name}"
