"""The split topology: CPU tasks read and preprocess, accelerator actors infer, tasks write."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache, partial
from typing import Any
from uuid import uuid4

import pyarrow as pa
from ray.data import DataContext, Datasource
from ray.data.block import Block, BlockAccessor, BlockMetadata
from ray.data.datasource import Datasink, ReadTask

from mmray.bundle import Bundle
from mmray.pipeline.job import Job, MeterHandle, count, heed, read_unit
from mmray.pipeline.meter import drain, measured
from mmray.pipeline.plan import Unit
from mmray.pipeline.sink import write_part
from mmray.pipeline.survey import output_columns, read_options
from mmray.preprocess import Preprocessor
from mmray.schema import RECORDS, Modality


class ShardSource(Datasource):
    """Ray Data's view of the shards: one read task a unit, blocks of RECORDS."""

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
        options = read_options(self._job.config)
        tasks = []
        for unit in self._units:
            size = sum(work.size for work in unit)
            metadata = BlockMetadata(num_rows=None, size_bytes=size, input_files=None, exec_stats=None)
            read = partial(read_unit, unit, options, self._meter)
            tasks.append(ReadTask(read, metadata, schema=RECORDS, per_task_row_limit=per_task_row_limit))
        return tasks


def preprocess_block(records: pa.Table, job: Job, meter: MeterHandle) -> pa.Table:
    """RECORDS → TENSORS, in a task; the preprocessor stays open in the worker process."""
    worker = f"task {os.getpid()}"
    meter.enter.remote(worker, "preprocess")
    preprocess, later = _preprocessing(job)
    tensors = preprocess(records, later)
    meter.add.remote(drain(preprocess.seconds))
    meter.enter.remote(worker, None)
    return tensors


@lru_cache(maxsize=1)
def _preprocessing(job: Job) -> tuple[Preprocessor, tuple[Modality, ...]]:
    return job.open_preprocessor(), job.later()


class InferWorker:
    """TENSORS → OUTCOMES, in an actor that holds the model."""

    def __init__(self, job: Job, meter: MeterHandle) -> None:
        self._job = job
        self._predict = job.open_predictor()
        self._preprocess = job.open_preprocessor()  # of what the tasks before have left for later
        self._meter = meter
        self._name = uuid4().hex

    def __call__(self, tensors: pa.Table) -> pa.Table:
        self._meter.enter.remote(self._name, "model")
        outcomes = self._predict(tensors, self._preprocess.complete)
        busy = drain(self._preprocess.seconds, self._predict.seconds, self._predict.counts)
        self._meter.add.remote({**count(outcomes), **busy})
        heed(self._job, self._predict, self._meter)
        self._meter.enter.remote(self._name, None)
        return outcomes


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
