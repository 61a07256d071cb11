"""Makes one step's graph, with calibration and the search for blocks that must stay in float."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property

import onnx

from mmray.batching import Feeds
from mmray.variants.judge import Judge
from mmray.variants.quantize import MOMENT_ROWS, collect_moments, rehearse_half, to_half
from mmray.variants.quantize.calibrate import Ranges, collect_ranges
from mmray.variants.quantize.histogram import Method
from mmray.variants.quantize.int8 import Flavour, Form, to_dynamic_int8, to_int8
from mmray.variants.quantize.rounding import Rounding, find_rounding
from mmray.variants.quantize.sensitivity import Quantize, fewest_exclusions, rank
from mmray.variants.quantize.targets import name_of, sites
from mmray.variants.quantize.trunks import best_forms
from mmray.variants.steps import Given, Half, Int8, Step


@dataclass(frozen=True)
class Made:
    """A variant's graph.

    A CPU runs float16 in float32, without the rounding of an accelerator; `rehearsal` is then a graph that
    rounds. `notes` are results of a search, for the manifest.
    """

    model: onnx.ModelProto
    rehearsal: onnx.ModelProto | None = None
    notes: dict[str, str] = field(default_factory=dict)


class Workshop:
    """Makes variants of one graph.

    Args:
        model: in float32; never altered.
        calibration: gives batches of records, of `batch_rows` or of its own size, from the start at each
            call.
        judge: measures changes, and whether a graph would pass.
        batch_rows: records of one inference, as in the job.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        calibration: Callable[..., Iterable[Feeds]],
        judge: Judge,
        batch_rows: int,
    ) -> None:
        self._model, self._calibration, self._judge = model, calibration, judge
        self._batch_rows = batch_rows
        self._ranges: dict[Method, Ranges] = {}

    def make(self, step: Step) -> Made:
        """Make the variant of a step.

        Raises:
            Exception: of any kind that onnx or ONNX Runtime raise on graphs that they do not take.
        """
        if isinstance(step.kind, Int8) and step.kind.method == "best":
            return self._best(step.kind)
        if isinstance(step.kind, Given):
            return Made(onnx.load(step.kind.graph))
        make = self._quantizer(step)
        rehearse = (lambda keep: rehearse_half(self._model, keep)) if isinstance(step.kind, Half) else None
        nodes: frozenset[str] = frozenset()
        notes: dict[str, str] = {}
        if step.kind.mixed:
            tried = rehearse or make
            ranked = rank(self._model, tried, self._judge.change)
            kept = fewest_exclusions(ranked, tried, self._judge.passes).kept
            nodes = frozenset(name for block in ranked if block.block in kept for name in block.nodes)
            notes["kept_in_float"] = ", ".join(kept)
        return Made(make(nodes), rehearse(nodes) if rehearse else None, notes)

    def _best(self, kind: Int8) -> Made:
        def quantize(form_of: Callable[[str], Form]) -> onnx.ModelProto:
            return self._int8(form_of, kind.ranges)

        change, passes = self._judge.change, self._judge.passes
        records = self._calibration()
        found = best_forms(self._model, quantize, records, self._batch_rows, change, passes)
        return Made(found.model, notes={"forms": found.report})

    def _quantizer(self, step: Step) -> Quantize:
        """From names of nodes that stay in float to the graph."""
        kind, model = step.kind, self._model
        assert isinstance(kind, Half | Int8)
        if isinstance(kind, Half):
            return lambda keep: to_half(model, keep)
        if kind.method == "dynamic":
            return lambda keep: to_dynamic_int8(model, keep)
        return lambda keep: self._int8(
            lambda name: "float" if name in keep else "static", kind.ranges, kind.flavour
        )

    def _int8(
        self, form_of: Callable[[str], Form], method: Method, flavour: Flavour = "cpu"
    ) -> onnx.ModelProto:
        """The graph with each node in its given form, static ones with fitted weights."""
        static = [name for name in self._sites if form_of(name) == "static"]
        return to_int8(self._rounding.on(self._model, static), form_of, self._ranges_by(method), flavour)

    @cached_property
    def _sites(self) -> list[str]:
        return [name_of(site.node) for site in sites(self._model.graph)]

    @cached_property
    def _rounding(self) -> Rounding:
        """Computed once for all steps."""
        feeds = self._calibration(batch_rows=MOMENT_ROWS)
        return find_rounding(self._model, collect_moments(self._model, feeds))

    def _ranges_by(self, method: Method) -> Ranges:
        """Collected once for all steps, on weights as static int8 has them."""
        if method not in self._ranges:
            rounded = self._rounding.on(self._model, self._sites)
            self._ranges[method] = collect_ranges(rounded, self._calibration(), method)
        return self._ranges[method]
