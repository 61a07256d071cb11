"""The stages as Ray runs them: thin actors, tasks and a sink around the functions of the lower floors."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data import DataContext, Datasource
from ray.data.block import Block, BlockAccessor, BlockMetadata
from ray.data.datasource import Datasink, ReadTask

from mmray.bundle import Bundle
from mmray.config import RunConfig
from mmray.coverage import Missing
from mmray.errors import InputError, RunError
from mmray.pipeline.ledger import Part
from mmray.pipeline.meter import drain, measured, timed
from mmray.pipeline.plan import Unit, Work
from mmray.pipeline.rundir import RunDirectory
from mmray.pipeline.sink import PartBuffer, commit, read_parquet, to_rejects, write_part
from mmray.pipeline.survey import output_columns, read_options
from mmray.predictor import Predictor, open_preprocessor
from mmray.preprocess import Preprocessor
from mmray.schema import RECORDS, Modality, predictions
from mmray.sources import ReadOptions, Shard, read
from mmray.sources.readahead import readahead

MeterHandle = Any  # a Ray actor handle of mmray.pipeline.meter.Meter; Ray gives it no type


@dataclass(frozen=True)
class Job:
    """What every worker needs to know."""

    config: RunConfig
    part_rows: int
    threads: int  # of one inference: the CPUs that an actor owns

    @property
    def out(self) -> RunDirectory:
        return RunDirectory.at(self.config.output)

    def open_predictor(self) -> Predictor:
        bundle = Bundle.open(self.config.bundle)
        return Predictor(
            bundle,
            variant=self.config.variant,
            provider=self.config.provider,
            threads=self.threads,
            batch_rows=self.config.batch_rows,
            shared=True,
            shadow=self.config.shadow,
            columns=output_columns(self.config, bundle),
        )

    def later(self) -> tuple[Modality, ...]:
        """Modalities whose bytes wait until a cascade asks for them."""
        return () if self.config.verify_all else Bundle.open(self.config.bundle).later(self.config.variant)

    def open_preprocessor(self) -> Preprocessor:
        return open_preprocessor(
            Bundle.open(self.config.bundle),
            limits=self.config.limits,
            modalities=self.config.modalities,
            on_damaged=self.config.on_damaged,
            align=self.config.align,
        )


def read_unit(unit: Unit, options: ReadOptions, meter: MeterHandle) -> Iterator[pa.Table]:
    """The wanted rows of each shard of a unit, as tables of RECORDS.

    A shard that cannot be read stops none of the others: it stays missing, and the run says so at its end.
    """
    for work in unit:
        try:
            yield from read(work.shard, options, work.wanted)
        except (OSError, InputError) as e:
            meter.fail.remote(work.shard.name, str(e))


# The fused topology: one actor a CPU does everything for its unit. No copy between processes.


class FusedWorker:
    """Reads, preprocesses, infers and writes units of work.

    Nothing is kept from one call to the next: it would die with the actor, and Ray would believe it done.
    """

    def __init__(self, job: Job, meter: MeterHandle) -> None:
        self._job = job
        self._options = replace(read_options(job.config), views=True)
        self._preprocess = job.open_preprocessor()
        self._predict = job.open_predictor()
        self._later = job.later()
        self._meter = meter
        self._name = uuid4().hex

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Units as JSON (column `unit`) → the parts that were written (columns `part`, `rows`)."""
        for text in batch["unit"].to_pylist():
            yield from self._run(unit_from_json(text))

    def _run(self, unit: Unit) -> Iterator[pa.Table]:
        job, seconds = self._job, Counter[str]()
        buffer = PartBuffer(job.out, self._predict.columns, job.part_rows, job.config.part_seconds)
        self._enter("read")
        for records in timed(readahead(read_unit(unit, self._options, self._meter)), seconds, "read"):
            outcomes = self._process(records)
            self._enter("write")
            with measured(seconds, "write"):
                part = buffer.add(outcomes)
            busy = drain(seconds, self._preprocess.seconds, self._predict.seconds, self._predict.counts)
            self._meter.add.remote({**_count(outcomes), **busy})
            heed(job, self._predict, self._meter)
            if part:
                yield _written(part)
            self._enter("read")
        self._enter("write")
        if part := buffer.close():
            yield _written(part)
        self._enter(None)

    def _process(self, records: pa.Table) -> pa.Table:
        self._enter("preprocess")
        tensors = self._preprocess(records, self._later)
        self._enter("model")
        return self._predict(tensors, self._preprocess.complete)

    def _enter(self, stage: str | None) -> None:
        self._meter.enter.remote(self._name, stage)


class RetryWorker(FusedWorker):
    """Processes the rejects of parts anew, each record by its byte offset.

    A part whose rejects became fewer is written again, beside the old one; more predictions win (see
    `Ledger.of`), so a crash between the two loses and doubles nothing.
    """

    def __init__(self, job: Job, meter: MeterHandle, shards: Mapping[str, Shard]) -> None:
        super().__init__(job, meter)
        self._shards = shards

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Names of parts (column `part`) → the parts that were written."""
        for name in batch["part"].to_pylist():
            out = self._job.out
            part = Part.read(out.parts / name)
            if part is None:
                raise RunError(f"{out}: parts/{name} went away while it was retried")
            old_rejects = read_parquet(out.rejects / name)
            outcomes = self._reread(old_rejects)
            failed = pc.is_valid(outcomes["error"])
            good = outcomes.filter(pc.invert(failed)).select(predictions(self._predict.columns).names)
            rows = pa.concat_tables([read_parquet(out.parts / name), good]).sort_by(
                [("shard", "ascending"), ("row", "ascending")]
            )
            self._enter("write")
            yield _written(commit(out, rows, to_rejects(outcomes.filter(failed)), part.coverage, part.totals))
            busy = drain(self._preprocess.seconds, self._predict.seconds, self._predict.counts)
            self._meter.add.remote({**_count(outcomes), **busy})
            self._enter(None)

    def _reread(self, rejects: pa.Table) -> pa.Table:
        """OUTCOMES of the rejected records, one for each."""
        outcomes = []
        for shard_id in rejects["shard"].unique().to_pylist():
            shard = self._shards[shard_id]
            here = rejects.filter(pc.equal(rejects["shard"], shard_id)).sort_by("row").to_pylist()
            self._enter("read")
            for records in read(shard, self._options, [_address(reject) for reject in here]):
                outcomes.append(self._process(records))
                self._enter("read")
        found = pa.concat_tables(outcomes)
        if found.num_rows != rejects.num_rows:
            raise RunError(f"{found.num_rows} of {rejects.num_rows} rejects found again; did a shard change?")
        return found


def _address(reject: Mapping[str, Any]) -> Missing:
    """Where to read a rejected record again."""
    row, offset = reject["row"], reject["offset"]
    # Only a walk that meets the other half first sees that this is not a whole record.
    return Missing(row, row, 0 if reject["type"] == "interleaved-members" else offset)


def _written(part: Part) -> pa.Table:
    return pa.table({"part": [part.name], "rows": [part.rows]})


def units_to_tables(units: Iterable[Unit]) -> list[pa.Table]:
    """One table a unit, so that Ray makes one task of each."""
    return [pa.table({"unit": [json.dumps([asdict(work) for work in unit])]}) for unit in units]


def unit_from_json(text: str) -> Unit:
    """The inverse of what `units_to_tables` puts into column `unit`."""
    return tuple(
        Work(Shard(**work["shard"]), tuple(Missing(*gap) for gap in work["wanted"]), work["size"])
        for work in json.loads(text)
    )


# The split topology: CPU tasks read and preprocess, accelerator actors infer, tasks write.


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
        self._meter.add.remote({**_count(outcomes), **busy})
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


def heed(job: Job, predict: Predictor, meter: MeterHandle) -> None:
    """Let no record leave a cascade early any more, where that is wanted and early answers went wrong."""
    if job.config.on_shift == "stop" and predict.later and ray.get(meter.shift.remote()):
        predict.close_exits()


def _count(outcomes: pa.Table) -> dict[str, float]:
    return {"rows": outcomes.num_rows, "rejects": outcomes.num_rows - outcomes["error"].null_count}
