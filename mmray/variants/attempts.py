"""One step of a recipe: make its graph, judge it on tune and, if it does not fail there, on test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort

from mmray.batching import Feeds
from mmray.bundle import FP32, Bundle, NewVariant, Variant, extend_bundle
from mmray.engine import Engine
from mmray.evaluation import NOTHING, Judged, Split
from mmray.golden import output_difference
from mmray.variants.cascades.tradeoff import Tuning
from mmray.variants.gate import FAILED, Verdict
from mmray.variants.judge import Judge
from mmray.variants.making import Workshop
from mmray.variants.staged import MadeCascade, make_cascade
from mmray.variants.steps import CascadeStep, Step, VariantRecipe

# Tolerance of a variant's golden outputs on another machine: at least this, or three times the difference
# between kernels here. Rounding to few bits amplifies small differences: a value near the edge of a step
# falls on the other side. Stamps: .01 to .04 of the scores; a variant that saturates is off by .3 or more.
_LEAST_TOLERANCE, _TOLERANCE_FACTOR = 0.02, 3.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Attempt:
    """Result of a step. `reason` says why it did not become a variant; it is empty if it did."""

    step: Step
    reason: str
    graph: Path | None = None  # None if it could not be made
    rehearsal: Path | None = None
    verdict: Verdict | None = None
    split: Split = "test"  # of the verdict: a variant that fails on tune is not run on test
    notes: dict[str, str] = field(default_factory=dict)  # what a search found
    selective: Judged = NOTHING  # temperatures, and thresholds for abstaining
    cascade: MadeCascade | None = None  # `stages of a cascade; `graph` is then the uncut graph

    @property
    def outcome(self) -> str:
        """For people."""
        if not self.verdict:
            return f"failed: {self.reason}"
        told = figures_of(self.verdict) + "".join(f"; {name}: {value}" for name, value in self.notes.items())
        if self.reason:
            where = "" if self.split == "test" else f" on {self.split}"
            return f"{self.verdict.answer}{where}: {self.reason}; {told}"
        untold = len(self.verdict.untold)
        return f"passed, {told}" + (f"; {untold} labels have too few records" if untold else "")

    @property
    def card(self) -> dict[str, Any]:
        """For the scorecard."""
        return (
            {"passed": not self.reason, "reason": self.reason}
            | ({**self.verdict.as_dict(), "split": self.split} if self.verdict else {})
            | ({"cascade": self.cascade.card} if self.cascade else {})
            | self.selective.card
        )


def attempt(step: Step, workshop: Workshop, judge: Judge, folder: Path) -> Attempt:
    """Make a variant and judge it; also by its rehearsal, if it has one."""
    graph, rehearsal = folder / f"{step.variant}.onnx", None
    try:
        made = workshop.make(step)
        onnx.save(made.model, graph)
        if made.rehearsal is not None:
            rehearsal = folder / f"{step.variant}-rehearsal.onnx"
            onnx.save(made.rehearsal, rehearsal)
        judged = [graph, *([rehearsal] if rehearsal else [])]
        verdicts = [judge.tune_verdict(path) for path in judged]
        split: Split = "tune"
        if all(verdict.answer != FAILED for verdict in verdicts):
            verdicts, split = [judge.verdict(path) for path in judged], "test"
        verdict = next((v for v in verdicts if not v.passed), verdicts[-1])
    except Exception as e:  # onnx's and ONNX Runtime's share no base; the scorecard has the reason
        return Attempt(step, f"cannot be made: {(str(e).splitlines() or [type(e).__name__])[0]}")
    selective = judge.selective(judged[-1]) if verdict.passed else NOTHING
    return Attempt(step, verdict.reason, graph, rehearsal, verdict, split, made.notes, selective)


def tuning_of(
    parent: Bundle, recipe: VariantRecipe, judge: Judge, attempts: Sequence[Attempt], folder: Path
) -> Tuning:
    """Data to choose a cascade with: the tune records, and a bundle with all variants that passed so far."""
    passed = {a.step.variant: new_variant(a, parent) for a in attempts if a.graph and not a.reason}
    cards: dict[str, Any] = {FP32: {}} | {name: {"passed": True} for name in passed}
    found = {FP32: judge.own_selective.fields}
    bundle = extend_bundle(
        folder / "passed", parent, passed, scorecard={"variants": cards}, origin={}, found=found
    )
    return Tuning(bundle, judge.tune, recipe.input, recipe.batch_rows, judge.to_train)


def attempt_cascade(
    step: Step, tuning: Tuning, recipe: VariantRecipe, judge: Judge, folder: Path, say: Say
) -> Attempt:
    """Choose and cut a cascade, and judge its answers by its own budget."""
    assert isinstance(step.kind, CascadeStep)
    every = tuning.bundle.spec.modalities
    try:
        made = make_cascade(step, tuning, folder, say)
        reference = step.kind.budget.looks_at(every)
        allowed = step.kind.thresholds(recipe.thresholds)
        verdict = judge.cascade_verdict(made.engine(every), reference, allowed)
        selective = NOTHING
        if verdict.passed:
            temperatures = made.variant.entry.temperatures
            selective = judge.cascade_selective(made.calibrated_engine(every), temperatures)
    except Exception as e:  # as in `attempt`
        return Attempt(step, f"cannot be made: {(str(e).splitlines() or [type(e).__name__])[0]}")
    return Attempt(step, verdict.reason, made.variant.graph, None, verdict, cascade=made, selective=selective)


def new_variant(attempt: Attempt, parent: Bundle) -> NewVariant:
    """The entry of the new bundle for an attempt that has a graph."""
    assert attempt.graph is not None
    step = attempt.step
    if made := attempt.cascade:
        entry = made.variant.entry.model_copy(update=attempt.selective.fields)
        return replace(made.variant, entry=entry)
    how = step.how | attempt.notes
    inputs = parent.golden()[0]
    outputs = Engine(attempt.graph, provider="cpu")(inputs)
    elsewhere = (
        Engine(attempt.rehearsal, provider="cpu")(inputs)
        if attempt.rehearsal
        else _run_plainly(attempt.graph, inputs)
    )
    difference = output_difference(elsewhere[parent.decisive], outputs[parent.decisive])
    return NewVariant(
        Variant(
            file=f"variants/{step.variant}.onnx",
            precision=step.kind.precision,
            parent=FP32,
            provider=step.kind.provider,
            how=how,
            golden_tolerance=max(_LEAST_TOLERANCE, _TOLERANCE_FACTOR * difference),
            **attempt.selective.fields,
        ),
        attempt.graph,
        outputs,
    )


def _run_plainly(graph: Path, inputs: Feeds) -> Feeds:
    """Outputs without ONNX Runtime's fused kernels: no fusion of operators, QDQ in float arithmetic."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def figures_of(verdict: Verdict) -> str:
    """The overall figures as text."""
    overall = verdict.overall
    figures = [f"agreement {overall.agreement:.3f} (at least {overall.agreement_bound:.3f})"]
    if found := overall.accuracy:
        change = f"{found.difference:+.3f}, at least {found.bound:+.3f}"
        figures.append(f"accuracy {found.variant:.3f} ({change})")
    return ", ".join(figures)
