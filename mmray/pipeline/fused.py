"""The fused topology: one actor a CPU does everything for its unit. No copy between processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc

from mmray.coverage import Missing
from mmray.errors import RunError
from mmray.pipeline.job import Job, MeterHandle, count, heed, read_unit, unit_from_json
from mmray.pipeline.ledger import Part
from mmray.pipeline.meter import drain, measured, timed
from mmray.pipeline.plan import Unit
from mmray.pipeline.sink import PartBuffer, commit, read_parquet, to_rejects
from mmray.pipeline.survey import read_options
from mmray.schema import predictions
from mmray.sources import Shard, read
from mmray.sources.readahead import readahead


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
            self._meter.add.remote({**count(outcomes), **busy})
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
            self._meter.add.remote({**count(outcomes), **busy})
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
