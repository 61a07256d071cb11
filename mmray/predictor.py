"""Records in, predictions out: the one path that the batch job, the server and a single call share."""

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

from mmray.align import AlignSpec
from mmray.batching import CPU_ROWS, Feeds
from mmray.bundle import Bundle
from mmray.cascade import carried, in_shadow, open_stages
from mmray.confidence import Abstain, calibrated, least_score, stage_temperatures
from mmray.drift import Counts, Seen, SeenBatch, Sketcher, Watcher
from mmray.engine import Provider, best_provider, device_name
from mmray.engine.turns import Device
from mmray.golden import prove, remade
from mmray.outcomes import EARLY, Answers, Step, early_of, hand_on, keep
from mmray.preprocess import OnDamaged, Preprocessor
from mmray.preprocess.spec import Limits
from mmray.race import choose
from mmray.runner import Answered, Failed, Runner
from mmray.schema import Modality, OutputColumns, outcomes
from mmray.shapes import Ladder, job_ladder
from mmray.unread import OnForeignText, OnUnread

#: `Preprocessor.complete`, or what does the same.
Complete = Callable[[pa.Table, Collection[Modality]], pa.Table]


def open_preprocessor(
    bundle: Bundle,
    *,
    limits: Limits | None = None,
    modalities: Collection[Modality] | None = None,
    on_damaged: OnDamaged = "reject",
    on_unread: OnUnread = "warn",
    foreign_text: OnForeignText = "keep",
    align: AlignSpec | None = None,
) -> Preprocessor:
    """The preprocessing that a bundle's model was trained with, once it is proved on its golden records.

    Raises:
        BundleError: a file of the bundle was altered.
        EngineError: this machine makes something else of the golden records.
        ConfigError: foreign texts are to be masked, and a package is missing that tells languages.
    """
    remade(bundle, bundle.golden()[0])
    return Preprocessor(
        bundle.spec,
        bundle.tokenizer,
        limits=limits,
        modalities=modalities,
        on_damaged=on_damaged,
        on_unread=on_unread,
        foreign_text=foreign_text,
        align=align,
    )


class Predictor:
    """A bundle's model, ready: TENSORS in, OUTCOMES out. For one thread; `twin` gives another one its own.

    Args:
        bundle: an opened bundle.
        variant: which compiled form; "auto" takes the one that this machine runs fastest.
        provider: where to run.
        threads: threads of one inference.
        batch_rows: records of one inference on a CPU; None: what suits it.
        ladder: sizes of batches; None: on a CPU any, on a device those of a job.
        shared: whether other processes of this machine load the same graph; on the CPU they then share its
            weights.
        shadow: share of the records that leave a cascade early that are run to the end as well.
        columns: which optional columns to give; None gives the scores of every class, or the features where
            the model has no labels, and of a cascade the stages.
        abstain: share of the labels that may be wrong: where the score is too low for that, there is none;
            "auto": as the bundle asks. Of no effect with `columns`, which have the least score.
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
        device: Device | None = None,
        trace: Path | None = None,
    ) -> None:
        where = best_provider() if provider == "auto" else provider
        if where != "cpu" and ladder is None:
            ladder = job_ladder(bundle.spec, batch_rows)
        choice = choose(bundle, variant, provider=where, threads=threads, ladder=ladder)
        self.variant = choice.variant
        self.columns = columns or _default_columns(bundle, self.variant, abstain)
        self.schema = outcomes(self.columns)
        self._bundle = bundle
        self._labels = np.array(bundle.labels, dtype=object)
        # What a prediction is read from: it must be finite, and like the golden one.
        self._decisive = bundle.decisive
        #: What runs the graphs; twins share it.
        self.device = device or Device()
        stages = open_stages(
            bundle,
            self.variant,
            provider=where,
            threads=threads,
            ladder=ladder,
            shared=shared,
            nhwc=choice.nhwc,
            trace=trace,
        )
        #: Largest difference from the bundle's golden outputs on this machine.
        self.golden_difference, golden = prove(bundle, self.variant, stages, device_name(where))
        for stage in stages:
            if stage.engine.compiled:
                stage.engine.compiled.keep()
        self._temperatures = stage_temperatures(
            [stage.exits for stage in stages[:-1]], bundle.entry(self.variant).temperatures
        )
        self._ladder = ladder
        self._runners = [
            Runner(
                stage,
                bundle.spec,
                its_golden,
                device=self.device,
                batch_rows=batch_rows or CPU_ROWS,
                ladder=ladder,
            )
            for stage, its_golden in zip(stages, golden, strict=True)
        ]
        self._shadow = shadow if len(stages) > 1 else 0.0
        #: Told what each stage sees of the records that it answers; a bundle without a reference needs none.
        self.watcher: Watcher | None = None
        if bundle.reference and self.variant in bundle.reference.variants:
            self.watcher = Sketcher(bundle.reference, self.variant, bundle.spec)
        #: Seconds spent in "model" and "shadow"; whoever reports them may clear it.
        self.seconds: Counter[str] = Counter()
        #: Records of a cascade: "left 1" and so on by stage, "shadowed", "agreed"; may be cleared likewise.
        self.counts: Counter[str] = Counter()

    @property
    def later(self) -> tuple[Modality, ...]:
        """Modalities that not every record needs: `Preprocessor.__call__` may leave them for later."""
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
        """What the watcher counted since this was asked; None: nothing, or nothing is counted."""
        return self.watcher.take() if isinstance(self.watcher, Sketcher) else None

    def keep_only(self, number: int) -> None:
        """Keep the graph of one stage alone, counted from 1: the others run elsewhere."""
        for i, runner in enumerate(self._runners, start=1):
            if i != number:
                runner.stage = replace(runner.stage, engine=None)  # type: ignore[arg-type]

    def close_exits(self) -> None:
        """From now on let no record leave early: such answers can no longer be trusted."""
        for runner in self._runners:
            runner.stage = replace(runner.stage, exits={})

    def warm(self) -> None:
        """Run every shape of the ladder once, so that no record waits for its planning."""
        for runner in self._runners:
            for shape in self._ladder.shapes(runner.stage.takes) if self._ladder else ():
                runner.warm(shape)
            runner.occupied.clear()

    def __call__(self, tensors: pa.Table, complete: Complete | None = None) -> pa.Table:
        """Table of TENSORS → table of OUTCOMES, same rows in the same order.

        Args:
            tensors: preprocessed records.
            complete: decodes the modalities that were left for later; needed where some were.

        Raises:
            EngineError: the engine or its device failed, which is no record's fault; nothing of the table may
                be written.
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
            tensors: rows of TENSORS, or what the stage before left open.
            complete: as in a call.
        """
        start, decoding = perf_counter(), 0.0
        runner = self._runners[number - 1]
        waited_before = runner.waited_s
        stage, is_last = runner.stage, number == self.stages
        if complete:
            tensors = complete(tensors, stage.takes)
            decoding = perf_counter() - start
        early = early_of(tensors).copy()
        is_shadow = early >= 0
        answers = Answers(tensors, self._labels, self.columns)
        done = answers.failed()
        handed_on: Feeds = {}
        seen: list[SeenBatch] = []
        for answer in self._run(runner, tensors, ~done, is_shadow):
            if isinstance(answer, Failed):
                answers.errors[answer.row], done[answer.row] = answer.error, True
                continue
            rows, outputs = answer.rows, self._calibrated(number, answer)
            if is_last:
                leaves = np.ones(len(rows), np.bool_)
                confidence = np.asarray(outputs[self._decisive].max(axis=1), np.float32)
                self._count_agreement(early[rows], outputs)
            else:
                leaves, confidence = stage.leaving(outputs["logits"], answer.present)
                leaves &= ~is_shadow[rows]
                keep(handed_on, carried(outputs), rows, tensors.num_rows)
                keep(handed_on, {EARLY: _best(outputs, self._decisive)}, rows, tensors.num_rows)
            answers.put(rows, outputs, confidence)
            seen.append(SeenBatch(rows, outputs, leaves))
            done[rows[leaves]] = True
            self.counts[f"left {number}"] += int((leaves & ~is_shadow[rows]).sum())
        answered = np.flatnonzero(done & ~is_shadow)
        shadowed = self._drawn(tensors, answered, answers) if not is_last else np.zeros(0, np.int64)
        going_on = np.sort(np.concatenate([np.flatnonzero(~done), shadowed]))
        if len(shadowed):
            early[shadowed] = handed_on[EARLY][shadowed]
        step = Step(
            answers.to_table(
                answered, variant=self.variant, bundle=self._bundle.digest, stage=number, seen=stage.seen
            ),
            answered,
            hand_on(tensors, going_on, handed_on, early),
            going_on,
        )
        if self.watcher:
            self.watcher.see(
                Seen.of(tensors, seen, ~is_shadow, takes=stage.takes, stage=number, stages=self.stages)
            )
        share = is_shadow.mean() if len(is_shadow) else 0.0
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
        """Run the sound rows. On a CPU those that are only compared go apart: they change no other batch."""
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

    def _drawn(
        self, tensors: pa.Table, answered: npt.NDArray[np.int64], answers: Answers
    ) -> npt.NDArray[np.int64]:
        """Of the rows that leave now those that go on as well, to be compared."""
        good = answered[~answers.failed()[answered]]
        if not self._shadow or not len(good):
            return np.zeros(0, np.int64)
        shards, numbers = (tensors[name].take(good).to_pylist() for name in ("shard", "row"))
        return good[in_shadow(shards, numbers, self._shadow)]

    def _count_agreement(self, early: npt.NDArray[np.int32], outputs: Feeds) -> None:
        compared = early >= 0
        if compared.any():
            same = _best(outputs, self._decisive)[compared] == early[compared]
            self.counts["shadowed"] += int(compared.sum())
            self.counts["agreed"] += int(same.sum())


def _best(outputs: Feeds, decisive: str) -> npt.NDArray[np.int32]:
    return np.asarray(outputs[decisive].argmax(axis=1), np.int32)


def _default_columns(bundle: Bundle, variant: str, abstain: Abstain) -> OutputColumns:
    staged = bundle.manifest.variants[variant].cascade is not None
    least = least_score(bundle, variant, abstain)
    if bundle.labels:
        return OutputColumns(classes=len(bundle.labels), staged=staged, least_score=least)
    return OutputColumns(classes=0, labelled=False, features=bundle.manifest.features)
