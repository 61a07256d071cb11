"""OUTCOMES → parts and rejects on disk. Accepts any grouping and order of rows."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from time import monotonic

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmray.coverage import Interval, of_rows
from mmray.pipeline.ledger import FOOTER_KEY, Part
from mmray.pipeline.rundir import RunDirectory
from mmray.schema import EMPTY, REJECTS, OutputColumns, predictions, table
from mmray.storage import Location
from mmray.unread import Count, Tally

_PART_BYTES = 256 << 20  # a part is written from memory


def write_part(out: RunDirectory, outcomes: pa.Table, columns: OutputColumns) -> Part:
    """Write the rows of a table of OUTCOMES as one part, its rejects first."""
    unread = _unread(outcomes)
    errors = outcomes["error"].combine_chunks()
    empty = pc.fill_null(pc.equal(pc.struct_field(errors, "type"), EMPTY), False)
    coverage, totals = _coverage(outcomes.filter(pc.invert(empty)))
    for shard in outcomes.filter(empty)["shard"].to_pylist():
        coverage[shard], totals[shard] = [], 0
    outcomes = outcomes.filter(pc.invert(empty))
    failed = pc.is_valid(outcomes["error"])
    good = outcomes.filter(pc.invert(failed)).select(predictions(columns).names)
    return commit(out, good, to_rejects(outcomes.filter(failed)), coverage, totals, unread)


def commit(
    out: RunDirectory,
    predicted: pa.Table,
    rejects: pa.Table,
    coverage: Mapping[str, list[Interval]],
    totals: Mapping[str, int],
    unread: Mapping[str, Count] | None = None,
) -> Part:
    """Commit rows: their rejects and shard faults first, then the part.

    Each file is written atomically. The name is derived from the rows that they cover and from which of them
    are rejected, so a repeated task replaces its earlier files.

    Args:
        out: the run directory.
        predicted: rows of PREDICTIONS.
        rejects: rows of REJECTS, shard faults among them.
        coverage: which rows of which shards these are.
        totals: rows of those shards whose end was seen.
        unread: contents of the records that were not read, by kind.

    Raises:
        RunError: another run has taken the directory over.
    """
    kinds = zip(rejects["stage"].to_pylist(), rejects["type"].to_pylist(), strict=True)
    is_fault = pc.equal(rejects["stage"], "shard")
    faults, others = rejects.filter(is_fault), rejects.filter(pc.invert(is_fault))
    part = Part(
        name=_name(coverage, rejects),
        coverage=coverage,
        totals=totals,
        predicted=predicted.num_rows,
        rejects=Counter(f"{stage}/{kind}" for stage, kind in kinds),
        modalities=Counter("+".join(m) for m in predicted["modalities"].to_pylist()),
        faulty=faults["shard"].unique().to_pylist(),
        unread=unread or {},
        carried={
            name: predicted.num_rows - predicted[name].null_count
            for name in predicted.column_names
            if name.startswith("meta_")
        },
        abstained=predicted["abstained"].to_pylist().count(True)
        if "abstained" in predicted.column_names
        else 0,
    )
    out.check_lease()
    for place, why in ((out.rejects, others), (out.faults, faults)):
        if why.num_rows:
            (place / part.name).write_atomically(_to_parquet(why))
    (out.parts / part.name).write_atomically(_to_parquet(predicted, {FOOTER_KEY: part.to_footer()}))
    return part


class PartBuffer:
    """Collects OUTCOMES until a part is full: by rows, by bytes, or by the time since its first row."""

    def __init__(
        self, out: RunDirectory, columns: OutputColumns, part_rows: int, part_seconds: float
    ) -> None:
        self._out = out
        self._columns = columns
        self._part_rows = part_rows
        self._part_seconds = part_seconds
        self._tables: list[pa.Table] = []
        self._rows = self._bytes = 0
        self._since = 0.0

    def add(self, outcomes: pa.Table) -> Part | None:
        """Add rows; returns the part that they completed, if any."""
        if not self._tables:
            self._since = monotonic()
        self._tables.append(outcomes)
        self._rows += outcomes.num_rows
        self._bytes += outcomes.nbytes
        full = self._rows >= self._part_rows or self._bytes >= _PART_BYTES
        return self.close() if full or monotonic() - self._since >= self._part_seconds else None

    def close(self) -> Part | None:
        """Write the remaining rows, if any."""
        if not self._tables:
            return None
        part = write_part(self._out, pa.concat_tables(self._tables), self._columns)
        self._tables, self._rows, self._bytes = [], 0, 0
        return part


def _coverage(outcomes: pa.Table) -> tuple[dict[str, list[Interval]], dict[str, int]]:
    """Intervals of rows by shard, and the totals of shards whose last row is included."""
    rows: dict[str, list[tuple[int, int]]] = {}
    totals: dict[str, int] = {}
    columns = (outcomes[name].to_pylist() for name in ("shard", "row", "offset", "length", "end"))
    for shard, row, offset, length, end in zip(*columns, strict=True):
        rows.setdefault(shard, []).append((row, offset + length))
        if end:
            totals[shard] = row + 1
    return {shard: of_rows(rows[shard]) for shard in sorted(rows)}, totals


def _unread(outcomes: pa.Table) -> dict[str, Count]:
    """What was not read of some rows, by kind."""
    tally = Tally()
    some = outcomes.filter(pc.is_valid(outcomes["unread"])).select(["shard", "key", "unread"])
    for row in some.to_pylist():
        for kind in row["unread"]:
            tally.add(kind, f"{row['shard'].rpartition('@')[0]}: {row['key'][:100]}")
    return tally.counts


def _name(coverage: Mapping[str, list[Interval]], rejects: pa.Table) -> str:
    """File name of the part that covers these rows: readable, sortable, and unique."""
    shard, intervals = next(iter(coverage.items()))
    first = intervals[0].first if intervals else 0
    rejected = sorted(zip(rejects["shard"].to_pylist(), rejects["row"].to_pylist(), strict=True))
    digest = hashlib.sha256(json.dumps([coverage, rejected]).encode()).hexdigest()[:12]
    slug = re.sub(r"[^A-Za-z0-9]+", "-", shard.rpartition("@")[0].removesuffix(".tar"))[-40:].strip("-")
    return f"{slug}-{first:09d}-{digest}.parquet"


def to_rejects(failed: pa.Table) -> pa.Table:
    """OUTCOMES with an error → REJECTS."""
    errors = failed["error"].combine_chunks()
    why = {name: pc.struct_field(errors, name) for name in ("stage", "type", "reason")}
    return table({**{c: failed[c] for c in ("shard", "row", "key", "offset", "length")}, **why}, REJECTS)


def _to_parquet(rows: pa.Table, footer: Mapping[bytes, bytes] | None = None) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, rows.schema, compression="zstd", write_page_checksum=True) as writer:
        if rows.num_rows:  # `datasets` fails on a row group without rows
            writer.write_table(rows)
        # In the schema's metadata it would be stored twice.
        writer.add_key_value_metadata(footer or {})
    return sink.getvalue()


def read_parquet(place: Location) -> pa.Table:
    """Rows of a part or of its rejects.

    Raises:
        OSError: it is missing, or not as it was written.
    """
    # In this thread alone: one of Arrow's that lets go of Python's bytes while Python exits aborts the
    # process.
    file = pa.BufferReader(place.read_bytes())
    return pq.ParquetFile(file, page_checksum_verification=True).read(use_threads=False)


def read_rejects(out: RunDirectory, part: Part) -> pa.Table:
    """The rejects of a part, followed by its shard faults."""
    places = [out.rejects] * bool(part.rejected) + [out.faults] * bool(part.faults)
    return pa.concat_tables([REJECTS.empty_table(), *(read_parquet(place / part.name) for place in places)])
