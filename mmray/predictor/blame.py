"""Runs rows of a table through one stage's graph, and finds the cause if a row gets no answer.

When a batch fails, or gives values that are not finite, the golden inputs are run on the same engine. If they
fail too, the engine or its device is at fault. If not, the batch is halved until each failing row is alone. A
row is blamed if it fails alone twice, while golden inputs succeed in between and at the end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmray.batching import Feeds
from mmray.errors import EngineError, of_machine, one_line
from mmray.predictor.batches import BatchRunner
from mmray.schema import error
from mmray.shapes import Batch, Shape

# Messages of ONNX Runtime, CUDA and its libraries when memory runs out.
_NO_MEMORY = re.compile(
    r"allocate memory|out of memory|bad_alloc|ALLOC_FAILED|ALLOCATION_FAILED", re.IGNORECASE
)


class Answered(NamedTuple):
    """Outputs of a graph for n rows of a table."""

    rows: npt.NDArray[np.int64]  # [n]
    present: npt.NDArray[np.bool_]  # [n, M], of the modalities that were seen
    outputs: Feeds  # of each output the values of these rows


class Failed(NamedTuple):
    """A row that the graph could not answer, and its error."""

    row: int
    error: dict[str, str]


class _Suspect(NamedTuple):
    """A row that failed, in a batch of its own."""

    batch: Batch
    failure: Exception | None  # what the engine raised; None: outputs were not finite


@dataclass
class _Case:
    """What went wrong in one table."""

    suspects: list[_Suspect] = field(default_factory=list)
    is_open: bool = False  # whether the golden inputs were run since the first failure


class _Tried(NamedTuple):
    """Result of a batch."""

    outputs: Feeds  # and `present`; empty where the engine raised
    finite: npt.NDArray[np.bool_]  # [n], rows whose outputs are finite; none if the engine raised
    failure: Exception | None  # what the engine raised


class Runner(BatchRunner):
    """Answers rows of a stage, or says what is at fault; its arguments are those of `BatchRunner`."""

    def __call__(self, tensors: pa.Table, rows: npt.NDArray[np.int64]) -> Iterator[Answered | Failed]:
        """Run rows of a table of TENSORS that have no error.

        The table also has a column ``carried/…`` for each value that an earlier stage passed on.

        Raises:
            EngineError: the engine or its device is at fault; answers for this table must not be used.
        """
        case = _Case()
        for batch in self._cut(tensors, rows):
            yield from self._infer(tensors, batch, case)
        if case.suspects:
            yield from self._judge(tensors, case.suspects)

    def _infer(self, tensors: pa.Table, batch: Batch, case: _Case) -> Iterator[Answered | Failed]:
        """Halve a failing batch until the row that makes it fail is alone; the shape stays the same."""
        rows, tried = batch.rows, self._try(tensors, batch)
        if not tried.finite.all() and not case.is_open:
            self._ask_golden({batch.shape}, tried.failure)
            case.is_open = True
        if tried.failure is None:
            yield self._answered(rows, tried)
            wrong = np.flatnonzero(~tried.finite)
            case.suspects += [_Suspect(batch._replace(rows=rows[[i]]), None) for i in wrong]
        elif len(rows) == 1:
            case.suspects.append(_Suspect(batch, tried.failure))
        else:
            half = len(rows) // 2
            yield from self._infer(tensors, batch._replace(rows=rows[:half]), case)
            yield from self._infer(tensors, batch._replace(rows=rows[half:]), case)

    def _judge(self, tensors: pa.Table, suspects: list[_Suspect]) -> Iterator[Answered | Failed]:
        """Blame the rows that fail alone twice, while the golden inputs succeed."""
        for golden_runs in (1, 2):  # two at the end: a device that fails every other time passes one
            guilty = []
            for batch, _ in suspects:
                tried = self._try(tensors, batch)
                if tried.finite.all():
                    yield self._answered(batch.rows, tried)
                else:
                    guilty.append(_Suspect(batch, tried.failure))
            if not guilty:
                return
            for _ in range(golden_runs):
                self._ask_golden({suspect.batch.shape for suspect in guilty}, guilty[0].failure)
            suspects = guilty
        for batch, failure in suspects:
            # The spec bounds the memory of a record. A machine that lacks it for a single record is too
            # small, or its memory is in use. A reject would be permanent, but another machine may be able to
            # answer.
            if failure and (of_machine(failure) or _NO_MEMORY.search(str(failure))):
                raise EngineError(
                    f"{self.golden.where}: cannot run even one record: {one_line(failure)}; "
                    "free memory there, or take a larger device"
                )
            yield Failed(int(batch.rows[0]), self._error(failure))

    def _error(self, failure: Exception | None) -> dict[str, str]:
        if failure is None:
            return error("infer", "not-finite", f"the model gave {self.golden.decisive} that are not finite")
        return error("infer", "model-error", f"{type(failure).__name__}: {failure}")

    def _answered(self, rows: npt.NDArray[np.int64], tried: _Tried) -> Answered:
        """Those of the rows whose outputs are finite."""
        columns = [i for i, m in enumerate(self._spec.modalities) if m in self.stage.seen]
        kept = {name: values[tried.finite] for name, values in tried.outputs.items()}
        return Answered(rows[tried.finite], np.asarray(kept["present"][:, columns], np.bool_), kept)

    def _ask_golden(self, shapes: set[Shape | None], failure: Exception | None) -> None:
        """Run the golden inputs in the shapes of these batches.

        Raises:
            EngineError: they fail, or their outputs differ from those when the model was opened.
        """
        first = one_line(failure) if failure else f"{self.golden.decisive} that are not finite"
        try:
            for shape in shapes:
                self._run_golden(shape)
        except Exception as e:  # as in _try
            raise EngineError(
                f"{self.golden.where}: its golden inputs fail, but succeeded when the model was opened "
                f"({one_line(e)}); before that, a batch gave {first}; so the device or its engine is at "
                "fault, not a record; check the device, then run again"
            ) from e

    def _try(self, tensors: pa.Table, batch: Batch) -> _Tried:
        # Our own code: its exceptions are neither the engine's fault nor a record's.
        run = self._packed(tensors, batch)
        try:
            outputs = run()
        except Exception as e:  # ONNX Runtime's own exception types share no base; whose it is, is asked
            return _Tried({}, np.zeros(len(batch.rows), np.bool_), e)
        return _Tried(outputs, np.asarray(np.isfinite(outputs[self.golden.decisive]).all(axis=1)), None)
