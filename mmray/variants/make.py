"""`mmray optimize`: make variants of a bundle's fp32 graph, judge and measure them, write a bundle.

Needs only the ONNX graph, so it works on any bundle. A variant that cannot be made or fails its gate gets an
entry in the scorecard with the reason; the others are made anyway.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import onnx

from mmray.batching import Feeds, pack
from mmray.bundle import FP32, Bundle, check_replaceable, extend_bundle
from mmray.evaluation import LabelledTensors, Records, bundle_reference
from mmray.variants.attempts import (
    Attempt,
    Say,
    attempt,
    attempt_cascade,
    figures_of,
    new_variant,
    tuning_of,
)
from mmray.variants.cascades.tradeoff import Tuning
from mmray.variants.gate import Verdict
from mmray.variants.judge import Judge
from mmray.variants.making import Workshop
from mmray.variants.measure import Cost, measure
from mmray.variants.steps import CascadeStep, VariantRecipe
from mmray.variants.uses import Uses

_log = logging.getLogger(__name__)


def optimize(
    parent: Bundle, recipe: VariantRecipe, output: Path, *, again: str | None = None, say: Say = _log.info
) -> Bundle:
    """Write a bundle with the parent's variants and those of the recipe that passed their gate.

    Args:
        parent: bundle to start from; stays as it is.
        recipe: variants to make, and thresholds.
        output: the new bundle's directory; an existing bundle is replaced.
        again: reason to judge variants again on the same test records.
        say: gets progress messages, a line a step.

    Raises:
        BundleError: the parent is altered, or `output` is the parent or not a bundle.
        InputError: a split without usable records.
        UsageError: a variant was judged on the same test records before, and `again` is not given.
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
        say(f"{FP32}: {figures_of(judge.own_verdict)}")
        workshop = Workshop(onnx.load(fp32), partial(records.feeds, "train"), judge, recipe.batch_rows)
        attempts: list[Attempt] = []
        tuning = None
        # Cascades last, in any order of the recipe: they are cut from the fastest of the others.
        for step in sorted(recipe.steps, key=lambda step: isinstance(step.kind, CascadeStep)):
            if isinstance(step.kind, CascadeStep):
                tuning = tuning or tuning_of(parent, recipe, judge, attempts, folder)
                attempts.append(attempt_cascade(step, tuning, recipe, judge, folder, say))
            else:
                attempts.append(attempt(step, workshop, judge, folder))
            if attempts[-1].verdict and attempts[-1].split == "test":
                uses.note(step.variant, again)
            say(f"{step.variant}: {attempts[-1].outcome}")
        if recipe.timing_rounds and parent.labels:
            tuning = tuning or tuning_of(parent, recipe, judge, attempts, folder)
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
            {a.step.variant: new_variant(a, parent) for a in kept},
            scorecard=_scorecard(parent, recipe, records, uses, cards)
            | {"tradeoff": _tradeoff(tuning, judge.own_verdict, attempts) if tuning else []},
            origin={"optimize": recipe.model_dump_json()},
            found={FP32: judge.own_selective.fields},
            abstain=recipe.abstain,
            describe=lambda made: bundle_reference(made, judge.tune),
        )
        say(f"wrote {output}")
    return bundle


def _tradeoff(tuning: Tuning, fp32: Verdict, attempts: Sequence[Attempt]) -> list[dict[str, Any]]:
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
    """Batches to time: a record with all modalities, and a batch of the job's size."""
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


def _scorecard(
    parent: Bundle, recipe: VariantRecipe, records: Records, uses: Uses, cards: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """The parent's scorecard, with results of each variant and their settings."""
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


def _with_seconds(say: Say) -> Say:
    """Prefixes each line with the seconds since the previous one."""
    before = perf_counter()

    def line(what: str) -> None:
        nonlocal before
        now = perf_counter()
        say(f"{now - before:6.1f} s  {what}")
        before = now

    return line
