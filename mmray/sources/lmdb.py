"""An LMDB → Arrow blocks of RECORDS, in bounded memory.

Environments are on local disks and memory-mapped; the first entries decide the layout of records (see
`layouts` and `foreign`). Rows are in the order of the keys. Offsets and lengths count entries, notes of the
writer included.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import NoReturn

import numpy as np
import pyarrow as pa

from mmray.coverage import WHOLE, Missing
from mmray.errors import InputError, RecordError, ShardError
from mmray.schema import ERROR, RECORDS, VIEWS, error, table
from mmray.sources import captions, environment
from mmray.sources.blocks import beside_column, empty_row, new_row, payload_column
from mmray.sources.captions import captions_beside
from mmray.sources.environment import Snapshot
from mmray.sources.foreign import LAYOUTS, AnyLayout, detect
from mmray.sources.layouts import Contents, Found, Layout
from mmray.sources.lmdb_check import Checked, check_all, is_damage
from mmray.sources.names import texts_of
from mmray.sources.options import ReadOptions
from mmray.sources.shards import Shard

#: Rows of small blocks that are made together. Each row is two objects: with more rows the garbage collector
#: would start, and some of its rounds visit all objects of the process.
_SHEET_ROWS, _SHEET_BYTES = 256, 1 << 20
_LARGEST = (1 << 30) - 1  # bytes of a value, and of a block before it: a column's offsets are int32


def read_lmdb(shard: Shard, options: ReadOptions, wanted: Sequence[Missing] = (WHOLE,)) -> Iterator[pa.Table]:
    """Yield the wanted rows of an LMDB as tables of RECORDS, or of VIEWS if the options say so, in order.

    Seeks to the start of each gap, and reads no payload of other rows. If no payload is requested, values are
    not examined: faults in them, their size included, are not found.

    Raises:
        OSError: the environment cannot be opened, or has changed since it was listed; its layout is unknown,
            or its captions are not sorted. Anything wrong with one record is a row with an error. So is
            damage: one row in place of all that follow.
    """
    try:
        with open_layout(shard, options) as (snapshot, layout):
            yield from _Reader(shard, snapshot, layout, options).read(wanted)
    except ShardError as e:  # found when it was listed or opened
        if wanted[0].first == 0:
            yield _faults(shard, range(1), 0, e, options, end=True)
    except InputError as e:
        raise OSError(str(e)) from e


def layout_of(shard: Shard, options: ReadOptions | None = None) -> AnyLayout:
    """The layout of an LMDB, from its first entries. An empty one counts as members.

    Raises:
        InputError: pickles, or an unknown layout; names what was found.
        OSError: the environment cannot be opened, or is damaged.
    """
    options = options or ReadOptions()
    try:
        return detect(_open(shard, options), options)
    except ShardError as e:
        raise OSError(f"{shard.url}: {e.reason}") from e


@contextmanager
def open_layout(
    shard: Shard, options: ReadOptions, name: AnyLayout | None = None, *, whole: bool = False
) -> Iterator[tuple[Snapshot, Layout]]:
    """A snapshot of an LMDB, and its layout.

    Args:
        shard: the LMDB.
        options: how to read it.
        name: of its layout; None: decided by the first entries.
        whole: as in `Layout`.

    Raises:
        InputError: as `layout_of`.
        OSError: it cannot be opened.
        ShardError: it is damaged.
    """
    snapshot = _open(shard, options)
    options = replace(options, member_bytes=min(options.member_bytes, _LARGEST))
    layout = LAYOUTS[name or detect(snapshot, options)]
    with captions.opened(captions_beside(Path(snapshot.path))) as lines:
        yield snapshot, layout(snapshot, options, lines, whole=whole)


def _open(shard: Shard, options: ReadOptions) -> Snapshot:
    state = re.search(r"@\d+(?:t(\d+))?$", shard.id)  # as listed; none when a conversion reads back
    if shard.fault or (state and not state[1]):
        _refuse(shard)
    snapshot = environment.opened(shard.open().path, options.database)
    if state and int(state[1]) != snapshot.transaction:
        raise OSError(
            f"{shard.url}: changed since the run was planned: transaction {snapshot.transaction}, was "
            f"{state[1]}; run again when its writer has finished"
        )
    return snapshot


def _refuse(shard: Shard) -> NoReturn:
    """Raise why an LMDB that could not be read when it was listed cannot be read. A plan has no reason."""
    (checked,) = [Checked(0, shard.fault)] if shard.fault else check_all([shard.open().path])
    fault = checked.fault or "could not be read when it was listed, but can be now; run again"
    if is_damage(fault):
        raise ShardError(fault)
    raise OSError(fault if shard.fault else f"{shard.url}: {fault}")


def _faults(
    shard: Shard, rows: range, offset: int, damage: ShardError, options: ReadOptions, *, end: bool
) -> pa.Table:
    """Rows lost to damage at an entry. A single row represents an unknown number."""
    fields = {"end": end, "error": error("shard", damage.kind, damage.reason)}
    lost = [new_row(shard.id, row, "", offset, 0) | fields for row in rows]
    schema = VIEWS if options.views else RECORDS
    return table({name: [row[name] for row in lost] for name in RECORDS.names}, schema)


@dataclass
class _Rows:
    """Consecutive rows: their positions, contents and, by index, faults."""

    found: list[Found] = field(default_factory=list)
    contents: list[Contents] = field(default_factory=list)
    errors: dict[int, dict[str, str]] = field(default_factory=dict)

    def parse(self, found: Found, layout: Layout) -> Contents:
        """Contents of the next row."""
        try:
            return layout.contents(found)
        except RecordError as e:
            self.errors[len(self.found)] = error("read", e.kind, e.reason)
            return {}


class _Reader:
    """Iterates over the records of an environment, and cuts them into blocks."""

    def __init__(self, shard: Shard, snapshot: Snapshot, layout: Layout, options: ReadOptions) -> None:
        self._shard = shard
        self._snapshot = snapshot
        self._layout = layout
        self._options = options
        self._schema = VIEWS if options.views else RECORDS
        self._sheet_rows = options.block_rows * max(1, _SHEET_ROWS // options.block_rows)
        self._shard_ids = pa.repeat(pa.scalar(shard.id), self._sheet_rows)

    def read(self, wanted: Sequence[Missing]) -> Iterator[pa.Table]:
        block_rows, block_bytes = self._options.block_rows, min(self._options.block_bytes, _LARGEST)
        sheet_bytes, sheet_rows = min(_SHEET_BYTES, block_bytes), self._sheet_rows
        records: Iterator[Found] = iter(())
        row = -1  # no position yet
        for gap in wanted:
            if row < 0 or gap.start:
                records, row = self._layout.group(gap.start), gap.first if gap.start else 0
            last = math.inf if gap.last is None else gap.last
            rows, size, full, end = _Rows(), 0, False, True
            stop, damage = gap.start, None
            try:
                for found in records:  # one more than needed, to recognize the last row of a shard
                    if row > last:
                        records, end = chain([found], records), False
                        break
                    if full:
                        yield from self._blocks(rows, row, end=False)
                        rows, size, full = _Rows(), 0, False
                    row += 1
                    if row <= gap.first:
                        continue
                    contents = found[3] if isinstance(found[3], dict) else rows.parse(found, self._layout)
                    rows.found.append(found)
                    rows.contents.append(contents)
                    for value in contents.values():
                        size += len(value)
                    count = len(rows.found)
                    full = count == sheet_rows or (
                        size >= sheet_bytes and (size >= block_bytes or count % block_rows == 0)
                    )
            except ShardError as e:
                damage, end = e, False
            if rows.found:
                stop = rows.found[-1][2]
                yield from self._blocks(rows, row, end=end)
            if damage:
                yield from self._lost(damage, max(row, gap.first), gap.last, stop)
                records, row = iter(()), -1  # a later gap is searched separately
        if row == 0:
            empty = empty_row(self._shard.id, "", len(self._snapshot))
            yield table({name: [value] for name, value in empty.items()}, self._schema)

    def _lost(self, damage: ShardError, first: int, last: int | None, offset: int) -> Iterator[pa.Table]:
        """Rows lost from one on: as many as are known to be wanted, or one for all that follow."""
        rows = range(first, first + 1 if last is None else last + 1)
        for at in range(0, len(rows), self._options.block_rows):
            some = rows[at : at + self._options.block_rows]
            yield _faults(self._shard, some, offset, damage, self._options, end=last is None)

    def _blocks(self, rows: _Rows, stop: int, *, end: bool) -> Iterator[pa.Table]:
        """Rows up to before row `stop` as blocks. Arrow makes a table of 256 rows as fast as one of 64."""
        keys, first, past, _ = zip(*rows.found, strict=True)
        count = len(keys)
        offsets, stops = (np.fromiter(entries, np.int64, count) for entries in (first, past))
        ends = np.zeros(count, bool)
        ends[-1] = end
        columns = {
            "shard": self._shard_ids[:count],
            "row": pa.array(np.arange(stop - count, stop)),
            "end": pa.array(ends),
            "key": texts_of(keys),
            "offset": pa.array(offsets),
            "length": pa.array(stops - offsets),
        }
        if rows.errors:
            columns["error"] = pa.array([rows.errors.get(i) for i in range(count)], ERROR)
        if self._options.payload:
            for name in set().union(*rows.contents):
                values = [contents.get(name) for contents in rows.contents]
                if name in ("fields", "unread"):
                    columns[name] = beside_column(name, values)
                    continue
                columns[name] = payload_column(values, self._snapshot, views=self._options.views)
        made = table(columns, self._schema)
        for at in range(0, count, self._options.block_rows):
            self._snapshot.check_unchanged()
            yield made.slice(at, self._options.block_rows)
