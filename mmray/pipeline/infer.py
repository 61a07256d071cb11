"""The actor of the split topology: it holds the model, and works on two tables at once."""

from __future__ import annotations

import sys
from queue import SimpleQueue
from typing import Any, NamedTuple
from uuid import uuid4

import pyarrow as pa
import ray

from mmray.pipeline.job import Job, count
from mmray.pipeline.meter import drain
from mmray.pipeline.travel import from_rows, to_row
from mmray.predictor import Predictor

#: Calls that an actor works on at once: while the device runs a batch of one, the other prepares its next.
CALLS = 2
_SWITCH_S = 5e-4


class InferWorker:
    """A row of TENSORS → OUTCOMES, or of a cascade's stage a row for the next one.

    Args:
        job: what to run.
        meter: a Ray actor handle of `mmray.pipeline.meter.Meter`.
        stage: of a cascade, from 1, that runs here; None: all of the model.
    """

    def __init__(self, job: Job, meter: Any, stage: int | None = None) -> None:  # noqa: ANN401  (Ray's handle)
        # A thread that has the interpreter keeps it for 5 ms while the other's turn at the device has come.
        sys.setswitchinterval(_SWITCH_S)
        self._job, self._meter, self._stage = job, meter, stage
        first = job.open_predictor()
        if stage:
            first.keep_only(stage)
        self._is_last = stage in (None, first.stages)
        self._device = _device_name(stage)
        name = uuid4().hex
        self._lanes: SimpleQueue[_Lane] = SimpleQueue()
        for number in range(CALLS):
            self._lanes.put(_Lane(f"{name} {number}", first.twin() if number else first))

    def __call__(self, row: pa.Table) -> pa.Table:
        lane = self._lanes.get()
        try:
            return self._infer(row, lane)
        finally:
            self._lanes.put(lane)

    def _infer(self, row: pa.Table, lane: _Lane) -> pa.Table:
        predict = lane.predict
        self._meter.enter.remote(lane.name, "model")
        tensors, answered = from_rows(row)
        if self._stage:
            step = predict.step(self._stage, tensors)
            found, waiting = step.answered, step.open
        else:
            found, waiting = predict(tensors), None
        counts = {**count(found), **drain(predict.seconds, predict.counts)}
        self._meter.add.remote(counts, drain(*predict.occupied), self._device)
        # No record leaves a cascade early any more, where that is wanted and early answers went wrong.
        if self._job.config.on_shift == "stop" and predict.later and ray.get(self._meter.shift.remote()):
            predict.close_exits()
        self._meter.enter.remote(lane.name, None)
        outcomes = pa.concat_tables([answered, found]) if answered else found
        return outcomes if self._is_last else to_row(waiting, outcomes)


class _Lane(NamedTuple):
    """What one of the calls of an actor works with; the engines are shared."""

    name: str
    predict: Predictor


def _device_name(stage: int | None) -> str:
    """As in "10.0.0.4 GPU 0, stage 2"."""
    gpus = ray.get_gpu_ids()
    what = f"GPU {gpus[0]}" if gpus else "CPU"
    where = f"{ray.util.get_node_ip_address()} {what}"  # type: ignore[no-untyped-call]
    return f"{where}, stage {stage}" if stage else where
