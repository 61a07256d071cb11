"""The fused topology: one actor a CPU does everything for its unit. No copy between processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from mmray.coverage import Missing
from mmray.errors import RunError
from mmray.pipeline.job import Job, count, read_unit
from mmray.pipeline.ledger import Part
from mmray.pipeline.meter import drain, measured, timed
from mmray.pipeline.plan import Unit
from mmray.pipeline.sink import PartBuffer, commit, read_parquet, to_rejects
from mmray.pipeline.survey import read_options
from mmray.schema import predictions
from mmray.sources import Shard, read
from mmray.sources.readahead import readahead


class Unreadable(NamedTuple):
    """A shard that cannot be read, by its name, and why."""

    shard: str
    reason: str


#: What a worker tells on its way: a stage that it enters, what it has counted, a shard that cannot be read.
News = str | dict[str, float] | Unreadable


class FusedWorker:
    """Reads, preprocesses, infers and writes units of work.

    Nothing is kept from one call to the next: it would die with the actor, and count as done.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._options = replace(read_options(job.config), views=True)
        self._preprocess = job.open_preprocessor()
        self._predict = job.open_predictor()
        self._later = job.later()

    def run(self, unit: Unit) -> Iterator[News]:
        """Process a unit to its end; its rows are in parts then."""
        job, seconds = self._job, Counter[str]()
        unreadable: list[Unreadable] = []
        buffer = PartBuffer(job.out, self._predict.columns, job.part_rows, job.config.part_seconds)

        def fail(shard: str, reason: str) -> None:
            unreadable.append(Unreadable(shard, reason))

        yield "read"
        for records in timed(readahead(read_unit(unit, self._options, fail)), seconds, "read"):
            outcomes = yield from self._process(records)
            yield "write"
            with measured(seconds, "write"):
                buffer.add(outcomes)
            yield {**count(outcomes), **drain(seconds, *self._counters)}
            drain(*self._predict.occupied)
            yield "read"
        # Not `yield from`: Ray sends to the generator, and a list takes nothing.
        for shard in unreadable:  # noqa: UP028
            yield shard
        yield "write"
        buffer.close()

    def close_exits(self) -> None:
        """From now on let no record leave a cascade early; may be called while a unit is processed."""
        self._predict.close_exits()

    def _process(self, records: pa.Table) -> Generator[News, None, pa.Table]:
        yield "preprocess"
        tensors = self._preprocess(records, self._later)
        yield "model"
        return self._predict(tensors, self._preprocess.complete)

    @property
    def _counters(self) -> tuple[Counter[str], ...]:
        return self._preprocess.seconds, self._predict.seconds, self._predict.counts


class RetryWorker(FusedWorker):
    """Processes the rejects of parts anew, each record by its byte offset.

    A part whose rejects became fewer is written again, beside the old one; more predictions win (see
    `Ledger.of`), so a crash between the two loses and doubles nothing.
    """

    def __init__(self, job: Job, shards: Mapping[str, Shard]) -> None:
        super().__init__(job)
        self._shards = shards

    def retry(self, name: str) -> Iterator[News]:
        """Process the rejects of the part of this file name."""
        out = self._job.out
        part = Part.read(out.parts / name)
        if part is None:
            raise RunError(f"{out}: parts/{name} went away while it was retried")
        old_rejects = read_parquet(out.rejects / name)
        outcomes = yield from self._reread(old_rejects)
        failed = pc.is_valid(outcomes["error"])
        good = outcomes.filter(pc.invert(failed)).select(predictions(self._predict.columns).names)
        rows = pa.concat_tables([read_parquet(out.parts / name), good]).sort_by(
            [("shard", "ascending"), ("row", "ascending")]
        )
        yield "write"
        commit(out, rows, to_rejects(outcomes.filter(failed)), part.coverage, part.totals)
        yield {**count(outcomes), **drain(*self._counters)}

    def _reread(self, rejects: pa.Table) -> Generator[News, None, pa.Table]:
        """OUTCOMES of the rejected records, one for each."""
        outcomes = []
        for shard_id in rejects["shard"].unique().to_pylist():
            shard = self._shards[shard_id]
            here = rejects.filter(pc.equal(rejects["shard"], shard_id)).sort_by("row").to_pylist()
            yield "read"
            for records in read(shard, self._options, [_address(reject) for reject in here]):
                outcomes.append((yield from self._process(records)))
                yield "read"
        found = pa.concat_tables(outcomes)
        if found.num_rows != rejects.num_rows:
            raise RunError(f"{found.num_rows} of {rejects.num_rows} rejects found again; did a shard change?")
        return found


def _address(reject: Mapping[str, Any]) -> Missing:
    """Where to read a rejected record again."""
    row, offset = reject["row"], reject["offset"]
    # Only a walk that meets the other half first sees that this is not a whole record.
    return Missing(row, row, 0 if reject["type"] == "interleaved-members" else offset)
