"""Rows of a table through one stage's graph: in batches, padded for a device, and each failure on its own.

On a CPU a batch is as large as its rows; the graph is run on it, and that is all. On a device, or what stands
in for one, it is padded to one of few shapes in buffers that stay (`mmray.shapes`, `mmray.engine.bound`), and
the copies of one batch go on while the device computes another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from copy import copy
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmray.batching import Feeds, batches, blank, fill, pack
from mmray.cascade import CARRIED, Stage
from mmray.engine import Bound
from mmray.engine.turns import Device, Turn
from mmray.preprocess.spec import PreprocessSpec
from mmray.schema import error
from mmray.shapes import Batch, Ladder, Shape, Shaper


class Answered(NamedTuple):
    """What a graph gave for n rows of a table."""

    rows: npt.NDArray[np.int64]  # [n]
    present: npt.NDArray[np.bool_]  # [n, M], of the modalities that were seen
    outputs: Feeds  # of each output the values of these rows


class Failed(NamedTuple):
    """A row that the graph could not answer, and its error."""

    row: int
    error: dict[str, str]


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
        """
        for batch in self._cut(tensors, rows):
            if batch.shape:
                self._bound(batch.shape)  # a device without memory for its buffers is no fault of the records
            yield from self._infer(tensors, batch)

    def warm(self, shape: Shape) -> None:
        """Run a batch of this shape that holds nothing but padding."""
        self._run_padded(shape, self._bound(shape), 0)

    def _cut(self, tensors: pa.Table, rows: npt.NDArray[np.int64]) -> list[Batch]:
        if self._shaper:
            return self._shaper(tensors, rows)
        wanted = tensors.select(["error", "input_ids"]).take(rows)
        return [Batch(rows[chosen], None) for chosen in batches(wanted, self._batch_rows)]

    def _infer(self, tensors: pa.Table, batch: Batch) -> Iterator[Answered | Failed]:
        """A batch that fails is halved until the row that makes it fail is alone; its shape stays."""
        rows = batch.rows
        try:
            outputs = self._run(tensors, batch)
        except Exception as e:  # ONNX Runtime's own exception types share no base; the row is named below
            if len(rows) == 1:
                yield Failed(int(rows[0]), error("infer", "model-error", f"{type(e).__name__}: {e}"))
                return
            half = len(rows) // 2
            yield from self._infer(tensors, batch._replace(rows=rows[:half]))
            yield from self._infer(tensors, batch._replace(rows=rows[half:]))
            return
        finite = np.asarray(np.isfinite(outputs[self._decisive]).all(axis=1))
        for row in rows[~finite]:
            reason = f"the model gave {self._decisive} that are not finite"
            yield Failed(int(row), error("infer", "not-finite", reason))
        columns = [i for i, m in enumerate(self._spec.modalities) if m in self.stage.seen]
        present = np.asarray(outputs["present"][:, columns], np.bool_)
        kept = {name: values[finite] for name, values in outputs.items()}
        yield Answered(rows[finite], present[finite], kept)

    def _run(self, tensors: pa.Table, batch: Batch) -> Feeds:
        """Outputs of the graph for the rows of a batch, and `present`."""
        stage, rows = self.stage, batch.rows
        handed_on = [name for name in stage.engine.inputs if name.startswith(CARRIED)]
        if batch.shape is None:
            feeds = pack(tensors.take(rows), self._spec, take=stage.takes, seen=stage.seen)
            feeds |= {name: carried_rows(tensors, name, rows) for name in handed_on}
            found: Feeds = {}
            self._note(self._device.run(lambda: found.update(stage.engine(feeds))), None)
            return {"present": feeds["present"], **found}
        bound = self._bound(batch.shape)
        used = fill(bound.feeds, tensors, rows, self._spec, stage.seen)
        for name in handed_on:
            bound.feeds[name][: len(rows)] = carried_rows(tensors, name, rows)
        present = bound.feeds["present"][: len(rows)].copy()
        found = self._run_padded(batch.shape, bound, len(rows))
        self._count_padding(batch.shape, used)
        return {"present": present, **found}

    def _run_padded(self, shape: Shape, bound: Bound, rows: int) -> Feeds:
        """Outputs of what lies in the buffers, cut back to its real rows."""
        outputs: Feeds = {}
        copied_s = self._device.copy(bound.send, bound.sent_bytes)
        self._note(self._device.run(bound.compute, shape), shape)
        copied_s += self._device.copy(lambda: outputs.update(bound.fetch()), bound.fetched_bytes)
        self.occupied["copied"] += copied_s  # type: ignore[assignment]  # floats, too
        return {name: values[:rows] for name, values in outputs.items()}

    def _bound(self, shape: Shape) -> Bound:
        if shape not in self._bounds:
            engine = self.stage.engine
            widths = {name: engine.width(name) for name in engine.inputs if name.startswith(CARRIED)}
            self._bounds[shape] = engine.bound(blank(self._spec, shape, self.stage.takes, widths))
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
