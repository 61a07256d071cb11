"""Graphs against their parent: the whole verdict, or, for a search that tries many, how much changed."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx

from mmray.engine import Engine
from mmray.optimize.gate import Verdict, compare, mean_divergence
from mmray.optimize.outputs import LabelledTensors, Outputs, Runs, run_outputs
from mmray.optimize.steps import VariantRecipe


class Judge:
    """Runs graphs on the CPU provider and compares what they give with what the parent gives.

    Args:
        parent: ONNX file.
        held_out: records for verdicts.
        trial: records for `change`, few and none of those held out.
        recipe: batches and thresholds.
        folder: for the graphs that are tried.

    Raises:
        EngineError: the parent does not load.
    """

    def __init__(
        self,
        parent: Path,
        held_out: LabelledTensors,
        trial: LabelledTensors,
        recipe: VariantRecipe,
        folder: Path,
    ) -> None:
        self._graph, self._held_out, self._trial, self._recipe = parent, held_out, trial, recipe
        self._candidate = folder / "candidate.onnx"
        self._parent = self._run(parent, held_out)
        #: What the parent itself is like.
        self.own_verdict = compare(self._parent, self._parent, recipe.thresholds)

    def verdict(self, graph: Path) -> Verdict:
        """What the gate says of an ONNX file."""
        return compare(self._parent, self._run(graph, self._held_out), self._recipe.thresholds)

    def verdict_of(self, engine: Runs) -> Verdict:
        """What the gate says of whatever answers as a graph does."""
        outputs = run_outputs(engine, self._held_out, batch_rows=self._recipe.batch_rows)
        return compare(self._parent, outputs, self._recipe.thresholds)

    def passes(self, model: onnx.ModelProto) -> bool:
        """Whether a graph would pass the gate."""
        onnx.save(model, self._candidate)
        return self.verdict(self._candidate).passed

    def change(self, model: onnx.ModelProto) -> float:
        """Mean KL divergence in nats of a graph's scores on the trial records; infinite for one that is not.

        Each record counts once with each of its modalities alone: so no modality hides another's loss, and
        every encoder runs only once a record.
        """
        onnx.save(model, self._candidate)
        scores = self._run(self._candidate, self._trial, largest=1).scores
        if not np.isfinite(scores).all():
            return math.inf
        return mean_divergence(self._trial_parent.scores, scores)

    @cached_property
    def _trial_parent(self) -> Outputs:
        return self._run(self._graph, self._trial, largest=1)

    def _run(self, graph: Path, records: LabelledTensors, *, largest: int | None = None) -> Outputs:
        engine = Engine(graph, provider="cpu")
        return run_outputs(engine, records, batch_rows=self._recipe.batch_rows, largest=largest)
