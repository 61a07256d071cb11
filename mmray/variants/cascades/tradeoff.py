"""The competitors of a cascade, by time and accuracy: whole variants, and subsets of the modalities.

All are measured on records of the tune split. A record that has none of a subset's modalities gets no answer,
which counts as wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmray.bundle import Bundle, NewVariant, extend_bundle
from mmray.engine import Engine
from mmray.evaluation import LabelledTensors
from mmray.schema import Modality
from mmray.stats.intervals import Clusters
from mmray.variants.cascades.costs import fit_costs
from mmray.variants.cascades.evidence import Evidence, ask, subsets
from mmray.variants.cascades.paths import Way, record_blocks, time_ways
from mmray.variants.cascades.small import half_graph
from mmray.variants.cascades.trial import Point, Trial

_TIMED_ROWS = 128  # records of one round, 3 s for each path of the stamps
_CONFIDENCE = 0.95  # of the intervals of accuracy, two-sided


class Tuning:
    """Data for choosing cascades, and the points of the trade-off.

    Args:
        bundle: with fp32 and every variant that passed.
        records: of the tune split.
        inputs: shards that hold them, for times of the whole path.
        batch_rows: records of one inference, as in the job.
        train: gives records that a head may be trained on, a few at a time; None: there are none.
    """

    def __init__(
        self,
        bundle: Bundle,
        records: LabelledTensors,
        inputs: Sequence[str],
        batch_rows: int,
        train: Callable[[], Iterable[LabelledTensors]] | None = None,
    ) -> None:
        self.bundle, self.records = bundle, records
        self._inputs, self._batch_rows, self._train = inputs, batch_rows, train
        self._subsets: dict[str, Subsets] = {}
        self._with_half: dict[str, Subsets] = {}
        #: Points of the scorecard's `tradeoff` that are cascades; added when a cascade is tried.
        self.cascades: list[dict[str, Any]] = []
        #: Variants whose cascade settings are in `curve`.
        self.drawn: set[str] = set()

    @cached_property
    def blocks(self) -> list[Any]:
        """Tables of RECORDS that are timed."""
        return record_blocks(self._inputs, self.records, _TIMED_ROWS)

    @cached_property
    def whole_ms(self) -> dict[str, float]:
        """Milliseconds a record of each variant for CPUs that looks at all modalities."""
        entries = self.bundle.manifest.variants
        names = [name for name in self.bundle.passing() if entries[name].cascade is None]
        return self.time({name: Way(name) for name in names if entries[name].provider == "any"})

    @property
    def fastest(self) -> str:
        """The variant that takes the least time."""
        return min(self.whole_ms, key=self.whole_ms.__getitem__)

    def time(self, ways: dict[str, Way], bundle: Bundle | None = None) -> dict[str, float]:
        """Milliseconds a record of paths, measured in turns."""
        return time_ways(bundle or self.bundle, ways, self.blocks, batch_rows=self._batch_rows)

    def trying(self, name: str, new: NewVariant, folder: Path) -> Bundle:
        """The bundle with one more variant, marked as passed, to time it."""
        before = self.bundle.scorecard
        scorecard = before | {"variants": before.get("variants", {}) | {name: {"passed": True}}}
        return extend_bundle(
            folder / f"{name}-timed", self.bundle, {name: new}, scorecard=scorecard, origin={}
        )

    def ask(self, variant: str, of: Sequence[tuple[Modality, ...]] | None = None) -> Evidence:
        """Answers of a variant, see `mmray.variants.cascades.evidence.ask`."""
        engine = Engine(self.bundle.graph(variant), provider="cpu")
        return ask(engine, self.records, batch_rows=self._batch_rows, of=of)

    def subsets_of(self, variant: str) -> Subsets:
        """Times and answers of a variant from every subset of the modalities."""
        if variant not in self._subsets:
            spec = self.bundle.spec
            every = subsets(spec.modalities)
            ms = self.time({"+".join(subset): Way(variant, subset) for subset in every})
            shares: dict[str, float] = dict(zip(spec.modalities, self._timed_shares, strict=True))
            costs = fit_costs({subset: ms["+".join(subset)] for subset in every}, shares)
            self._subsets[variant] = Subsets(variant, ms, Trial(self.ask(variant), costs))
        return self._subsets[variant]

    def with_half(self, variant: str, folder: Path) -> Subsets:
        """The same, with answers from images at half size by a head trained on them.

        Args:
            variant: of a bundle with labels, whose model takes images and something else.
            folder: for the graph.

        Raises:
            ModelError, ValueError and what ONNX Runtime raises: as `small.half_graph`.
        """
        if variant not in self._with_half:
            plain, name = self.subsets_of(variant), f"{variant}-half"
            train = self._train() if self._train else ()
            graph = half_graph(self.bundle.graph(variant), train, folder, self._batch_rows)
            engine = Engine(graph, provider="cpu")
            half = ask(engine, self.records, batch_rows=self._batch_rows).logits
            entry = self.bundle.entry(variant).model_copy(update={"file": f"variants/{name}.onnx"})
            new = NewVariant(entry, graph, engine(self.bundle.golden()[0]))
            bundle = self.trying(name, new, folder)
            image: tuple[Modality, ...] = ("image",)
            ways = {"whole": Way(variant, image), "half": Way(name, image), "decoded": Way(None, image)}
            ms = self.time(ways, bundle)
            share = self._timed_shares[self.bundle.spec.modalities.index("image")]
            costs = plain.trial.costs.with_half(
                saved=(ms["whole"] - ms["half"]) / share, decoding=ms["decoded"] / share
            )
            trial = Trial(replace(plain.trial.evidence, half=half), costs)
            self._with_half[variant] = Subsets(variant, plain.ms, trial, graph)
        return self._with_half[variant]

    @property
    def _timed_shares(self) -> list[float]:
        """Of the timed records that have each modality."""
        rows = sum(block.num_rows for block in self.blocks)
        return [
            1 - sum(block[m].null_count for block in self.blocks) / rows for m in self.bundle.spec.modalities
        ]

    def points(self) -> list[dict[str, Any]]:
        """The scorecard's `tradeoff`: every variant as a whole, subsets of the modalities, and cascades.

        Empty if no label is known.
        """
        if not (self.records.labels >= 0).any():
            return []
        every = self.bundle.spec.modalities
        self.subsets_of(self.fastest)
        found = []
        for variant, ms in self.whole_ms.items():
            whole = self.ask(variant, [every]).logits["+".join(every)].argmax(axis=1)
            found.append(self.point(variant, "variant", variant, every, ms, whole))
        for variant, known in self._subsets.items():
            for subset in subsets(every)[:-1]:
                name, decided = "+".join(subset), known.trial.decided(subset)
                point = self.point(f"{variant} {name}", "modality", variant, subset, known.ms[name], decided)
                found.append(point)
        return found + self.cascades

    def point(
        self,
        name: str,
        kind: str,
        variant: str,
        modalities: Sequence[str],
        ms: float,
        decided: npt.NDArray[np.intp],
        **more: Any,  # noqa: ANN401  (of JSON)
    ) -> dict[str, Any]:
        """A point of the scorecard's `tradeoff`.

        Args:
            name: of the point.
            kind: "modality", "variant" or "cascade".
            variant: that is run.
            modalities: that it may look at.
            ms: of a record.
            decided: [N], class of each tune record, -1 for no answer.
            more: `threshold`, `measured` and `chosen`, if not None, True and False.
        """
        labelled = self.records.labels >= 0
        right = (decided == self.records.labels)[labelled]
        clusters = Clusters(self.records.groups[labelled])
        low, high = clusters.interval(right, _CONFIDENCE)
        figures = {"ms": round(ms, 3), "accuracy": float(right.mean()), "low": low, "high": high}
        return {
            "name": name,
            "kind": kind,
            "variant": variant,
            "modalities": list(modalities),
            "threshold": None,
            **figures,
            "records": len(right),
            "groups": clusters.count,
            "split": "tune",
            "measured": True,
            "chosen": False,
            **more,
        }


@dataclass(frozen=True)
class Subsets:
    """A variant that is given only some of the modalities."""

    variant: str
    ms: dict[str, float]  # a record, by subset as "image+text"
    trial: Trial  # of its answers on the tune records
    half: Path | None = None  # graph for images at half size, if that may be tried

    def as_good(self, point: Point, *, by_agreement: bool) -> dict[str, float]:
        """Milliseconds of the proper subsets that are at least as good as a setting.

        Args:
            point: figures of the setting.
            by_agreement: compare agreement with the full model; else accuracy.
        """
        trial, every = self.trial, "+".join(self.trial.evidence.modalities)
        found = {}
        for name, ms in self.ms.items():
            decided = trial.decided(name.split("+"))
            reached = trial.agreement(decided) if by_agreement else trial.accuracy(decided)
            if name != every and reached >= (point.agreement if by_agreement else point.accuracy):
                found[name] = ms
        return found
