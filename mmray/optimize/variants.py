"""What `mmray optimize` does: make variants of a bundle's fp32 graph, judge and measure them, write a bundle.

Works on the ONNX graph alone, so on any bundle, wherever its graph came from. A variant that cannot be made,
or fails its gate, is an entry of the scorecard with the reason, and stops none of the others.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
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
from mmray.golden import output_difference
from mmray.optimize.costs import modality_costs
from mmray.optimize.gate import Verdict
from mmray.optimize.judge import Judge
from mmray.optimize.making import Workshop
from mmray.optimize.measure import Cost, measure
from mmray.optimize.outputs import LabelledTensors
from mmray.optimize.records import calibration_feeds, read_evidence, read_records
from mmray.optimize.staged import MadeCascade, StagedEngine, make_cascade
from mmray.optimize.steps import CascadeStep, Step, VariantRecipe

_log = logging.getLogger(__name__)
# How far a variant's golden outputs may be off on another machine: at least so much, or three times what they
# move here between kernels. Rounding to few bits makes small differences large: a value next to the edge of a
# step falls on its other side. Stamps: .01 to .04 of the scores; one that saturates is off by .3 or more.
_LEAST_TOLERANCE, _TOLERANCE_FACTOR = 0.02, 3.0

Say = Callable[[str], None]


def optimize(parent: Bundle, recipe: VariantRecipe, output: Path, *, say: Say = _log.info) -> Bundle:
    """Write a bundle with the parent's variants and those of the recipe that passed their gate.

    Args:
        parent: bundle to start from; stays as it is.
        recipe: what to make and what it must keep.
        output: the new bundle's directory; a bundle that is there is replaced.
        say: told what was done, a line a step.

    Raises:
        BundleError: the parent is altered, or `output` holds it or something that is not a bundle.
        InputError: too few held-out records, or calibration uses some of them.
        EngineError: the parent's own graph does not run.
    """
    check_replaceable(output, parent)
    parent.verify()
    say = _with_seconds(say)
    held_out, trial = read_records(parent, recipe)
    say(f"read {_describe(held_out)} and {len(trial)} for trials")
    fp32 = parent.graph(FP32)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        judge = Judge(fp32, held_out, trial, recipe, folder)
        say(f"{FP32}: {_figures(judge.own_verdict)}")
        calibration = partial(calibration_feeds, parent, recipe, held_out)
        workshop = Workshop(onnx.load(fp32), calibration, judge, recipe.batch_rows)
        attempts = []
        for step in recipe.steps:
            if isinstance(step.kind, CascadeStep):
                attempts.append(_attempt_cascade(step, parent, recipe, (held_out, trial), judge, folder, say))
            else:
                attempts.append(_attempt(step, workshop, judge, folder))
            say(f"{step.variant}: {attempts[-1].outcome}")
        graphs = {FP32: fp32} | {a.step.variant: a.graph for a in attempts if a.graph and not a.cascade}
        costs: dict[str, Cost] = {}
        if recipe.timing_rounds:
            batches = _batches(held_out, recipe.batch_rows)
            costs = measure(graphs, batches, rounds=recipe.timing_rounds)
            say(f"timed and weighed {len(costs)} graphs")
        cards = {FP32: judge.own_verdict.as_dict()} | {a.step.variant: a.card for a in attempts}
        for name, graph in graphs.items():
            cards[name]["size_bytes"] = graph.stat().st_size
            cards[name] |= _cost_card(costs.get(name), recipe.batch_rows)
        kept = [a for a in attempts if a.graph and (recipe.keep_failed or not a.reason)]
        bundle = extend_bundle(
            output,
            parent,
            {a.step.variant: _new_variant(a, parent) for a in kept},
            scorecard=_scorecard(parent, recipe, held_out, cards),
            origin={"optimize": recipe.model_dump_json()},
        )
        say(f"wrote {output}")
    return bundle


@dataclass(frozen=True)
class _Attempt:
    """What became of a step. `reason` says why it failed; it is empty where it did not."""

    step: Step
    reason: str
    graph: Path | None = None  # none where it could not be made
    rehearsal: Path | None = None
    verdict: Verdict | None = None
    notes: dict[str, str] = field(default_factory=dict)  # what a search found
    cascade: MadeCascade | None = None  # `graph` is then the whole one, cut into its stages

    @property
    def outcome(self) -> str:
        """For people."""
        figures = _figures(self.verdict) if self.verdict else ""
        found = "".join(f"; {name}: {value}" for name, value in self.notes.items())
        return (f"failed: {self.reason}" if self.reason else f"passed, {figures}") + found

    @property
    def card(self) -> dict[str, Any]:
        """For the scorecard."""
        return (
            {"passed": not self.reason, "reason": self.reason}
            | (self.verdict.as_dict() if self.verdict else {})
            | ({"cascade": self.cascade.card} if self.cascade else {})
        )


def _attempt(step: Step, workshop: Workshop, judge: Judge, folder: Path) -> _Attempt:
    """Make a variant and judge it; by its rehearsal, too, where it has one."""
    graph, rehearsal = folder / f"{step.variant}.onnx", None
    try:
        made = workshop.make(step)
        onnx.save(made.model, graph)
        verdict = judge.verdict(graph)
        if made.rehearsal is not None and verdict.passed:
            rehearsal = folder / f"{step.variant}-rehearsal.onnx"
            onnx.save(made.rehearsal, rehearsal)
            verdict = judge.verdict(rehearsal)
    except Exception as e:  # onnx's and ONNX Runtime's share no base; the scorecard has the reason
        return _Attempt(step, f"cannot be made: {(str(e).splitlines() or [type(e).__name__])[0]}")
    return _Attempt(step, verdict.reason, graph, rehearsal, verdict, made.notes)


def _attempt_cascade(
    step: Step,
    parent: Bundle,
    recipe: VariantRecipe,
    records: tuple[LabelledTensors, LabelledTensors],  # held out, and for trials
    judge: Judge,
    folder: Path,
    say: Say,
) -> _Attempt:
    """Choose and cut a cascade, and judge what it answers."""
    assert isinstance(step.kind, CascadeStep)
    try:
        held_out, trial = records
        evidence = read_evidence(parent, step.kind, recipe, held_out)
        timed = recipe.calibration or recipe.held_out
        costs = modality_costs(timed.input, parent, Engine(parent.graph(FP32), provider="cpu"), trial)
        made = make_cascade(parent, step, evidence, costs, folder, say)
        engine = StagedEngine(made.cascade, made.graphs, parent.spec.modalities)
        verdict = judge.verdict_of(engine)
    except Exception as e:  # as in _attempt
        return _Attempt(step, f"cannot be made: {(str(e).splitlines() or [type(e).__name__])[0]}")
    return _Attempt(step, verdict.reason, parent.graph(FP32), None, verdict, cascade=made)


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
        entry = parent.manifest.variants[FP32].model_copy(
            update={"parent": FP32, "how": step.how, "cascade": made.cascade}
        )
        return NewVariant(entry, attempt.graph, parent.golden()[1], made.graphs)
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
    parent: Bundle, recipe: VariantRecipe, held_out: LabelledTensors, cards: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """The parent's, with what was found of each variant, and what it was found with."""
    before = parent.scorecard
    merged = before.get("variants", {}) | {
        name: before.get("variants", {}).get(name, {}) | card if name == FP32 else card
        for name, card in cards.items()
    }
    gate = {
        "records": len(held_out),
        "labelled": int((held_out.labels >= 0).sum()),
        "batch_rows": recipe.batch_rows,
        "thresholds": recipe.thresholds.model_dump(),
    }
    return before | {"gate": gate, "variants": merged}


def _describe(records: LabelledTensors) -> str:
    labelled = int((records.labels >= 0).sum())
    return f"{len(records)} held-out records ({labelled} with a known label)"


def _figures(verdict: Verdict) -> str:
    """The overall figures, for people."""
    overall = verdict.overall
    figures = [f"agreement {overall.agreement:.3f}"]
    if found := overall.accuracy:
        low, high = found.interval
        figures.append(f"accuracy {found.variant:.3f} ({found.difference:+.3f}, {low:+.3f} to {high:+.3f})")
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
