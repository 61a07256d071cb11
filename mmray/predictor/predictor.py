"""A bundle's model, ready to be called: one stage after the other, until every record has its answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from copy import copy
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmray.batching import Feeds
from mmray.bundle import Bundle
from mmray.confidence import Abstain, calibrated, stage_temperatures
from mmray.drift import Counts, Sketcher, Watcher
from mmray.engine import Provider
from mmray.engine.turns import Device
from mmray.predictor.answers import Step
from mmray.predictor.blame import Answered, Failed, Runner
from mmray.predictor.opening import default_columns, open_runners
from mmray.predictor.stage import AnswerInfo, StagePass
from mmray.schema import Modality, OutputColumns, outcomes
from mmray.shapes import Ladder

#: `Preprocessor.complete`, or a function that does the same.
Complete = Callable[[pa.Table, Collection[Modality]], pa.Table]


class Predictor:
    """A bundle's model, ready: TENSORS in, OUTCOMES out. For one thread; `twin` makes one for another thread.

    Args:
        bundle: an opened bundle.
        variant: which compiled form; "auto" takes the one that this machine runs fastest.
        provider: where to run.
        threads: threads of one inference.
        batch_rows: records of one inference on a CPU; None: a suitable number.
        ladder: sizes of batches; None: any on a CPU, those of a job on a device.
        shared: whether other processes of this machine load the same graph; on the CPU they then share its
            weights.
        shadow: share of a cascade's early exits that are run to the end as well.
        columns: which optional columns to give; None gives the scores of every class, or the features if the
            model has no labels, and for a cascade the stages.
        abstain: share of the labels that may be wrong; a record whose score is too low gets no label.
            "auto": as the bundle asks. Ignored with `columns`, which have the minimum score.
        features: give the fused features beside labels. Ignored with `columns`.
        device: what runs the graphs; None: one of its own.
        trace: beginning of the names of files into which ONNX Runtime writes the time of each node, see
            `end_traces`.

    Raises:
        BundleError: a file of the bundle was altered.
        EngineError: the graph does not load, or does not give the bundle's golden outputs here.
        ConfigError: the bundle does not support the risk.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        variant: str = "auto",
        provider: Provider = "auto",
        threads: int = 1,
        batch_rows: int | None = None,
        ladder: Ladder | None = None,
        shared: bool = False,
        shadow: float = 0.0,
        columns: OutputColumns | None = None,
        abstain: Abstain = "auto",
        features: bool = False,
        device: Device | None = None,
        trace: Path | None = None,
    ) -> None:
        #: What runs the graphs; twins share it.
        self.device = device or Device()
        opened = open_runners(
            bundle,
            variant,
            provider=provider,
            threads=threads,
            batch_rows=batch_rows,
            ladder=ladder,
            shared=shared,
            device=self.device,
            trace=trace,
        )
        self.variant = opened.variant
        self.columns = columns or default_columns(bundle, self.variant, abstain, features)
        self.schema = outcomes(self.columns)
        #: Largest difference from the bundle's golden outputs on this machine.
        self.golden_difference = opened.golden_difference
        self._bundle = bundle
        self._info = AnswerInfo(
            self.variant,
            bundle.digest,
            np.array(bundle.labels, dtype=object),
            self.columns,
            bundle.decisive,
        )
        self._runners, self._ladder = opened.runners, opened.ladder
        stages = [runner.stage for runner in self._runners]
        self._temperatures = stage_temperatures(
            [stage.exits for stage in stages[:-1]], bundle.entry(self.variant).temperatures
        )
        self._shadow = shadow if len(stages) > 1 else 0.0
        #: Gets what each stage sees of its records; not needed for a bundle without a reference.
        self.watcher: Watcher | None = None
        if bundle.reference and self.variant in bundle.reference.variants:
            self.watcher = Sketcher(bundle.reference, self.variant, bundle.spec)
        #: Seconds spent in "model" and "shadow"; may be cleared after reporting.
        self.seconds: Counter[str] = Counter()
        #: Records of a cascade: "left 1" and so on by stage, "shadowed", "agreed"; may be cleared, too.
        self.counts: Counter[str] = Counter()

    @property
    def later(self) -> tuple[Modality, ...]:
        """Modalities that not every record needs: `Preprocessor.__call__` may postpone their decoding."""
        return self._bundle.later(self.variant)

    @property
    def stages(self) -> int:
        """How many graphs a record may pass through."""
        return len(self._runners)

    @property
    def occupied(self) -> tuple[Counter[str], ...]:
        """What the device did for each stage (`Runner.occupied`); may be cleared."""
        return tuple(runner.occupied for runner in self._runners)

    def end_traces(self) -> list[tuple[Path, int]]:
        """`mmray.engine.Engine.end_trace` of each stage, where `trace` was given."""
        return [runner.stage.engine.end_trace() for runner in self._runners]

    def twin(self) -> Predictor:
        """The same model on the same device for another thread, with counts of its own."""
        other = copy(self)
        other.seconds, other.counts = Counter(), Counter()
        other._runners = [runner.twin() for runner in self._runners]
        if isinstance(self.watcher, Sketcher):
            other.watcher = self.watcher.twin()
        return other

    def take_drift(self) -> Counts | None:
        """Counts of the watcher since the last call; None: nothing was counted, or there is no watcher."""
        return self.watcher.take() if isinstance(self.watcher, Sketcher) else None

    def keep_only(self, number: int) -> None:
        """Keep only the graph of one stage, counted from 1: the others run elsewhere."""
        for i, runner in enumerate(self._runners, start=1):
            if i != number:
                runner.stage = replace(runner.stage, engine=None)  # type: ignore[arg-type]

    def close_exits(self) -> None:
        """Disable early exits from now on: early answers can no longer be trusted."""
        for runner in self._runners:
            runner.stage = replace(runner.stage, exits={})

    def warm(self) -> None:
        """Run every shape of the ladder once, so that no record waits for kernel planning."""
        for runner in self._runners:
            for shape in self._ladder.shapes(runner.stage.takes) if self._ladder else ():
                runner.warm(shape)
            runner.occupied.clear()

    def __call__(self, tensors: pa.Table, complete: Complete | None = None) -> pa.Table:
        """Table of TENSORS → table of OUTCOMES, same rows in the same order.

        Args:
            tensors: preprocessed records.
            complete: decodes the modalities that were postponed; needed if any were.

        Raises:
            EngineError: the engine or its device failed, not a record; no row of the table may be written.
        """
        table, places = tensors, np.arange(tensors.num_rows)
        answered, order = [], []
        for number in range(1, self.stages + 1):
            step = self.step(number, table, complete)
            answered.append(step.answered)
            order.append(places[step.answered_rows])
            table, places = step.open, places[step.open_rows]
        found = pa.concat_tables(answered)
        return found if self.stages == 1 else found.take(np.argsort(np.concatenate(order)))

    def step(self, number: int, tensors: pa.Table, complete: Complete | None = None) -> Step:
        """Run one stage.

        Args:
            number: of the stage, from 1.
            tensors: rows of TENSORS, or those that the previous stage passed on.
            complete: as in a call.
        """
        runner = self._runners[number - 1]
        start, waited_before, decoding = perf_counter(), runner.waited_s, 0.0
        if complete:
            tensors = complete(tensors, runner.stage.takes)
            decoding = perf_counter() - start
        rows = StagePass(tensors, self._info, runner.stage, number, self.stages)
        for answer in self._run(runner, tensors, rows.sound, rows.is_shadow):
            if isinstance(answer, Failed):
                rows.fail(answer)
            else:
                rows.answer(answer.rows, answer.present, self._calibrated(number, answer))
        step = rows.step(self._shadow)
        self.counts.update(rows.counts)
        if self.watcher:
            self.watcher.see(rows.seen())
        share = rows.is_shadow.mean() if tensors.num_rows else 0.0
        took = perf_counter() - start - (runner.waited_s - waited_before)
        self.seconds["model"] += (1 - share) * (took - decoding)  # type: ignore[assignment]  # floats, too
        if share:
            self.seconds["shadow"] += share * took  # type: ignore[assignment]
        return step

    def _run(
        self,
        runner: Runner,
        tensors: pa.Table,
        sound: npt.NDArray[np.bool_],
        is_shadow: npt.NDArray[np.bool_],
    ) -> Iterator[Answered | Failed]:
        """Run the rows without errors. On a CPU, rows that are only compared get batches of their own."""
        groups = [sound] if runner.is_padded else [sound & ~is_shadow, sound & is_shadow]
        for group in groups:
            if group.any():
                yield from runner(tensors, np.flatnonzero(group))

    def _calibrated(self, number: int, answer: Answered) -> Feeds:
        """Outputs of a stage with calibrated scores."""
        temperatures = self._temperatures[number - 1]
        if not temperatures:
            return answer.outputs
        seen = self._runners[number - 1].stage.seen
        scores = calibrated(answer.outputs["scores"], answer.present, seen, temperatures)
        return {**answer.outputs, "scores": scores}
