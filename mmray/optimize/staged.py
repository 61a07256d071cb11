"""A cascade as a variant: chosen, cut, and run in full on held-out records to be judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from mmray.batching import Feeds
from mmray.bundle import FP32, Bundle, Cascade, CascadeStage
from mmray.cascade import carried, to_stages
from mmray.confidence import calibrated, stage_temperatures
from mmray.engine import Engine
from mmray.optimize.evidence import Evidence
from mmray.optimize.policy import Point, Policy, choose_policy
from mmray.optimize.staging import split_stages
from mmray.optimize.steps import CascadeStep, Step
from mmray.schema import Modality

_CURVE = (0.99, 0.97, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)  # thresholds that are shown

Say = Callable[[str], None]


@dataclass(frozen=True)
class MadeCascade:
    """A cascade's entry for the manifest, its graphs, and what it was chosen by."""

    cascade: Cascade
    graphs: tuple[Path, ...]
    policy: Policy
    costs: dict[str, float]

    @property
    def card(self) -> dict[str, Any]:
        """For the scorecard."""
        return {
            "costs_ms": {m: round(ms, 3) for m, ms in self.costs.items()},
            "stages": [list(stage) for stage in self.policy.stages],
            "threshold": self.policy.chosen.threshold,
            "disagreement_bound": self.policy.disagreement,
            "chosen": _figures(self.policy.chosen),
            "curve": [_figures(point) for point in self.policy.curve],
        }


def make_cascade(
    bundle: Bundle, step: Step, evidence: Evidence, costs: dict[str, float], folder: Path, say: Say
) -> MadeCascade:
    """Choose stages and exits, and cut the fp32 graph.

    Args:
        bundle: whose fp32 graph is cut.
        step: the budget, and the name that the files bear.
        evidence: what the whole graph answers to records that it never saw.
        costs: milliseconds a record by modality.
        folder: for the graphs.
        say: told the trade-off, a line at a time.

    Raises:
        InputError: the evidence does not support the budget.
        ModelError: the graph cannot be cut so.
    """
    assert isinstance(step.kind, CascadeStep)
    policy = choose_policy(evidence, costs, step.kind.budget)
    for line in _trade_off(policy, costs, len(evidence)):
        say(line)
    golden, _ = bundle.golden()
    parts = split_stages(onnx.load(bundle.graph(FP32)), policy.stages, golden)
    entries, graphs = [], []
    for number, (part, modalities) in enumerate(zip(parts, policy.stages, strict=True), start=1):
        path = folder / f"{step.variant}-{number}.onnx"
        onnx.save(part, path)
        graphs.append(path)
        exits = policy.exits[number - 1] if number < len(parts) else {}
        file = f"variants/{step.variant}-{number}.onnx"
        entries.append(CascadeStage(file=file, modalities=modalities, exits=exits))
    return MadeCascade(
        Cascade(stages=tuple(entries), disagreement=policy.disagreement), tuple(graphs), policy, costs
    )


class StagedEngine:
    """A cascade that is run like one graph: every stage for every record, and then the answer that counts.

    Where it is given the temperatures of the last stage, its scores are calibrated, as those of a run are.
    """

    wants_padding = False

    def __init__(
        self,
        cascade: Cascade,
        graphs: Sequence[Path],
        modalities: Sequence[Modality],
        temperatures: Mapping[str, float] | None = None,
    ) -> None:
        self._modalities = modalities
        engines = [Engine(graph, provider="cpu") for graph in graphs]
        self._stages = to_stages(cascade.stages, engines, modalities)
        self._temperatures: list[Mapping[str, float]] = []
        if temperatures is not None:
            early = [stage.exits for stage in self._stages[:-1]]
            self._temperatures = stage_temperatures(early, temperatures)

    def __call__(self, feeds: Feeds) -> Feeds:
        """Outputs of the stage that each record leaves after."""
        handed: Feeds = {}
        answer: Feeds = {}
        waiting = np.ones(len(feeds["present"]), np.bool_)
        for number, stage in enumerate(self._stages):
            inside = np.isin(self._modalities, stage.seen)
            known = {**feeds, **handed, "present": np.logical_and(feeds["present"], inside)}
            outputs = stage.engine({name: known[name] for name in stage.engine.inputs})
            handed |= carried(outputs)
            present = np.asarray(known["present"][:, inside], np.bool_)
            if self._temperatures:
                scores = calibrated(outputs["scores"], present, stage.seen, self._temperatures[number])
                outputs = {**outputs, "scores": scores}
            if stage is self._stages[-1]:
                leaves = waiting
            else:
                leaves = stage.leaving(outputs["logits"], present)[0] & waiting
            for name in ("logits", "scores", "features"):
                answer.setdefault(name, np.zeros_like(outputs[name]))[leaves] = outputs[name][leaves]
            waiting = waiting & ~leaves
        return answer


def _figures(point: Point) -> dict[str, Any]:
    return {
        "threshold": point.threshold,
        "early": round(point.early, 4),
        "harmed": point.harmed,
        "bound": round(point.bound, 4),
        "accuracy": round(point.accuracy, 4),
        "agreement": round(point.agreement, 4),
        "speedup": round(point.speedup, 3),
    }


def _trade_off(policy: Policy, costs: dict[str, float], records: int) -> list[str]:
    """For people: what was measured, and what each threshold would do."""
    order = " → ".join(" + ".join(stage) for stage in policy.stages)
    told = ", ".join(f"{m} {ms:.1f}" for m, ms in costs.items())
    lines = [
        f"cascade {order}; milliseconds a record: {told}; {records} records as evidence",
        "         threshold  leave early  harmed   bound  accuracy  agrees  faster",
    ]
    shown = [p for p in policy.curve if p.threshold in _CURVE or p.threshold == policy.chosen.threshold]
    for p in shown:
        mark = "  chosen" if p.threshold == policy.chosen.threshold else ""
        lines.append(
            f"         {p.threshold:9.3f}  {p.early:11.1%}  {p.harmed:6}  {p.bound:6.2%}  {p.accuracy:8.3f}  "
            f"{p.agreement:6.3f}  {p.speedup:5.2f}x{mark}"
        )
    return lines
