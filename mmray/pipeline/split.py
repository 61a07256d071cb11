"""The split topology: CPU tasks read and preprocess, accelerator actors infer, tasks write.

Ray cuts and joins blocks by their bytes alone, and a picture has a thousand times those of a caption. So that
`block_rows` says what travels together, a table of TENSORS travels as one row (`_to_row`).
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from queue import SimpleQueue
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Datasource
from ray.data.block import Block, BlockAccessor, BlockMetadata
from ray.data.datasource import Datasink, ReadTask

from mmray.bundle import Bundle
from mmray.pipeline.job import Job, count, read_unit
from mmray.pipeline.meter import drain, measured, timed
from mmray.pipeline.plan import Plan, Unit
from mmray.pipeline.sink import write_part
from mmray.pipeline.survey import output_columns, read_options
from mmray.predictor import Predictor
from mmray.preprocess import Preprocessor
from mmray.schema import Modality
from mmray.sources.readahead import readahead

# Calls that an actor works on at once: while the device runs a batch of one, the other prepares its next.
_CALLS = 2
_SWITCH_S = 5e-4
# Blocks at an actor, with those that it works on: Ray hands out more ten times a second.
_AHEAD = 8
# At which Ray ends a block. Outcomes of a call are a block or two; tables of TENSORS are made to reach it.
_BLOCK_BYTES = 64 << 10

MeterHandle = Any  # a Ray actor handle of mmray.pipeline.meter.Meter; Ray gives it no type

_ROW = pa.schema([("tensors", pa.large_binary())])


def run_split(units: list[Unit], job: Job, plan: Plan, meter: MeterHandle) -> None:
    """CPU tasks read and preprocess, actors infer, tasks write."""
    # Unequal resources keep Ray from fusing the reading into the actors, which would idle the device. Without
    # num_cpus=0 Ray takes a CPU for each GPU actor, and on few CPUs leaves none to read with.
    model_bytes = plan.survey.bundle.graph(plan.variant).stat().st_size
    cpu_actor = {"num_cpus": 1, "memory": model_bytes}
    context = DataContext.get_current().copy()
    context.target_max_block_size = _BLOCK_BYTES
    # Its bars and logs would fight our display; its files under the session directory stay.
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    with DataContext.current(context):
        dataset = ray.data.read_datasource(ShardSource(units, job, meter), override_num_blocks=len(units))
        dataset.map_batches(
            InferWorker,
            fn_constructor_args=(job, meter),
            batch_size=1,  # row, thus a table of TENSORS; Ray wants a number where there are GPUs
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                size=plan.actors,
                max_concurrent_calls_per_actor=_CALLS,
                enable_true_multi_threading=True,
                max_tasks_in_flight_per_actor=_AHEAD,
            ),
            **({"num_gpus": 1, "num_cpus": 0} if plan.accelerated else cpu_actor),
        ).write_datasink(
            PartSink(job, meter),
            # A write that waited for a CPU would wait for a whole unit to be read.
            ray_remote_args={"num_cpus": 0},
        )


class ShardSource(Datasource):
    """Ray Data's view of the shards: one task a unit, which reads and preprocesses, a block a row."""

    def __init__(self, units: list[Unit], job: Job, meter: MeterHandle) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._units = units
        self._job = job
        self._meter = meter

    def estimate_inmemory_data_size(self) -> int:
        return sum(work.size for unit in self._units for work in unit)

    def get_read_tasks(
        self,
        parallelism: int,  # noqa: ARG002  (units are cut by the plan)
        per_task_row_limit: int | None = None,
        data_context: DataContext | None = None,  # noqa: ARG002
    ) -> list[ReadTask]:
        """One task for each unit, whatever parallelism Ray would choose."""
        tasks = []
        for unit in self._units:
            size = sum(work.size for work in unit)
            metadata = BlockMetadata(num_rows=None, size_bytes=size, input_files=None, exec_stats=None)
            prepare = partial(_prepare, unit, self._job, self._meter)
            tasks.append(ReadTask(prepare, metadata, schema=_ROW, per_task_row_limit=per_task_row_limit))
        return tasks


def _prepare(unit: Unit, job: Job, meter: MeterHandle) -> Iterator[pa.Table]:
    """A unit as rows of TENSORS."""
    worker, seconds, task = f"task {uuid4().hex}", Counter[str](), Counter[str]()
    preprocess, later = _preprocessing(job)
    options = replace(read_options(job.config), views=True)
    meter.enter.remote(worker, "read")
    records_of = timed(readahead(read_unit(unit, options, meter.fail.remote)), seconds, "read")
    for records in timed(records_of, task, "task"):
        with measured(task, "task"):
            meter.enter.remote(worker, "preprocess")
            row = _to_row(preprocess(records, later))
        meter.add.remote(drain(seconds, preprocess.seconds, task))
        meter.enter.remote(worker, None)  # it may have to wait until the row is taken
        yield row
        meter.enter.remote(worker, "read")
    meter.enter.remote(worker, None)


@lru_cache(maxsize=1)
def _preprocessing(job: Job) -> tuple[Preprocessor, tuple[Modality, ...]]:
    """Stays open in the worker process, for its next task."""
    return job.open_preprocessor(), job.later()


def _to_row(tensors: pa.Table) -> pa.Table:
    """A table as one row of one column: its Arrow IPC stream, with zeros behind it where it is small."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, tensors.schema) as writer:
        writer.write_table(tensors)
    sink.write(bytes(max(0, _BLOCK_BYTES + 1 - sink.tell())))
    stream = sink.getvalue()
    ends = pa.py_buffer(np.array([0, stream.size], np.int64))
    return pa.table([pa.Array.from_buffers(pa.large_binary(), 1, [None, ends, stream])], schema=_ROW)


def _from_row(row: pa.Table) -> pa.Table:
    """The inverse of `_to_row`. Copies nothing."""
    return pa.ipc.open_stream(row["tensors"][0].as_buffer()).read_all()


class InferWorker:
    """TENSORS → OUTCOMES, in an actor that holds the model and works on several calls at once."""

    def __init__(self, job: Job, meter: MeterHandle) -> None:
        # A thread that has the interpreter keeps it for 5 ms while the other's turn at the device has come.
        sys.setswitchinterval(_SWITCH_S)
        self._job = job
        self._meter = meter
        self._name = uuid4().hex
        first = job.open_predictor()
        self._lanes: SimpleQueue[_Lane] = SimpleQueue()
        for number in range(_CALLS):
            predict = first.twin() if number else first
            self._lanes.put(_Lane(f"{self._name} {number}", predict, job.open_preprocessor()))

    def __call__(self, row: pa.Table) -> pa.Table:
        lane = self._lanes.get()
        try:
            return self._infer(_from_row(row), lane)
        finally:
            self._lanes.put(lane)

    def _infer(self, tensors: pa.Table, lane: _Lane) -> pa.Table:
        self._meter.enter.remote(lane.name, "model")
        outcomes = lane.predict(tensors, lane.preprocess.complete)
        occupied = drain(lane.predict.occupied)
        busy = drain(lane.preprocess.seconds, lane.predict.seconds, lane.predict.counts)
        self._meter.add.remote({**count(outcomes), **busy, **occupied})
        # No record leaves a cascade early any more, where that is wanted and early answers went wrong.
        if self._job.config.on_shift == "stop" and lane.predict.later and ray.get(self._meter.shift.remote()):
            lane.predict.close_exits()
        self._meter.enter.remote(lane.name, None)
        return outcomes


class _Lane(NamedTuple):
    """What one of the calls of an actor works with; the engines are shared."""

    name: str
    predict: Predictor
    preprocess: Preprocessor  # of what the tasks before have left for later


class PartSink(Datasink[str]):
    """Writes whatever rows a write task gets as one part."""

    def __init__(self, job: Job, meter: MeterHandle) -> None:
        self._job = job
        self._meter = meter

    @property
    def min_rows_per_write(self) -> int:
        return self._job.part_rows

    def write(self, blocks: Iterable[Block], ctx: Any) -> str:  # noqa: ANN401, ARG002  (Ray's TaskContext)
        """Write one part; returns its name."""
        tables = [BlockAccessor.for_block(block).to_arrow() for block in blocks]
        tables = [block for block in tables if block.num_rows]
        if not tables:
            return ""
        seconds = Counter[str]()
        bundle = Bundle.open(self._job.config.bundle)
        with measured(seconds, "write"):
            part = write_part(
                self._job.out, pa.concat_tables(tables), output_columns(self._job.config, bundle)
            )
        self._meter.add.remote(drain(seconds))
        return part.name
