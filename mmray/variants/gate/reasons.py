"""The gate's answer to a comparison, and the reason in the scorecard."""

from __future__ import annotations

from collections.abc import Iterator

from mmray.stats.intervals import least_groups
from mmray.variants.gate.thresholds import Thresholds
from mmray.variants.gate.verdict import FAILED, NOT_ENOUGH, PASSED, Accuracy, Answer, Comparison, Verdict


def answer_of(verdict: Verdict, rows: int, allowed: Thresholds) -> tuple[Answer, str]:
    """The gate's answer and the reason; the reason is empty if the variant passed."""
    if verdict.not_finite:
        return FAILED, f"the scores of {verdict.not_finite} of {rows} rows are not finite"
    overall = verdict.overall
    faults = list(_overall_faults(overall, allowed)) if overall.verdict == FAILED else []
    if overall.divergence > allowed.divergence:
        faults.append(
            f"scores diverge by {overall.divergence:.3f} nats on average, more than {allowed.divergence:g}"
        )
    failed = {name: found for name, found in verdict.slices.items() if found.verdict == FAILED}
    for name, found in sorted(failed.items(), key=lambda item: item[1].agreement):
        faults += [f"{name}: {fault}" for fault in _slice_faults(found, allowed)]
    if faults:
        return FAILED, faults[0] + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else "")
    if overall.verdict == NOT_ENOUGH:
        return NOT_ENOUGH, _too_few(overall, allowed, allowed.agreement, allowed.accuracy_loss)
    # A cascade promises nothing for single slices, and few records may have exactly these modalities.
    asked = allowed.slice_agreement > 0 or allowed.slice_accuracy_loss < 1
    for name, found in verdict.subsets.items():
        if asked and found.verdict == NOT_ENOUGH:
            lacking = _too_few(found, allowed, allowed.slice_agreement, allowed.slice_accuracy_loss)
            return NOT_ENOUGH, f"{name}: {lacking}"
    return PASSED, ""


def _overall_faults(found: Comparison, allowed: Thresholds) -> Iterator[str]:
    if found.agreement < allowed.agreement:
        yield _disagree(found, allowed.agreement)
    if found.accuracy and found.accuracy.difference < -allowed.accuracy_loss:
        yield _loses(found.accuracy, allowed.accuracy_loss)


def _slice_faults(found: Comparison, allowed: Thresholds) -> Iterator[str]:
    if found.agreement < allowed.slice_agreement:
        yield _disagree(found, allowed.slice_agreement)
    elif found.accuracy:
        yield _loses(found.accuracy, allowed.slice_accuracy_loss)


def _loses(accuracy: Accuracy, allowed: float) -> str:
    lost = -accuracy.difference
    return f"accuracy falls by {lost:.3f} on {accuracy.records} records, more than {allowed:g}"


def _disagree(found: Comparison, least: float) -> str:
    agreeing = round(found.agreement * found.records)
    return f"decisions agree on {agreeing} of {found.records} records, less than {least:.1%}"


def _too_few(found: Comparison, allowed: Thresholds, agreement: float, loss: float) -> str:
    """Records seen, the bound that they give, and the bound that is required."""
    seen = f"{found.records} records in {found.groups} groups"
    if found.groups < allowed.least_groups:
        return f"{seen}; at least {allowed.least_groups} groups are needed (thresholds.least_groups)"
    if found.agreement_bound < agreement:
        needed = least_groups(1 - agreement, allowed.confidence) if agreement < 1 else 0
        takes = f", which needs {needed:,} groups even if all agree" if needed > found.groups else ""
        return (
            f"{seen} agree on {found.agreement:.1%}, which shows {found.agreement_bound:.1%} at least; "
            f"{agreement:.1%} is required{takes}"
        )
    if found.accuracy and found.accuracy.bound < -loss:
        return (
            f"{seen} lose {max(0.0, -found.accuracy.difference):.3f} of accuracy, which shows "
            f"{-found.accuracy.bound:.3f} at most; {loss:g} is allowed"
        )
    return f"{seen} are too few for all slices together (Holm)"
