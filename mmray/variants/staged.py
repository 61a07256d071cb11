"""A cascade as a variant: chosen, cut, timed against its competitors, and run in full to be judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from mmray.batching import Feeds
from mmray.bundle import FP32, Cascade, CascadeStage, NewVariant
from mmray.cascade import carried, to_stages
from mmray.confidence import calibrated, stage_temperatures
from mmray.engine import Engine
from mmray.errors import InputError
from mmray.schema import Modality
from mmray.variants.cascades.evidence import modality_of
from mmray.variants.cascades.paths import Way
from mmray.variants.cascades.policy import Budget, Policy, choose_policy
from mmray.variants.cascades.staging import split_stages
from mmray.variants.cascades.tradeoff import Subsets, Tuning
from mmray.variants.cascades.trial import Point
from mmray.variants.steps import CascadeStep, Step

_CURVE_POINTS = 40  # points of the scorecard's curve, at most
_SHOWN = 12  # settings that are printed
_FASTER = 0.95  # a cascade takes at most this share of a simpler option's time; a smaller gain may be chance
_NO_HALF = "         no stage for images at half their size"

Say = Callable[[str], None]


@dataclass(frozen=True)
class MadeCascade:
    """A cascade that is worth offering."""

    variant: NewVariant
    card: dict[str, Any]  # for the scorecard's entry of the variant, under `cascade`

    def engine(self, modalities: Sequence[Modality]) -> StagedEngine:
        """Its stages, run like one graph; `modalities` are the bundle's."""
        assert self.variant.entry.cascade is not None
        return StagedEngine(self.variant.entry.cascade, self.variant.stages, modalities)

    def calibrated_engine(self, modalities: Sequence[Modality]) -> StagedEngine:
        """The same, with the scores of a run: the last stage has the base's temperatures."""
        entry = self.variant.entry
        assert entry.cascade is not None
        return StagedEngine(entry.cascade, self.variant.stages, modalities, entry.temperatures)


def make_cascade(step: Step, tuning: Tuning, folder: Path, say: Say) -> MadeCascade:
    """Choose stages and exits on the tune records, cut the base variant's graph, and time the outcome.

    Args:
        step: the base variant, the budget, and the name of the new one.
        tuning: records, and a bundle with all variants that passed; points of the curve are added to it.
        folder: for the graphs, and for a bundle while the cascade is timed.
        say: gets the trade-off, a line at a time.

    Raises:
        InputError: no setting is within the budget; or those that are, are slower than a variant or a subset
            of the modalities that is as accurate.
        BundleError: no such base variant, or it failed.
        ModelError: the base's graph cannot be cut.
    """
    assert isinstance(step.kind, CascadeStep)
    budget = step.kind.budget
    base = tuning.fastest if step.kind.of == "auto" else step.kind.of
    tuning.bundle.check_variant(base)
    alone, policy = _choose(base, step.kind, tuning, folder, say)
    for line in _trade_off(policy, alone):
        say(line)
    new = _cut(step, base, policy, alone, tuning, folder)
    ms = _time(step, new, alone, policy, tuning, folder)
    say(f"         measured: {', '.join(f'{name} {value:.2f} ms' for name, value in ms.items())}")
    own, *rivals = ms.values()
    worth = own <= _FASTER * min(rivals)
    tuning.cascades += _points(step.variant, policy, alone, own, tuning, worth=worth)
    if not worth:
        raise _not_worth(step.variant, ms, policy.chosen)
    return MadeCascade(new, _card(base, budget, policy, alone, ms))


def _choose(base: str, kind: CascadeStep, tuning: Tuning, folder: Path, say: Say) -> tuple[Subsets, Policy]:
    """The fastest setting; one with images at half size must be faster than others by more than chance."""
    alone = tuning.subsets_of(base)
    policy = choose_policy(alone.trial.evidence, alone.trial.costs, kind.budget)
    if not kind.half_images or "image" not in alone.trial.evidence.modalities or not tuning.bundle.labels:
        return alone, policy
    try:
        with_half = tuning.with_half(base, folder)
    except Exception as e:  # ONNX Runtime's own exception types share no base; the message is printed
        say(f"{_NO_HALF}: {(str(e).splitlines() or [type(e).__name__])[0]}")
        return alone, policy
    other = choose_policy(with_half.trial.evidence, with_half.trial.costs, kind.budget)
    if other.chosen.ms <= _FASTER * policy.chosen.ms:
        return with_half, other
    say(
        f"{_NO_HALF}: {other.chosen.setting} would take {other.chosen.ms:.2f} ms, "
        f"{policy.chosen.setting} {policy.chosen.ms:.2f} ms"
    )
    return alone, policy


def _cut(step: Step, base: str, policy: Policy, alone: Subsets, tuning: Tuning, folder: Path) -> NewVariant:
    """The base's graph in stages."""
    bundle, stages = tuning.bundle, policy.chosen.setting.stages
    half = onnx.load(alone.half) if alone.half else None
    parts = split_stages(onnx.load(bundle.graph(base)), stages, bundle.golden()[0], half)
    entries, graphs = [], []
    for number, (part, looks) in enumerate(zip(parts, stages, strict=True), start=1):
        modalities = tuple(map(modality_of, looks))
        path = folder / f"{step.variant}-{number}.onnx"
        onnx.save(part, path)
        graphs.append(path)
        exits = policy.exits[number - 1] if number < len(parts) else {}
        file = f"variants/{step.variant}-{number}.onnx"
        entries.append(CascadeStage(file=file, modalities=modalities, exits=exits))
    cascade = Cascade(stages=tuple(entries), disagreement=policy.disagreement)
    entry = bundle.entry(base).model_copy(
        update={"parent": FP32, "how": {**step.how, "of": base}, "cascade": cascade, "selective": ()}
    )
    return NewVariant(entry, bundle.graph(base), bundle.golden(base)[1], tuple(graphs))


def _time(
    step: Step, new: NewVariant, alone: Subsets, policy: Policy, tuning: Tuning, folder: Path
) -> dict[str, float]:
    """Milliseconds a record, measured in turns: the cascade first, then its competitors.

    These are the fastest variant with all modalities, and the fastest subset of the base's modalities that is
    as good in the quantity that the budget limits.
    """
    assert isinstance(step.kind, CascadeStep)
    name, budget = step.variant, step.kind.budget
    bundle = tuning.trying(name, new, folder)
    ways = {name: Way(name), f"{tuning.fastest} with all": Way(tuning.fastest)}
    rivals = alone.as_good(policy.chosen, by_agreement=budget.accuracy_loss is None)
    if rivals:
        subset = min(rivals, key=rivals.__getitem__)
        taken: tuple[Modality, ...] = tuple(m for m in bundle.spec.modalities if m in subset.split("+"))
        ways[f"{alone.variant} with {subset} alone"] = Way(alone.variant, taken)
    return tuning.time(ways, bundle)


def _not_worth(name: str, ms: dict[str, float], chosen: Point) -> InputError:
    """The error for a cascade that a simpler option beats."""
    rivals = {k: v for k, v in ms.items() if k != name}
    best = min(rivals, key=rivals.__getitem__)
    return InputError(
        f"not worth it: the fastest cascade within the budget, {chosen.setting}, takes {ms[name]:.2f} "
        f"ms a record at an accuracy of {chosen.accuracy:.3f}; {best} is as good in {rivals[best]:.2f} ms"
    )


class StagedEngine:
    """A cascade that is run like one graph: every stage for every record, then each record's exit is chosen.

    With the temperatures of the last stage, its scores are calibrated as in a run.
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
        """Outputs of the stage at which each record exits."""
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


def _card(base: str, budget: Budget, policy: Policy, alone: Subsets, ms: dict[str, float]) -> dict[str, Any]:
    """For the scorecard."""
    chosen, costs, evidence = policy.chosen, alone.trial.costs, alone.trial.evidence
    return {
        "of": base,
        "budget": str(budget),
        "stages": [list(stage) for stage in chosen.setting.stages],
        "thresholds": list(chosen.setting.thresholds),
        "chosen_on": {
            "split": "tune",
            "records": len(evidence),
            "groups": len(np.unique(evidence.groups)),
            "settings": policy.tried,
            "note": "the bound is of the best of these settings, so slightly optimistic; test decides",
        },
        "bound": round(policy.bound, 5),
        "confidence": budget.confidence,
        "accuracy": round(chosen.accuracy, 4),
        "agreement": round(chosen.agreement, 4),
        "early": round(chosen.early, 4),
        "disagreement_bound": round(policy.disagreement, 5),
        "expected_ms": round(chosen.ms, 3),
        "measured_ms": {name: round(value, 3) for name, value in ms.items()},
        "costs_ms": {
            "row_and_stage": round(costs.row, 4),
            **{m: round(value, 3) for m, value in costs.modality.items()},
        },
    }


def _points(
    variant: str, policy: Policy, alone: Subsets, ms: float, tuning: Tuning, *, worth: bool
) -> list[dict[str, Any]]:
    """Points of the scorecard's `tradeoff`: the chosen setting as measured, others once for each base.

    Times of the others come from another round, so they are scaled by the ratio of the chosen setting's
    times.
    """
    found = []
    others = () if alone.variant in tuning.drawn else policy.front
    tuning.drawn.add(alone.variant)
    slower = ms / policy.chosen.ms
    for point in _thinned(others, policy.chosen):
        is_chosen = point is policy.chosen
        found.append(
            tuning.point(
                variant if is_chosen and worth else f"{variant}: {point.setting}",
                "cascade",
                variant,
                tuning.bundle.spec.modalities,
                ms if is_chosen else slower * point.ms,
                alone.trial.outcome(point.setting).decided,
                threshold=point.setting.thresholds[0],
                measured=is_chosen,
                chosen=is_chosen and worth,
            )
        )
    return found


def _thinned(front: Sequence[Point], chosen: Point, most: int = _CURVE_POINTS) -> list[Point]:
    """At most so many points of a curve, spread evenly, with the chosen one among them."""
    others = [point for point in front if point is not chosen]
    at = np.linspace(0, len(others) - 1, min(most - 1, len(others))).astype(np.intp)
    return sorted([chosen, *(others[i] for i in at)], key=lambda point: point.ms)


def _trade_off(policy: Policy, alone: Subsets) -> list[str]:
    """The trade-off as text: measured times, and the expected figures of settings."""
    costs, trial = alone.trial.costs, alone.trial
    told = ", ".join(f"{m} {value:.2f}" for m, value in costs.modality.items())
    lines = [
        f"cascade of {alone.variant}; milliseconds: {told}, of each row and stage {costs.row:.2f}; "
        f"{len(trial.evidence)} tune records, {policy.tried} settings",
        "         accuracy  agrees  early     ms  setting",
    ]
    for p in _thinned(policy.front, policy.chosen, _SHOWN):
        mark = "  chosen" if p is policy.chosen else ""
        lines.append(
            f"         {p.accuracy:8.3f}  {p.agreement:6.3f}  {p.early:5.1%}  {p.ms:5.2f}  {p.setting}{mark}"
        )
    for name, value in alone.ms.items():
        lines.append(
            f"         {trial.accuracy(trial.decided(name.split('+'))):8.3f}  {value:21.2f}  {name} alone"
        )
    return lines
