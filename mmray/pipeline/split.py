"""The functions of nodes with accelerators: CPU tasks prepare, actors on devices infer, tasks write.

Actors decode nothing, and no process keeps rows between two Ray tasks.
"""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pyarrow as pa
from ray.data.block import Block, BlockAccessor
from ray.data.datasource import Datasink

from mmray.pipeline import memory
from mmray.pipeline.job import Job
from mmray.pipeline.liveness import AHEAD, MeterHandle, Reporter, beginning, places_of
from mmray.pipeline.sink import write_part
from mmray.pipeline.survey import output_columns, read_options
from mmray.pipeline.timing import drain, measured, timed
from mmray.pipeline.travel import from_rows, to_row
from mmray.preprocess import Preprocessor
from mmray.schema import Modality
from mmray.shapes import whole_batches
from mmray.sources.readahead import readahead


def prepare(work: pa.Table, *, job: Job, meter: MeterHandle, batches: int) -> Iterator[pa.Table]:
    """A unit of work → rows of TENSORS, of a bounded number of batches."""
    (unit,) = (pickle.loads(piece) for piece in work["work"].to_pylist())
    seconds, task = Counter[str](), Counter[str]()
    report = Reporter(meter, job.config.stall_s)
    report.sure = unit[0].suspect
    preprocess, later = _preprocessing(job)
    options = replace(read_options(job.config), views=True)

    def tensors() -> Iterator[pa.Table]:
        records_of = timed(readahead(job.records(unit, options, meter.fail.remote)), seconds, "read")
        for records in timed(records_of, task, "task"):
            report.enter("preprocess", places_of(records, ahead=AHEAD * options.block_rows))
            with measured(task, "task"):
                made = preprocess(records, later)
            report.add({"prepared": made.num_rows})
            yield made
            if report.is_leaving():  # the rest of the unit is for the next pass
                return
            report.enter("read")

    with report.working("read", beginning(unit, options.block_rows)):
        for table in whole_batches(tensors(), job.ladder.rows[-1] if job.ladder else None, batches):
            with measured(task, "task"):
                row = to_row(table)
            report.add(drain(seconds, preprocess.seconds, task))
            report.rest()  # it may have to wait until the row is consumed
            yield row
            report.move()


@lru_cache(maxsize=1)
def _preprocessing(job: Job) -> tuple[Preprocessor, tuple[Modality, ...]]:
    """Keep it open in the worker process for the next task."""
    if job.memory_bytes:
        memory.bound(job.memory_bytes)
    return job.open_preprocessor(), job.later()


def decode_open(rows: pa.Table, *, stage: int, job: Job, meter: MeterHandle) -> Iterator[pa.Table]:
    """Decode what the next stage of a cascade takes, for open records; answered ones pass through."""
    task, report = Counter[str](), Reporter(meter, job.config.stall_s)
    waiting, answered = from_rows(rows)
    preprocess, _ = _preprocessing(job)
    with report.working("preprocess", places_of(waiting)), measured(task, "task"):
        decoded = preprocess.complete(waiting, job.takes(stage))
    batch_rows = job.ladder.rows[-1] if job.ladder else None
    for table in list(whole_batches(iter([decoded]), batch_rows)) or [decoded]:
        with measured(task, "task"):
            row = to_row(table, answered)
        answered = None
        report.add({"prepared": table.num_rows, **drain(preprocess.seconds, task)})
        report.rest()
        yield row


class PartSink(Datasink[str]):
    """Writes the rows of a write task as one part."""

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
        seconds, report = Counter[str](), Reporter(self._meter, self._job.config.stall_s)
        bundle = self._job.open_bundle()
        with report.working("write"):
            with measured(seconds, "write"):
                part = write_part(
                    self._job.out, pa.concat_tables(tables), output_columns(self._job.config, bundle)
                )
            report.add(drain(seconds))
        return part.name
