"""The actor of the split topology: it holds the model and processes two tables at once."""

from __future__ import annotations

import sys
from queue import SimpleQueue
from typing import NamedTuple

import pyarrow as pa
import ray

from mmray.pipeline.job import Job, count
from mmray.pipeline.liveness import MeterHandle, Reporter, places_of
from mmray.pipeline.snapshot import START
from mmray.pipeline.timing import drain
from mmray.pipeline.travel import from_rows, to_row
from mmray.predictor import Predictor
from mmray.shapes import whole_batches

#: Concurrent calls of an actor: while the device runs a batch of one, the other prepares its next.
CALLS = 2
_SWITCH_S = 5e-4


class InferWorker:
    """A row of TENSORS → OUTCOMES, or for a cascade's stage a row for the next stage.

    Args:
        job: what to run.
        meter: a Ray actor handle of `mmray.pipeline.meter.Meter`.
        stage: of a cascade, from 1, that runs here; None: the whole model.
    """

    def __init__(self, job: Job, meter: MeterHandle, stage: int | None = None) -> None:
        # By default a thread keeps the GIL for 5 ms while the other could already use the device.
        sys.setswitchinterval(_SWITCH_S)
        self._job, self._stage = job, stage
        self._device = _device_name(stage)
        self._lanes: SimpleQueue[_Lane] = SimpleQueue()
        report = Reporter(meter, job.config.stall_s)
        with report.working(START):
            first = job.open_predictor()
            if stage:
                first.keep_only(stage)
        self._is_last = stage in (None, first.stages)
        self._lanes.put(_Lane(report, first))
        for _ in range(1, CALLS):
            self._lanes.put(_Lane(Reporter(meter, job.config.stall_s), first.twin()))

    def __call__(self, row: pa.Table) -> pa.Table:
        lane = self._lanes.get()
        tensors, answered = from_rows(row)
        try:
            with lane.report.working("model", places_of(tensors)):
                return self._infer(tensors, answered, lane)
        finally:
            self._lanes.put(lane)

    def _infer(self, tensors: pa.Table, answered: pa.Table | None, lane: _Lane) -> pa.Table:
        if self._stage:
            step = lane.predict.step(self._stage, tensors)
            self._tell(step.answered, lane)
            outcomes = pa.concat_tables([answered, step.answered]) if answered else step.answered
            return outcomes if self._is_last else to_row(step.open, outcomes)
        rows = self._job.ladder.rows[-1] if self._job.ladder else None
        # A table may have more rows than fit in one shape.
        pieces = list(whole_batches(iter([tensors]), rows)) or [tensors]
        return pa.concat_tables([self._answered(piece, lane) for piece in pieces])

    def _answered(self, tensors: pa.Table, lane: _Lane) -> pa.Table:
        found = lane.predict(tensors)
        self._tell(found, lane)
        return found

    def _tell(self, found: pa.Table, lane: _Lane) -> None:
        """Report counts to the meter."""
        predict = lane.predict
        counts = {**count(found), **drain(predict.seconds, predict.counts)}
        lane.report.add(counts, drain(*predict.occupied), self._device, seen=predict.take_drift())
        self._job.heed_shift(predict, lane.report)


class _Lane(NamedTuple):
    """State of one of an actor's concurrent calls; the engines are shared."""

    report: Reporter
    predict: Predictor


def _device_name(stage: int | None) -> str:
    """As in "10.0.0.4 GPU 0, stage 2"."""
    gpus = ray.get_gpu_ids()
    what = f"GPU {gpus[0]}" if gpus else "CPU"
    where = f"{ray.util.get_node_ip_address()} {what}"  # type: ignore[no-untyped-call]
    return f"{where}, stage {stage}" if stage else where
