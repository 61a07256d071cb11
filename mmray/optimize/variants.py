"""What `mmray optimize` does: make variants of a bundle's fp32 graph, judge and measure them, write a bundle.

Works on the ONNX graph alone, so on any bundle, wherever its graph came from. A variant that cannot be made,
or fails its gate, is an entry of the scorecard with the reason, and stops none of the others.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from mmray.batching import Feeds, pack
from mmray.bundle import FP32, Bundle, NewVariant, Variant, check_replaceable, extend_bundle
from mmray.engine import Engine
from mmray.errors import RunError
from mmray.golden import output_difference
from mmray.optimize.gate import FAILED, Verdict
from mmray.optimize.judge import Judge
from mmray.optimize.making import Workshop
from mmray.optimize.measure import Cost, measure
from mmray.optimize.outputs import LabelledTensors
from mmray.optimize.records import Records
from mmray.optimize.selective import NOTHING, Judged
from mmray.optimize.splits import Split
from mmray.optimize.staged import MadeCascade, make_cascade
from mmray.optimize.steps import CascadeStep, Step, VariantRecipe
from mmray.optimize.tradeoff import Tuning
from mmray.optimize.uses import Uses

_log = logging.getLogger(__name__)
# How far a variant's golden outputs may be off on another machine: at least so much, or three times what they
# move here between kernels. Rounding to few bits makes small differences large: a value next to the edge of a
# step falls on its other side. Stamps: .01 to .04 of the scores; one that saturates is off by .3 or more.
_LEAST_TOLERANCE, _TOLERANCE_FACTOR = 0.02, 3.0

Say = Callable[[str], None]


def optimize(
    parent: Bundle, recipe: VariantRecipe, output: Path, *, again: str | None = None, say: Say = _log.info
) -> Bundle:
    """Write a bundle with the parent's variants and those of the recipe that passed their gate.

    Args:
        parent: bundle to start from; stays as it is.
        recipe: what to make and what it must keep.
        output: the new bundle's directory; a bundle that is there is replaced.
        again: why variants may be judged on test records that they were judged on before.
        say: told what was done, a line a step.

    Raises:
        BundleError: the parent is altered, or `output` holds it or something that is not a bundle.
        InputError: a split without usable records.
        UsageError: a variant was judged on the same test records before, and nobody says why it is again.
        EngineError: the parent's own graph does not run.
    """
    check_replaceable(output, parent)
    parent.verify()
    say = _with_seconds(say)
    records = Records(recipe.input, parent, recipe.rows.as_dict())
    uses = Uses(parent, records)
    uses.check((step.variant for step in recipe.steps), again)
    fp32 = parent.graph(FP32)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        judge = Judge(fp32, records, recipe, folder)
        say(f"{_describe(judge.tune)} to choose by, {_describe(judge.test)} to judge by")
        say(f"{FP32}: {_figures(judge.own_verdict)}")
        workshop = Workshop(onnx.load(fp32), partial(records.feeds, "train"), judge, recipe.batch_rows)
        attempts: list[_Attempt] = []
        tuning = None
        # Cascades last, whatever their place: they are cut from the fastest of the others.
        for step in sorted(recipe.steps, key=lambda step: isinstance(step.kind, CascadeStep)):
            if isinstance(step.kind, CascadeStep):
                tuning = tuning or _tuning(parent, recipe, judge, attempts, folder)
                attempts.append(_attempt_cascade(step, tuning, recipe, judge, folder, say))
            else:
                attempts.append(_attempt(step, workshop, judge, folder))
            if attempts[-1].verdict and attempts[-1].split == "test":
                uses.note(step.variant, again)
            say(f"{step.variant}: {attempts[-1].outcome}")
        if recipe.timing_rounds and parent.labels:
            tuning = tuning or _tuning(parent, recipe, judge, attempts, folder)
        graphs = {FP32: fp32} | {a.step.variant: a.graph for a in attempts if a.graph and not a.cascade}
        costs: dict[str, Cost] = {}
        if recipe.timing_rounds:
            batches = _batches(judge.tune, recipe.batch_rows)
            costs = measure(graphs, batches, rounds=recipe.timing_rounds)
            say(f"timed and weighed {len(costs)} graphs")
        cards = {FP32: {**judge.own_verdict.as_dict(), "split": "test", **judge.own_selective.card}}
        cards |= {a.step.variant: a.card for a in attempts}
        for name, graph in graphs.items():
            cards[name]["size_bytes"] = graph.stat().st_size
            cards[name] |= _cost_card(costs.get(name), recipe.batch_rows)
        kept = [a for a in attempts if a.graph and (recipe.keep_failed or not a.reason)]
        bundle = extend_bundle(
            output,
            parent,
            {a.step.variant: _new_variant(a, parent) for a in kept},
            scorecard=_scorecard(parent, recipe, records, uses, cards)
            | {"tradeoff": _tradeoff(tuning, judge.own_verdict, attempts) if tuning else []},
            origin={"optimize": recipe.model_dump_json()},
            found={FP32: judge.own_selective.fields},
            abstain=recipe.abstain,
        )
        say(f"wrote {output}")
    return bundle


@dataclass(frozen=True)
class _Attempt:
    """What became of a step. `reason` says why it is no variant; it is empty where it is one."""

    step: Step
    reason: str
    graph: Path | None = None  # none where it could not be made
    rehearsal: Path | None = None
    verdict: Verdict | None = None
    split: Split = "test"  # that the verdict is on: what fails on tune never sees test
    notes: dict[str, str] = field(default_factory=dict)  # what a search found
    selective: Judged = NOTHING  # temperatures, and what the surest answers are worth
    cascade: MadeCascade | None = None  # `graph` is then the whole one, cut into its stages

    @property
    def outcome(self) -> str:
        """For people."""
        if not self.verdict:
            return f"failed: {self.reason}"
        told = _figures(self.verdict) + "".join(f"; {name}: {value}" for name, value in self.notes.items())
        if self.reason:
            where = "" if self.split == "test" else f" on {self.split}"
            return f"{self.verdict.answer}{where}: {self.reason}; {told}"
        untold = len(self.verdict.untold)
        return f"passed, {told}" + (f"; {untold} labels have not enough records" if untold else "")

    @property
    def card(self) -> dict[str, Any]:
        """For the scorecard."""
        return (
            {"passed": not self.reason, "reason": self.reason}
            | ({**self.verdict.as_dict(), "split": self.split} if self.verdict else {})
            | ({"cascade": self.cascade.card} if self.cascade else {})
            | self.selective.card
        )


def _attempt(step: Step, workshop: Workshop, judge: Judge, folder: Path) -> _Attempt:
    """Make a variant and judge it; by its rehearsal, too, where it has one."""
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
    except RunError:  # a signal: nothing of the step failed
        raise
    except Exception as e:  # onnx's and ONNX Runtime's share no base; the scorecard has the reason
        return _Attempt(step, f"cannot be made: {(str(e).splitlines() or [type(e).__name__])[0]}")
    selective = judge.selective(judged[-1]) if verdict.passed else NOTHING
    return _Attempt(step, verdict.reason, graph, rehearsal, verdict, split, made.notes, selective)


def _tuning(
    parent: Bundle, recipe: VariantRecipe, judge: Judge, attempts: Sequence[_Attempt], folder: Path
) -> Tuning:
    """What a cascade is chosen by: the tune records, and a bundle with all variants that passed so far."""
    passed = {a.step.variant: _new_variant(a, parent) for a in attempts if a.graph and not a.reason}
    cards: dict[str, Any] = {FP32: {}} | {name: {"passed": True} for name in passed}
    found = {FP32: judge.own_selective.fields}
    bundle = extend_bundle(
        folder / "passed", parent, passed, scorecard={"variants": cards}, origin={}, found=found
    )
    return Tuning(bundle, judge.tune, recipe.input, recipe.batch_rows)


def _attempt_cascade(
    step: Step, tuning: Tuning, recipe: VariantRecipe, judge: Judge, folder: Path, say: Say
) -> _Attempt:
    """Choose and cut a cascade, and judge what it answers by its own budget."""
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
    except RunError:  # as in _attempt
        raise
    except Exception as e:  # likewise
        return _Attempt(step, f"cannot be made: {(str(e).splitlines() or [type(e).__name__])[0]}")
    return _Attempt(
        step, verdict.reason, made.variant.graph, None, verdict, cascade=made, selective=selective
    )


def _tradeoff(tuning: Tuning, fp32: Verdict, attempts: Sequence[_Attempt]) -> list[dict[str, Any]]:
    """Points of tune, and of what was judged its accuracy on test."""
    verdicts = {FP32: fp32} | {a.step.variant: a.verdict for a in attempts if a.verdict and a.split == "test"}
    points = tuning.points()
    for point in points:
        is_whole = point["kind"] == "variant" or point["chosen"]
        verdict = verdicts.get(point["variant"]) if is_whole else None
        if verdict and (known := verdict.overall.accuracy):
            low, high = known.own_interval
            point["test"] = {"accuracy": known.variant, "low": low, "high": high}
            point["test"] |= {"records": known.records, "groups": known.groups}
    return points


def _batches(records: LabelledTensors, batch_rows: int) -> dict[str, Feeds]:
    """What is timed: a record that has as much as any, and a batch of the job's size."""
    fullest = [int(records.present.sum(axis=1).argmax())]
    cycle = np.arange(batch_rows) % len(records)
    return {
        "batch_1": pack(records.tensors.take(fullest), records.spec),
        f"batch_{batch_rows}": pack(records.tensors.take(cycle), records.spec),
    }


def _cost_card(cost: Cost | None, batch_rows: int) -> dict[str, Any]:
    """Bytes of a process that runs it, and milliseconds a record by the size of the batch, if measured."""
    if cost is None:
        return {}
    rows = {"batch_1": 1, f"batch_{batch_rows}": batch_rows}
    return {
        "peak_memory_bytes": cost.peak_bytes,
        "latency_ms": {name: round(s / rows[name] * 1e3, 3) for name, s in cost.seconds.items()},
    }


def _new_variant(attempt: _Attempt, parent: Bundle) -> NewVariant:
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
    """Outputs without ONNX Runtime's fused kernels: every operator by itself, and QDQ as float arithmetic."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def _scorecard(
    parent: Bundle, recipe: VariantRecipe, records: Records, uses: Uses, cards: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """The parent's, with what was found of each variant, and what it was found with."""
    before = parent.scorecard
    merged = before.get("variants", {}) | {
        name: before.get("variants", {}).get(name, {}) | card if name == FP32 else card
        for name, card in cards.items()
    }
    return before | {
        "splits": records.splits,
        "gate": {"batch_rows": recipe.batch_rows, "thresholds": recipe.thresholds.model_dump()},
        "test_uses": [*before.get("test_uses", []), *uses.all()],
        "variants": merged,
    }


def _describe(records: LabelledTensors) -> str:
    """As in "156 records of tune in 123 groups"."""
    labelled = int((records.labels >= 0).sum())
    known = "" if labelled == len(records) else f" ({labelled} with a known label)"
    return f"{len(records)} records{known} in {len(set(records.groups))} groups"


def _figures(verdict: Verdict) -> str:
    """The overall figures, for people."""
    overall = verdict.overall
    figures = [f"agreement {overall.agreement:.3f} (at least {overall.agreement_bound:.3f})"]
    if found := overall.accuracy:
        change = f"{found.difference:+.3f}, at least {found.bound:+.3f}"
        figures.append(f"accuracy {found.variant:.3f} ({change})")
    return ", ".join(figures)


def _with_seconds(say: Say) -> Say:
    """Puts before each line the seconds since the one before it."""
    before = perf_counter()

    def line(what: str) -> None:
        nonlocal before
        now = perf_counter()
        say(f"{now - before:6.1f} s  {what}")
        before = now

    return line
