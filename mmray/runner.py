"""Rows of a table through one stage's graph: in batches, padded for a device, and each failure on its own.

Whose fault a failure is, is asked before anybody is blamed. A batch that fails, or gives what is not finite, is
followed by the golden inputs on the same engine. If these fail, too, the engine or its device is at fault. If
not, the batch is halved until the rows that fail are alone; and a row is blamed where it fails alone twice,
while golden inputs succeed in between and at last.

On a CPU a batch is as large as its rows; the graph is run on it, and that is all. On a device, or what stands
in for one, it is padded to one of few shapes in buffers that stay (`mmray.shapes`, `mmray.engine.bound`), and
the copies of one batch go on while the device computes another.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmray.batching import Feeds, batches, blank, fill, pack
from mmray.cascade import CARRIED, Stage
from mmray.engine import Bound
from mmray.engine.turns import Device, Turn
from mmray.errors import EngineError, of_machine, one_line
from mmray.golden import Golden, fitting, lay
from mmray.preprocess.spec import PreprocessSpec
from mmray.schema import error
from mmray.shapes import Batch, Ladder, Shape, Shaper

# How ONNX Runtime, CUDA and its libraries say that there is no memory.
_NO_MEMORY = re.compile(
    r"allocate memory|out of memory|bad_alloc|ALLOC_FAILED|ALLOCATION_FAILED", re.IGNORECASE
)


class Answered(NamedTuple):
    """What a graph gave for n rows of a table."""

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
    failure: Exception | None  # what the engine raised; None: it gave what is not finite


@dataclass
class _Case:
    """What went wrong in one table."""

    suspects: list[_Suspect] = field(default_factory=list)
    is_open: bool = False  # whether the golden inputs were run since the first failure


class Runner:
    """Runs a stage. For one thread; `twin` gives another one its own, on the same device.

    Args:
        stage: a loaded graph.
        spec: preprocessing of the model.
        decisive: output that a prediction is read from; it must be finite.
        device: what runs the graph.
        batch_rows: most records of a batch, where there is no ladder.
        ladder: sizes of batches for a device; None: a CPU, which takes any.
    """

    def __init__(
        self,
        stage: Stage,
        spec: PreprocessSpec,
        decisive: str,
        *,
        device: Device,
        batch_rows: int,
        ladder: Ladder | None,
    ) -> None:
        self.stage = stage
        self._spec = spec
        self._decisive = decisive
        self._device = device
        self._batch_rows = batch_rows
        self._shaper = Shaper(ladder, stage.takes) if ladder else None
        self._bounds: dict[Shape, Bound] = {}
        #: Of this stage; without it a row is blamed unasked.
        self.golden: Golden | None = None
        #: What runs where, for errors.
        self.where = ""
        #: Seconds waited for the device, in all.
        self.waited_s = 0.0
        #: What the device did for this runner (see `mmray.engine.occupancy`); may be cleared.
        self.occupied: Counter[str] = Counter()

    @property
    def is_padded(self) -> bool:
        """Whether batches have one of few shapes."""
        return self._shaper is not None

    def twin(self) -> Runner:
        """The same for another thread, with buffers and counts of its own."""
        other = copy(self)
        other._bounds, other.occupied, other.waited_s = {}, Counter(), 0.0
        return other

    def __call__(self, tensors: pa.Table, rows: npt.NDArray[np.int64]) -> Iterator[Answered | Failed]:
        """Run rows of a table of TENSORS that have no error.

        The table also has a column ``carried/…`` for each value that an earlier stage handed on.

        Raises:
            EngineError: the engine or its device is at fault; what was answered of this table does not count.
        """
        case = _Case()
        for batch in self._cut(tensors, rows):
            yield from self._infer(tensors, batch, case)
        if case.suspects:
            yield from self._judge(tensors, case.suspects)

    def warm(self, shape: Shape) -> None:
        """Run a batch of this shape that holds nothing but padding."""
        self._run_padded(shape, self._bound(shape), 0)

    def _cut(self, tensors: pa.Table, rows: npt.NDArray[np.int64]) -> list[Batch]:
        if self._shaper:
            return self._shaper(tensors, rows)
        wanted = tensors.select(["error", "input_ids"]).take(rows)
        return [Batch(rows[chosen], None) for chosen in batches(wanted, self._batch_rows)]

    def _infer(self, tensors: pa.Table, batch: Batch, case: _Case) -> Iterator[Answered | Failed]:
        """A batch that fails is halved until the row that makes it fail is alone; its shape stays."""
        rows, outputs = batch.rows, self._attempt(tensors, batch)
        failure = outputs if isinstance(outputs, Exception) else None
        finite = np.zeros(len(rows), np.bool_) if isinstance(outputs, Exception) else self._finite(outputs)
        if not finite.all() and not case.is_open:
            self._ask_golden({batch.shape}, failure)
            case.is_open = True
        if not isinstance(outputs, Exception):
            yield self._answered(rows, outputs, finite)
            case.suspects += [_Suspect(batch._replace(rows=rows[[i]]), None) for i in np.flatnonzero(~finite)]
        elif len(rows) == 1:
            case.suspects.append(_Suspect(batch, failure))
        else:
            half = len(rows) // 2
            yield from self._infer(tensors, batch._replace(rows=rows[:half]), case)
            yield from self._infer(tensors, batch._replace(rows=rows[half:]), case)

    def _judge(self, tensors: pa.Table, suspects: list[_Suspect]) -> Iterator[Answered | Failed]:
        """Blame those that fail alone, twice, while the golden inputs succeed."""
        for golden_runs in (1, 2):  # two at last: a device that fails every other time passes one by luck
            guilty = []
            for batch, _ in suspects:
                outputs = self._attempt(tensors, batch)
                if isinstance(outputs, Exception) or not self._finite(outputs).all():
                    guilty.append(_Suspect(batch, outputs if isinstance(outputs, Exception) else None))
                else:
                    yield self._answered(batch.rows, outputs, self._finite(outputs))
            if not guilty:
                return
            for _ in range(golden_runs):
                self._ask_golden({suspect.batch.shape for suspect in guilty}, guilty[0].failure)
            suspects = guilty
        for batch, failure in suspects:
            # The spec bounds what a record may need: a machine that cannot give it to one alone is too small, or
            # too full. A reject would be for ever, and the next machine might have answered.
            if failure and (of_machine(failure) or _NO_MEMORY.search(str(failure))):
                raise EngineError(
                    f"{self.where}: cannot run even one record: {one_line(failure)}; free memory there, or take "
                    "a larger device, and run the same command again"
                )
            yield Failed(int(batch.rows[0]), self._error(failure))

    def _error(self, failure: Exception | None) -> dict[str, str]:
        if failure is None:
            return error("infer", "not-finite", f"the model gave {self._decisive} that are not finite")
        return error("infer", "model-error", f"{type(failure).__name__}: {failure}")

    def _finite(self, outputs: Feeds) -> npt.NDArray[np.bool_]:
        return np.asarray(np.isfinite(outputs[self._decisive]).all(axis=1))

    def _answered(
        self, rows: npt.NDArray[np.int64], outputs: Feeds, finite: npt.NDArray[np.bool_]
    ) -> Answered:
        columns = [i for i, m in enumerate(self._spec.modalities) if m in self.stage.seen]
        present = np.asarray(outputs["present"][:, columns], np.bool_)
        return Answered(rows[finite], present[finite], {name: v[finite] for name, v in outputs.items()})

    def _ask_golden(self, shapes: set[Shape | None], failure: Exception | None) -> None:
        """Run the golden inputs the way of batches of these shapes: same sessions, same buffers.

        Raises:
            EngineError: they fail, or come out otherwise than when the model was opened.
        """
        if self.golden is None:
            return
        first = one_line(failure) if failure else f"{self._decisive} that are not finite"
        try:
            for shape in shapes:
                self._run_golden(self.golden, shape)
        except Exception as e:  # as in _attempt
            raise EngineError(
                f"{self.where}: its golden inputs fail, which were right when it was opened ({one_line(e)}); before "
                f"that, a batch gave {first}; so the device or its engine is at fault, and no record: see to it, "
                "and run the same command again"
            ) from e

    def _run_golden(self, golden: Golden, shape: Shape | None) -> None:
        rows = fitting(golden.feeds, shape) if shape else []
        if shape and rows:
            bound = self._bound(shape)
            lay(bound.feeds, golden.feeds, rows)
            golden.check_some(self._run_padded(shape, bound, len(rows))[self._decisive], rows)
            return
        found: Feeds = {}
        self._note(self._device.run(lambda: found.update(self.stage.engine(golden.feeds))), None)
        golden.check(found[self._decisive])

    def _attempt(self, tensors: pa.Table, batch: Batch) -> Feeds | Exception:
        """Outputs of the graph for the rows of a batch, and `present`; or what the engine raised."""
        run = self._packed(
            tensors, batch
        )  # is our work: what it raises is neither the engine's nor a record's
        try:
            return run()
        except (
            Exception
        ) as e:  # ONNX Runtime's own exception types share no base; golden inputs tell whose it is
            return e

    def _packed(self, tensors: pa.Table, batch: Batch) -> Callable[[], Feeds]:
        """Lay the rows of a batch ready; what comes back runs them."""
        stage, rows, shape = self.stage, batch.rows, batch.shape
        handed_on = [name for name in stage.engine.inputs if name.startswith(CARRIED)]
        if shape is None:
            feeds = pack(tensors.take(rows), self._spec, take=stage.takes, seen=stage.seen)
            feeds |= {name: carried_rows(tensors, name, rows) for name in handed_on}
            found: Feeds = {"present": feeds["present"]}

            def run() -> Feeds:
                self._note(self._device.run(lambda: found.update(stage.engine(feeds))), None)
                return found

            return run
        bound = self._bound(shape)
        used = fill(bound.feeds, tensors, rows, self._spec, stage.seen)
        for name in handed_on:
            bound.feeds[name][: len(rows)] = carried_rows(tensors, name, rows)
        present = bound.feeds["present"][: len(rows)].copy()

        def run_padded() -> Feeds:
            outputs = self._run_padded(shape, bound, len(rows))
            self._count_padding(shape, used)
            return {"present": present, **outputs}

        return run_padded

    def _run_padded(self, shape: Shape, bound: Bound, rows: int) -> Feeds:
        """Outputs of what lies in the buffers, cut back to its real rows."""
        outputs: Feeds = {}
        copied_s = self._device.copy(bound.send, bound.sent_bytes)
        self._note(self._device.run(bound.compute, shape), shape)
        copied_s += self._device.copy(lambda: outputs.update(bound.fetch()), bound.fetched_bytes)
        self.occupied["copied"] += copied_s  # type: ignore[assignment]  # floats, too
        return {name: values[:rows] for name, values in outputs.items()}

    def _bound(self, shape: Shape) -> Bound:
        """Buffers of a shape. A device without memory for them is no fault of the records."""
        if shape not in self._bounds:
            engine = self.stage.engine
            widths = {name: engine.width(name) for name in engine.inputs if name.startswith(CARRIED)}
            feeds = blank(self._spec, shape, self.stage.takes, widths)
            try:
                self._bounds[shape] = engine.bound(feeds)
            except Exception as e:  # as in _attempt
                raise EngineError(
                    f"{self.where}: no buffers for batches of {shape}: {one_line(e)}; free memory there, or lower "
                    "batch_rows"
                ) from e
        return self._bounds[shape]

    def _note(self, turn: Turn, shape: Shape | None) -> None:
        self.waited_s += turn.waited_s
        for name, seconds in (("busy", turn.busy_s), ("wall", turn.wall_s), ("planned", turn.planned_s)):
            self.occupied[name] += seconds  # type: ignore[assignment]  # floats, too
        if shape:
            self.occupied[f"shape {shape}"] += 1
            self.occupied["changes"] += turn.changed

    def _count_padding(self, shape: Shape, used: Shape) -> None:
        places = shape._replace(tokens=shape.texts * shape.tokens)
        for name in Shape._fields:
            self.occupied[f"places {name}"] += getattr(places, name)
            self.occupied[f"used {name}"] += getattr(used, name)


def carried_rows(tensors: pa.Table, name: str, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.generic]:
    """Values [n, D] that an earlier stage handed on for rows of a table."""
    column = tensors[name].combine_chunks()
    values: npt.NDArray[np.generic] = column.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(column), -1)[rows]
