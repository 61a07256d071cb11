"""The workers of CPU nodes: one for each CPU does every stage of its unit. No copies between processes."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mmray.coverage import Missing
from mmray.errors import RunError
from mmray.pipeline import memory
from mmray.pipeline.job import Job, count
from mmray.pipeline.ledger import Part
from mmray.pipeline.liveness import AHEAD, MeterHandle, Reporter, beginning, places_of
from mmray.pipeline.plan import Unit
from mmray.pipeline.sink import PartBuffer, commit, read_parquet, read_rejects, to_rejects
from mmray.pipeline.snapshot import START
from mmray.pipeline.survey import read_options
from mmray.pipeline.timing import drain, measured, timed
from mmray.schema import predictions
from mmray.sources import Shard, read
from mmray.sources.readahead import readahead

_PLACE = ["row", "key", "offset", "length"]  # columns that identify a record
_ABOUT = pa.schema([("part", pa.string()), ("rows", pa.int64()), ("rejects", pa.int64())])


class FusedWorker:
    """A unit of work → its parts, and a row about each. Reads, preprocesses, infers and writes.

    No rows are kept between calls: they would be lost with the actor, but count as done.
    """

    def __init__(self, job: Job, meter: MeterHandle) -> None:
        self._report = Reporter(meter, job.config.stall_s)
        with self._report.working(START):
            self._job = job
            self._options = replace(read_options(job.config), views=True)
            self._preprocess = job.open_preprocessor()
            self._predict = job.open_predictor()
            self._later = job.later()
            self._canary = job.open_canary()
        if job.memory_bytes:
            memory.bound(job.memory_bytes)

    def __call__(self, work: pa.Table) -> Iterator[pa.Table]:
        piece = pickle.loads(work["work"][0].as_py())
        yield pa.Table.from_pylist([_about(part) for part in self.process(piece)], _ABOUT)

    def process(self, unit: Unit) -> Iterator[Part]:
        """Process a unit; afterwards its rows are in parts."""
        job, seconds = self._job, Counter[str]()
        buffer = PartBuffer(job.out, self._predict.columns, job.part_rows, job.config.part_seconds)
        self._report.sure = unit[0].suspect
        with self._report.working("read", beginning(unit, self._options.block_rows)):
            fail = self._report.meter.fail.remote
            for records in timed(readahead(job.records(unit, self._options, fail)), seconds, "read"):
                outcomes = self._outcomes(records)
                self._report.enter("write")
                with measured(seconds, "write"):
                    part = buffer.add(outcomes)
                self._tell(outcomes, seconds)
                if part:
                    yield part
                if self._report.is_leaving():  # the rest of the unit is for the next pass
                    break
                self._report.enter("read")
            self._report.enter("write")
            if part := buffer.close():
                yield part

    def _outcomes(self, records: pa.Table) -> pa.Table:
        self._report.enter("preprocess", places_of(records, ahead=AHEAD * self._options.block_rows))
        tensors = self._preprocess(records, self._later)
        self._report.enter("model")
        outcomes = self._predict(tensors, self._preprocess.complete)
        if self._canary:
            self._predict.counts.update(self._canary.compare(records, outcomes))
        return outcomes

    def _tell(self, outcomes: pa.Table, seconds: Counter[str] | None = None) -> None:
        """Report counts to the meter."""
        predict = self._predict
        counters = self._preprocess.seconds, predict.seconds, predict.counts, seconds or Counter()
        self._report.add({**count(outcomes), **drain(*counters)}, seen=predict.take_drift())
        drain(*predict.occupied)
        self._job.heed_shift(predict, self._report)


class RetryWorker(FusedWorker):
    """The rejects of a part → a new part, each record by its byte offset.

    A part with fewer rejects than before is written as a new file, then the old one is deleted. The part with
    more predictions counts (see `Ledger.of`), so a crash in between neither loses nor duplicates rows.
    """

    def __init__(self, job: Job, meter: MeterHandle, shards: Mapping[str, Shard]) -> None:
        super().__init__(job, meter)
        self._shards = shards

    def process(self, name: str) -> Iterator[Part]:  # type: ignore[override]  # a part is the unit here
        """Process the rejects of the part of this file name."""
        out = self._job.out
        with self._report.working("read"):
            part = Part.read(out.parts / name)
            if part is None:
                raise RunError(
                    f"{out}: parts/{name} was deleted during the retry; run the same command again"
                )
            before = read_rejects(out, part)
            is_fault = pc.equal(before["stage"], "shard")  # that stays so until the shard changes
            outcomes = self._reread(before.filter(pc.invert(is_fault)))
            failed = pc.is_valid(outcomes["error"])
            good = outcomes.filter(pc.invert(failed)).select(predictions(self._predict.columns).names)
            rows = pa.concat_tables([read_parquet(out.parts / name), good]).sort_by(
                [("shard", "ascending"), ("row", "ascending")]
            )
            rejects = pa.concat_tables([to_rejects(outcomes.filter(failed)), before.filter(is_fault)])
            self._report.enter("write")
            yield commit(out, rows, rejects, part.coverage, part.totals, part.unread)
            self._tell(outcomes)

    def _reread(self, rejects: pa.Table) -> pa.Table:
        """OUTCOMES of the rejected records, one for each.

        Raises:
            RunError: another record is at the place of a rejected one.
        """
        outcomes = []
        for shard_id in rejects["shard"].unique().to_pylist():
            shard = self._shards[shard_id]
            here = rejects.filter(pc.equal(rejects["shard"], shard_id)).sort_by("row").to_pylist()
            again = []
            for records in read(shard, self._options, [_address(reject) for reject in here]):
                again += records.select(_PLACE).to_pylist()
                outcomes.append(self._outcomes(records))
                self._report.move()
            if again != [{name: reject[name] for name in _PLACE} for reject in here]:
                raise RunError(
                    f"{shard.name}: its rejected records have moved, so it changed; "
                    "nothing of it was retried; process it again with `mmray run --accept-changes`"
                )
        return pa.concat_tables(outcomes)


def _about(part: Part) -> dict[str, Any]:
    return {"part": part.name, "rows": part.rows, "rejects": part.rejected}


def _address(reject: Mapping[str, Any]) -> Missing:
    """Where to read a rejected record again."""
    row, offset = reject["row"], reject["offset"]
    # Only a scan that meets the other half first sees that this record is incomplete.
    return Missing(row, row, 0 if reject["type"] == "interleaved-members" else offset)
