"""Judges graphs by their parent: on tune as often as a search needs, on test once for each variant."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import onnx

from mmray.engine import Engine
from mmray.evaluation import (
    Judged,
    LabelledTensors,
    Outputs,
    Records,
    Runs,
    judge_selective,
    run_outputs,
    whole_outputs,
)
from mmray.schema import Modality
from mmray.variants.gate import NOT_ENOUGH, PASSED, Thresholds, Verdict, compare, mean_divergence
from mmray.variants.steps import VariantRecipe

_TRIAL_ROWS = 64  # records on which a search measures changes; 1 s a graph of the stamps

_TRAIN_ROWS = 5000  # records to train a head on: their features take 0.2 GB


class Judge:
    """Runs graphs on the CPU provider and compares their outputs with the parent's.

    Args:
        parent: ONNX file.
        records: by split; test is not read before the first verdict.
        recipe: batches and thresholds.
        folder: for the graphs that are tried.

    Raises:
        InputError: no usable record of the tune split.
        EngineError: the parent does not load.
    """

    def __init__(self, parent: Path, records: Records, recipe: VariantRecipe, folder: Path) -> None:
        self._records, self._recipe = records, recipe
        self._candidate = folder / "candidate.onnx"
        self._engine = Engine(parent, provider="cpu")
        self._known: dict[tuple[Path, str], Outputs] = {}
        #: Every choice is made on these.
        self.tune: LabelledTensors = records.load("tune")

    @cached_property
    def test(self) -> LabelledTensors:
        """No choice is made on these.

        Raises:
            InputError: there is no usable one.
        """
        return self._records.load("test")

    def to_train(self) -> Iterator[LabelledTensors]:
        """Records that a head may be trained on, a few at a time."""
        return self._records.parts("train", _TRAIN_ROWS)

    @cached_property
    def own_verdict(self) -> Verdict:
        """The parent's own verdict on test: it passes by definition."""
        found = compare(self._on_test, self._on_test, self._recipe.thresholds)
        return replace(found, answer=PASSED, reason="", overall=replace(found.overall, verdict=PASSED))

    def verdict(self, graph: Path) -> Verdict:
        """The gate's verdict on a variant's ONNX file, on test."""
        return compare(self._on_test, self._judged(graph, "test"), self._recipe.thresholds)

    def tune_verdict(self, graph: Path) -> Verdict:
        """The gate's verdict on tune."""
        return compare(self._on_tune, self._judged(graph, "tune"), self._recipe.thresholds)

    def cascade_verdict(
        self, engine: Runs, reference: tuple[Modality, ...], thresholds: Thresholds
    ) -> Verdict:
        """The gate's verdict on a cascade, on test, with records as they are.

        Args:
            engine: answers as the cascade does.
            reference: modalities that the parent may look at in the answers that it is compared with.
            thresholds: of the comparison.
        """
        rows = self._recipe.batch_rows
        parent = whole_outputs(self._engine, self.test, batch_rows=rows, seen=reference)
        return compare(parent, whole_outputs(engine, self.test, batch_rows=rows), thresholds)

    @cached_property
    def own_selective(self) -> Judged:
        """Temperatures of the parent, and thresholds for abstaining."""
        return judge_selective(self._on_tune, self._on_test)

    def selective(self, graph: Path) -> Judged:
        """The same of an ONNX file that was judged."""
        return judge_selective(self._judged(graph, "tune"), self._judged(graph, "test"))

    def cascade_selective(self, engine: Runs, temperatures: Mapping[str, float]) -> Judged:
        """The same of a cascade, whose engine gives scores that went through these temperatures already."""
        rows = self._recipe.batch_rows
        tune, test = (whole_outputs(engine, records, batch_rows=rows) for records in (self.tune, self.test))
        return judge_selective(tune, test, already=temperatures)

    def passes(self, model: onnx.ModelProto) -> bool:
        """Whether a graph passes the gate on tune; by estimates if tune is too small for bounds."""
        onnx.save(model, self._candidate)
        found = self._run(self._candidate, self.tune)
        verdict = compare(self._on_tune, found, self._recipe.thresholds)
        return verdict.passed or (verdict.answer == NOT_ENOUGH and not self._tune_can_tell)

    def change(self, model: onnx.ModelProto) -> float:
        """Mean KL divergence in nats of a graph's scores on some tune records; infinite for one that is not.

        Each record counts once for each of its modalities alone: no modality hides another's loss, and every
        encoder runs only once for each record.
        """
        onnx.save(model, self._candidate)
        scores = self._run(self._candidate, self._trial, largest=1).scores
        if not np.isfinite(scores).all():
            return math.inf
        return mean_divergence(self._trial_parent.scores, scores)

    @cached_property
    def _on_test(self) -> Outputs:
        return self._run(self._engine, self.test)

    @cached_property
    def _on_tune(self) -> Outputs:
        return self._run(self._engine, self.tune)

    @cached_property
    def _tune_can_tell(self) -> bool:
        """Whether the parent, which changes nothing, would pass on tune."""
        return compare(self._on_tune, self._on_tune, self._recipe.thresholds).passed

    @cached_property
    def _trial(self) -> LabelledTensors:
        return self.tune.thinned(_TRIAL_ROWS)

    @cached_property
    def _trial_parent(self) -> Outputs:
        return self._run(self._engine, self._trial, largest=1)

    def _judged(self, graph: Path, split: Literal["tune", "test"]) -> Outputs:
        """Outputs of a variant's graph, run once for the verdict and the calibration."""
        if (graph, split) not in self._known:
            self._known[graph, split] = self._run(graph, self.tune if split == "tune" else self.test)
        return self._known[graph, split]

    def _run(self, graph: Path | Runs, records: LabelledTensors, *, largest: int | None = None) -> Outputs:
        engine = Engine(graph, provider="cpu") if isinstance(graph, Path) else graph
        return run_outputs(engine, records, batch_rows=self._recipe.batch_rows, largest=largest)
