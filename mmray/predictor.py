"""Records in, predictions out: the one path that the batch job, the server and a single call share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from copy import copy
from dataclasses import replace
from time import perf_counter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmray.align import AlignSpec
from mmray.batching import BATCH_TOKENS, DEVICE_BATCH_TOKENS, Feeds, batches, pack
from mmray.bundle import Bundle
from mmray.cascade import CARRIED, Stage, carried, in_shadow, open_stages, run_through
from mmray.engine import Provider, usual_batch_rows
from mmray.engine.turns import Device
from mmray.errors import EngineError
from mmray.outcomes import Answers
from mmray.preprocess import OnDamaged, Preprocessor
from mmray.preprocess.spec import Limits
from mmray.race import choose_variant
from mmray.schema import Modality, OutputColumns, error, outcomes

#: `Preprocessor.complete`, or what does the same.
Complete = Callable[[pa.Table, Collection[Modality]], pa.Table]


def open_preprocessor(
    bundle: Bundle,
    *,
    limits: Limits | None = None,
    modalities: Collection[Modality] | None = None,
    on_damaged: OnDamaged = "reject",
    align: AlignSpec | None = None,
) -> Preprocessor:
    """The preprocessing that a bundle's model was trained with."""
    return Preprocessor(
        bundle.spec,
        bundle.tokenizer,
        limits=limits,
        modalities=modalities,
        on_damaged=on_damaged,
        align=align,
    )


class Predictor:
    """A bundle's model, ready: TENSORS in, OUTCOMES out. For one thread; `twin` gives another one its own.

    Args:
        bundle: an opened bundle.
        variant: which compiled form; "auto" takes the one that this machine runs fastest.
        provider: where to run.
        threads: threads of one inference.
        batch_rows: records of one inference; None: what suits the provider.
        shared: whether other processes of this machine load the same graph; on the CPU they then share its
            weights.
        shadow: share of the records that leave a cascade early that are run to the end as well.
        columns: which optional columns to give; None gives the scores of every class, or the features where
            the model has no labels, and of a cascade the stages.

    Raises:
        EngineError: the graph does not load, or does not give the bundle's golden outputs here.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        variant: str = "auto",
        provider: Provider = "auto",
        threads: int = 1,
        batch_rows: int | None = None,
        shared: bool = False,
        shadow: float = 0.0,
        columns: OutputColumns | None = None,
    ) -> None:
        self.variant = choose_variant(bundle, variant, provider=provider, threads=threads)
        self.columns = columns or _default_columns(bundle, self.variant)
        self.schema = outcomes(self.columns)
        self._bundle = bundle
        self._labels = np.array(bundle.labels, dtype=object)
        # What a prediction is read from: it must be finite, and like the golden one.
        self._decisive = bundle.decisive
        self._batch_rows = batch_rows or usual_batch_rows(provider)
        self._stages = open_stages(
            bundle,
            self.variant,
            provider=provider,
            threads=threads,
            batch_rows=self._batch_rows,
            shared=shared,
        )
        on_device = self._stages[0].engine.needs_rows
        self._batch_tokens = DEVICE_BATCH_TOKENS if on_device else BATCH_TOKENS
        self._shadow = shadow if len(self._stages) > 1 else 0.0
        #: What runs the graphs; twins share it.
        self.device = Device()
        #: Seconds spent in "model" and "shadow"; whoever reports them may clear it.
        self.seconds: Counter[str] = Counter()
        #: Seconds that the device was "busy" for this predictor, and of the "wall" clock meanwhile, idle ones
        #: included (`mmray.engine.turns.Turn`); may be cleared likewise.
        self.occupied: Counter[str] = Counter()
        self._waited_s = 0.0  # in all, for the device
        #: Records of a cascade: "left 1" and so on by stage, "shadowed", "agreed"; may be cleared likewise.
        self.counts: Counter[str] = Counter()
        #: Largest difference from the bundle's golden outputs on this machine.
        self.golden_difference = self._check_golden()

    @property
    def later(self) -> tuple[Modality, ...]:
        """Modalities that not every record needs: `Preprocessor.__call__` may leave them for later."""
        return self._bundle.later(self.variant)

    def twin(self) -> Predictor:
        """The same model on the same device for another thread, with counts of its own."""
        other = copy(self)
        other.seconds, other.occupied, other.counts = Counter(), Counter(), Counter()
        return other

    def close_exits(self) -> None:
        """From now on let no record leave early: such answers can no longer be trusted."""
        self._stages = [replace(stage, exits={}) for stage in self._stages]

    def __call__(self, tensors: pa.Table, complete: Complete | None = None) -> pa.Table:
        """Table of TENSORS → table of OUTCOMES, same rows in the same order.

        Args:
            tensors: preprocessed records.
            complete: decodes the modalities that were left for later; needed where some were.
        """
        start, waited_before = perf_counter(), self._waited_s
        decoding = 0.0
        answers = Answers(tensors, self._labels, self.columns)
        alive = np.flatnonzero([e is None for e in answers.errors])
        for number, stage in enumerate(self._stages, start=1):
            here = tensors.take(alive)
            if complete and len(alive):
                begun = perf_counter()
                here = complete(here, stage.takes)
                decoding += perf_counter() - begun
                answers.complete(alive, here)
            answers.use(alive, here, stage.seen)
            alive = self._run_stage(number, here, alive, answers)
        elsewhere_s = decoding + self._waited_s - waited_before
        self.seconds["model"] += perf_counter() - start - elsewhere_s  # type: ignore[assignment]  # floats, too
        if self._shadow:
            self._compare(tensors, answers, complete)
        return answers.to_table(self.variant, self._bundle.digest)

    def _run_stage(
        self, number: int, here: pa.Table, alive: npt.NDArray[np.int64], answers: Answers
    ) -> npt.NDArray[np.int64]:
        """Answer the rows that `alive` names, of which `here` is the table; returns those that go on."""
        stage = self._stages[number - 1]
        is_last = number == len(self._stages)
        staying = [np.zeros(0, np.int64)]
        for batch in batches(here, self._batch_rows, self._batch_tokens):
            for done in self._infer(stage, here, batch, alive, answers):
                rows = alive[done.rows]
                if is_last:
                    leaves = np.ones(len(rows), np.bool_)
                    confidence = np.asarray(done.outputs[self._decisive].max(axis=1), np.float32)
                else:
                    leaves, confidence = stage.leaving(done.outputs["logits"], done.present)
                    answers.keep(rows, carried(done.outputs))
                    staying.append(rows[~leaves])
                answers.put(rows[leaves], _of_rows(done.outputs, leaves), number, confidence[leaves])
                self.counts[f"left {number}"] += int(leaves.sum())
        return np.sort(np.concatenate(staying))

    def _infer(
        self,
        stage: Stage,
        here: pa.Table,
        batch: npt.NDArray[np.int64],
        alive: npt.NDArray[np.int64],
        answers: Answers,
    ) -> Iterable[_Done]:
        """Outputs of the rows that the graph could answer; the others get an error.

        A batch that fails is halved until the record that makes it fail is alone.
        """
        try:
            outputs = self._run(stage, here.take(batch), alive[batch], answers)
        except Exception as e:  # ONNX Runtime's own exception types share no base; the record is named below
            if len(batch) == 1:
                reason = f"{type(e).__name__}: {e}"
                answers.errors[alive[batch[0]]] = error("infer", "model-error", reason)
                return
            half = len(batch) // 2
            yield from self._infer(stage, here, batch[:half], alive, answers)
            yield from self._infer(stage, here, batch[half:], alive, answers)
            return
        finite = np.asarray(np.isfinite(outputs[self._decisive]).all(axis=1))
        for row in alive[batch[~finite]]:
            reason = f"the model gave {self._decisive} that are not finite"
            answers.errors[row] = error("infer", "not-finite", reason)
        columns = [i for i, m in enumerate(self._bundle.spec.modalities) if m in stage.seen]
        present = np.asarray(outputs["present"][:, columns], np.bool_)
        yield _Done(batch[finite], present[finite], _of_rows(outputs, finite))

    def _compare(self, tensors: pa.Table, answers: Answers, complete: Complete | None) -> None:
        """Run some of the records that left early to the end, and count where the decision is the same."""
        start, waited_before = perf_counter(), self._waited_s
        left = np.flatnonzero((answers.stages > 0) & (answers.stages < len(self._stages)))
        shards, numbers = (tensors[name].take(left).to_pylist() for name in ("shard", "row"))
        rows = left[in_shadow(shards, numbers, self._shadow)]
        here = tensors.take(rows)
        if complete and len(rows):
            here = complete(here, self.later)
        apart = answers.apart()  # a record that fails only here keeps the answer that it has
        for number, stage in enumerate(self._stages[1:], start=2):
            going = np.flatnonzero(answers.stages[rows] < number)
            there = here.take(going)
            for batch in batches(there, self._batch_rows, self._batch_tokens):
                for done in self._infer(stage, there, batch, rows[going], apart):
                    compared = rows[going[done.rows]]
                    if number < len(self._stages):
                        apart.keep(compared, carried(done.outputs))
                        continue
                    same = done.outputs[self._decisive].argmax(axis=1) == answers.best[compared]
                    self.counts["shadowed"] += len(compared)
                    self.counts["agreed"] += int(same.sum())
        waited_s = self._waited_s - waited_before
        self.seconds["shadow"] += perf_counter() - start - waited_s  # type: ignore[assignment]  # floats, too

    def _run(self, stage: Stage, here: pa.Table, rows: npt.NDArray[np.int64], answers: Answers) -> Feeds:
        """Outputs of a stage for the rows of a table, which are those of `answers` that `rows` names."""
        feeds = pack(
            here,
            self._bundle.spec,
            for_device=stage.engine.needs_rows,
            take=stage.takes,
            seen=stage.seen,
        )
        wanted = [name for name in stage.engine.inputs if name.startswith(CARRIED)]
        turn = self.device.run(stage.engine, feeds | answers.carried(wanted, rows))
        self.occupied["busy"] += turn.busy_s  # type: ignore[assignment]  # floats, too
        self.occupied["wall"] += turn.wall_s  # type: ignore[assignment]
        self._waited_s += turn.waited_s
        return {"present": feeds["present"], **turn.outputs}

    def _check_golden(self) -> float:
        """Run the golden inputs as far as each stage goes, without letting any leave."""
        inputs, expected = self._bundle.golden(self.variant)
        allowed = self._bundle.manifest.variants[self.variant].golden_tolerance
        provider = self._stages[0].engine.provider
        try:
            outputs = run_through(self._stages, inputs, self._bundle.spec.modalities)
            difference = output_difference(outputs[self._decisive], expected[self._decisive])
        except Exception as e:  # ONNX Runtime's own exception types share no base
            raise EngineError(
                f"{self._bundle.path}: variant {self.variant} does not run on its golden inputs on "
                f"{provider}: {e}"
            ) from e
        if not difference <= allowed:  # also true for NaN
            raise EngineError(
                f"{self._bundle.path}: variant {self.variant} is off its golden {self._decisive} by "
                f"{difference:.2g} on {provider}; it cannot be trusted on this machine"
            )
        return difference


class _Done(NamedTuple):
    """What a graph gave for some rows of a table."""

    rows: npt.NDArray[np.int64]
    present: npt.NDArray[np.bool_]  # of the modalities that were seen
    outputs: Feeds


def output_difference(found: npt.NDArray[np.generic], expected: npt.NDArray[np.generic]) -> float:
    """Largest difference of two outputs, as a share of the largest expected value where that is above 1."""
    scale = max(1.0, float(np.abs(expected).max()))
    return float(np.abs(np.subtract(found, expected)).max()) / scale


def _of_rows(arrays: Feeds, chosen: npt.NDArray[np.bool_]) -> Feeds:
    return {name: values[chosen] for name, values in arrays.items()}


def _default_columns(bundle: Bundle, variant: str) -> OutputColumns:
    staged = bundle.manifest.variants[variant].cascade is not None
    if bundle.labels:
        return OutputColumns(classes=len(bundle.labels), staged=staged)
    return OutputColumns(classes=0, labelled=False, features=bundle.manifest.features)
