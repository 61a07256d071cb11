"""Batches of one stage's graph: rows are packed and run; on a device they are padded.

On a CPU a batch has the size of its rows. On a device, or a stand-in for one, it is padded to one of few
shapes in buffers that are reused (`mmray.shapes`, `mmray.engine.bound`), and one batch is copied while the
device computes another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from copy import copy
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmray.batching import Feeds, batches, blank, fill, pack
from mmray.cascade import CARRIED, Stage
from mmray.engine import Bound
from mmray.engine.turns import Device, Turn
from mmray.errors import EngineError, one_line
from mmray.golden import Golden, fitting, lay
from mmray.preprocess.spec import PreprocessSpec
from mmray.schema import TENSOR_OF
from mmray.shapes import Batch, Ladder, Shape, Shaper


class BatchRunner:
    """Runs batches of a stage. For one thread; `twin` makes one for another thread, on the same device.

    Args:
        stage: a loaded graph.
        spec: preprocessing of the model.
        golden: its golden inputs.
        device: what runs the graph.
        batch_rows: maximum records of a batch, if there is no ladder.
        ladder: sizes of batches for a device; None: a CPU, which takes any.
    """

    def __init__(
        self,
        stage: Stage,
        spec: PreprocessSpec,
        golden: Golden,
        *,
        device: Device,
        batch_rows: int,
        ladder: Ladder | None,
    ) -> None:
        self.stage = stage
        self.golden = golden
        self._spec = spec
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

    def twin(self) -> Self:
        """The same for another thread, with buffers and counts of its own."""
        other = copy(self)
        other._bounds, other.occupied, other.waited_s = {}, Counter(), 0.0
        return other

    def warm(self, shape: Shape) -> None:
        """Run a batch of this shape that holds nothing but padding."""
        self._run_padded(shape, self._bound(shape), 0)

    def _cut(self, tensors: pa.Table, rows: npt.NDArray[np.int64]) -> list[Batch]:
        if self._shaper:
            return self._shaper(tensors, rows)
        wanted = tensors.select(["error", "input_ids"]).take(rows)
        return [Batch(rows[chosen], None) for chosen in batches(wanted, self._batch_rows)]

    def _packed(self, tensors: pa.Table, batch: Batch) -> Callable[[], Feeds]:
        """Pack the rows of a batch; the returned function runs them."""
        stage, rows, shape = self.stage, batch.rows, batch.shape
        handed_on = [name for name in stage.engine.inputs if name.startswith(CARRIED)]
        if shape is None:
            needed = tensors.select([TENSOR_OF[modality] for modality in self._spec.modalities])
            feeds = pack(needed.take(rows), self._spec, take=stage.takes, seen=stage.seen)
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
        """Outputs for the contents of the buffers, without padding."""
        outputs: Feeds = {}
        copied_s = self._device.copy(bound.send, bound.sent_bytes)
        self._note(self._device.run(bound.compute, shape), shape)
        copied_s += self._device.copy(lambda: outputs.update(bound.fetch()), bound.fetched_bytes)
        self.occupied["copied"] += copied_s  # type: ignore[assignment]  # floats, too
        return {name: values[:rows] for name, values in outputs.items()}

    def _bound(self, shape: Shape) -> Bound:
        """Buffers of a shape. If the device has no memory for them, that is not the records' fault."""
        if shape not in self._bounds:
            engine = self.stage.engine
            widths = {name: engine.width(name) for name in engine.inputs if name.startswith(CARRIED)}
            feeds = blank(self._spec, shape, self.stage.takes, widths)
            try:
                self._bounds[shape] = engine.bound(feeds)
            except Exception as e:  # ONNX Runtime's own exception types share no base
                raise EngineError(
                    f"{self.golden.where}: no buffers for batches of {shape}: {one_line(e)}; "
                    "free memory there, or lower batch_rows"
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

    def _run_golden(self, shape: Shape | None) -> None:
        """Run golden inputs in the same session and buffers as batches of a shape; as many as fit.

        Raises:
            ValueError: the outputs differ from those when the model was opened.
        """
        golden = self.golden
        rows = fitting(golden.feeds, shape) if shape else []
        if shape and rows:
            bound = self._bound(shape)
            lay(bound.feeds, golden.feeds, rows)
            golden.check_some(self._run_padded(shape, bound, len(rows))[golden.decisive], rows)
            return
        found: Feeds = {}
        self._note(self._device.run(lambda: found.update(self.stage.engine(golden.feeds))), None)
        golden.check(found[golden.decisive])


def carried_rows(tensors: pa.Table, name: str, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.generic]:
    """Values [n, D] that an earlier stage passed on for rows of a table."""
    column = tensors[name].combine_chunks()
    values: npt.NDArray[np.generic] = column.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(column), -1)[rows]
