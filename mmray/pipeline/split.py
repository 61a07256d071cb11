"""The split topology: CPU tasks prepare, actors on accelerators infer, tasks write. One Ray Data pipeline:

    read and preprocess → infer → write
    read and preprocess what comes first → infer → (decode what is still open → infer)… → write   (a cascade)

Nothing is decoded in an actor, and nothing is kept in a process from one Ray task to the next.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any
from uuid import uuid4

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, Datasource
from ray.data.block import Block, BlockAccessor, BlockMetadata
from ray.data.datasource import Datasink, ReadTask

from mmray.bundle import Bundle
from mmray.pipeline.infer import CALLS, InferWorker
from mmray.pipeline.job import Job, read_unit
from mmray.pipeline.meter import drain, measured, timed
from mmray.pipeline.plan import Plan, Unit
from mmray.pipeline.sink import write_part
from mmray.pipeline.survey import output_columns, read_options
from mmray.pipeline.travel import BLOCK_BYTES, ROW, from_rows, to_row
from mmray.preprocess import Preprocessor
from mmray.schema import Modality
from mmray.shapes import whole_batches
from mmray.sources.readahead import readahead

# Tables at an actor, with those that it works on: Ray hands out more ten times a second.
_AHEAD = CALLS + 2
_CPU_AHEAD = CALLS + 6  # they are small where no batch has to be filled
# Tables whose open rows are decoded together, so that they fill batches again.
_DECODED_TOGETHER = 2

_ACTORS_S = 900  # until all actors are there

MeterHandle = Any  # a Ray actor handle of mmray.pipeline.meter.Meter; Ray gives it no type


def run_split(units: list[Unit], job: Job, plan: Plan, meter: MeterHandle) -> None:
    """Run units of work through the operators of the plan, to their end."""
    with _settings(plan):
        pipeline = ray.data.read_datasource(ShardSource(units, job, meter), override_num_blocks=len(units))
        pipeline = _infer(pipeline, 1, job, plan, meter)
        for stage in range(2, plan.steps + 1):
            pipeline = _decode(pipeline, stage, job, meter)
            pipeline = _infer(pipeline, stage, job, plan, meter)
        # A write that waited for a CPU would wait for a whole unit to be read.
        pipeline.write_datasink(PartSink(job, meter), ray_remote_args={"num_cpus": 0})


def _infer(pipeline: Dataset, stage: int, job: Job, plan: Plan, meter: MeterHandle) -> Dataset:
    """An actor for each device; those of a cascade's stages share the devices."""
    # Ray must not fuse these with what prepares, which would idle the device: it fuses equal resources only.
    share = 1 / plan.steps
    resources: dict[str, Any] = {"num_cpus": share * plan.actor_cpus}
    if plan.accelerated:
        resources["num_gpus"] = share
    else:
        resources["memory"] = plan.survey.bundle.graph(plan.variant).stat().st_size
    return pipeline.map_batches(
        InferWorker,
        fn_constructor_args=(job, meter, stage if plan.steps > 1 else None),
        batch_size=1,  # row, thus a table; Ray wants a number where there are GPUs
        batch_format="pyarrow",
        compute=ActorPoolStrategy(
            size=plan.actors,
            max_concurrent_calls_per_actor=CALLS,
            enable_true_multi_threading=True,
            max_tasks_in_flight_per_actor=_AHEAD if job.ladder else _CPU_AHEAD,
        ),
        **resources,
    )


def _decode(pipeline: Dataset, stage: int, job: Job, meter: MeterHandle) -> Dataset:
    """CPU tasks that decode what a stage takes, of the records that the stages before it left open."""
    return pipeline.map_batches(
        partial(_decode_open, stage=stage, job=job, meter=meter),
        batch_size=_DECODED_TOGETHER,
        batch_format="pyarrow",
        num_cpus=1,
    )


@contextmanager
def _settings(plan: Plan) -> Iterator[None]:
    """Ray Data's settings: a row of ours is a block, and its bars and logs do not fight our display."""
    context = DataContext.get_current().copy()
    if plan.actor_cpus and plan.machines.nodes > 1:
        # Tasks that took an actor's CPUs on the node of its device would wait for it for ever.
        context.wait_for_min_actors_s = _ACTORS_S
    context.target_max_block_size = BLOCK_BYTES
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # its files under the session directory stay
    with DataContext.current(context):
        yield


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
            tasks.append(ReadTask(prepare, metadata, schema=ROW, per_task_row_limit=per_task_row_limit))
        return tasks


def _prepare(unit: Unit, job: Job, meter: MeterHandle) -> Iterator[pa.Table]:
    """A unit as rows of TENSORS."""
    worker, seconds, task = f"task {uuid4().hex}", Counter[str](), Counter[str]()
    preprocess, later = _preprocessing(job)
    options = replace(read_options(job.config), views=True)

    def tensors() -> Iterator[pa.Table]:
        meter.enter.remote(worker, "read")
        records_of = timed(readahead(read_unit(unit, options, meter.fail.remote)), seconds, "read")
        for records in timed(records_of, task, "task"):
            with measured(task, "task"):
                meter.enter.remote(worker, "preprocess")
                made = preprocess(records, later)
            yield made
            meter.enter.remote(worker, "read")

    for table in whole_batches(tensors(), job.ladder.rows[-1] if job.ladder else None):
        with measured(task, "task"):
            row = to_row(table)
        meter.add.remote(drain(seconds, preprocess.seconds, task))
        meter.enter.remote(worker, None)  # it may have to wait until the row is taken
        yield row
    meter.enter.remote(worker, None)


@lru_cache(maxsize=1)
def _preprocessing(job: Job) -> tuple[Preprocessor, tuple[Modality, ...]]:
    """Stays open in the worker process, for its next task."""
    return job.open_preprocessor(), job.later()


def _decode_open(rows: pa.Table, *, stage: int, job: Job, meter: MeterHandle) -> Iterator[pa.Table]:
    """Rows whose open records have what a stage takes; the answered ones pass."""
    worker, task = f"task {uuid4().hex}", Counter[str]()
    meter.enter.remote(worker, "preprocess")
    preprocess, _ = _preprocessing(job)
    waiting, answered = from_rows(rows)
    with measured(task, "task"):
        decoded = preprocess.complete(waiting, job.takes(stage))
    batch_rows = job.ladder.rows[-1] if job.ladder else None
    for table in list(whole_batches(iter([decoded]), batch_rows)) or [decoded]:
        with measured(task, "task"):
            row = to_row(table, answered)
        answered = None
        meter.add.remote(drain(preprocess.seconds, task))
        yield row
    meter.enter.remote(worker, None)


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
