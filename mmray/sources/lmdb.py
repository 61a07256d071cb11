"""An LMDB → Arrow blocks of RECORDS, in bounded memory.

Environments are on local disks, and mapped; how their records are laid out is told by the first entries (see
`layouts`). Rows are in the order of the keys. Offsets and lengths are entries, notes of the writer included.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import lmdb
import numpy as np
import pyarrow as pa

from mmray.coverage import WHOLE, Missing
from mmray.errors import InputError, RecordError
from mmray.schema import ERROR, RECORDS, VIEWS, error, table
from mmray.sources import captions, environment
from mmray.sources.blocks import empty_row, payload_column
from mmray.sources.captions import captions_beside
from mmray.sources.environment import Snapshot
from mmray.sources.layouts import LAYOUTS, Found, Layout, LayoutName, Payload, detect
from mmray.sources.names import texts_of
from mmray.sources.options import ReadOptions
from mmray.sources.shards import Shard

#: Of blocks that are made together, if they are small. Each row is two objects: with more rows the garbage
#: collector would be set off, some of whose rounds go over all that the process has.
_SHEET_ROWS, _SHEET_BYTES = 256, 1 << 20
_LARGEST = (1 << 30) - 1  # bytes of a value, and of a block before it: a column's are counted in int32


def read_lmdb(shard: Shard, options: ReadOptions, wanted: Sequence[Missing] = (WHOLE,)) -> Iterator[pa.Table]:
    """Yield the wanted rows of an LMDB as tables of RECORDS, or of VIEWS if the options say so, in order.

    Goes at once to where each gap starts, and touches no payload that is not wanted. Where no payload is
    asked for, values are not looked at: faults in them, their size included, are not found.

    Raises:
        OSError: the environment cannot be opened or read, or is not what it was when it was listed; its
            layout is not known, or its captions are not sorted. Anything wrong with one record is a row with
            an error.
    """
    try:
        with open_layout(shard, options) as (snapshot, layout):
            yield from _Reader(shard, snapshot, layout, options).read(wanted)
    except (InputError, lmdb.Error) as e:
        raise OSError(str(e)) from e


def layout_of(shard: Shard, options: ReadOptions | None = None) -> LayoutName:
    """How the records of an LMDB are laid out, from its first entries. An empty one counts as members.

    Raises:
        InputError: pickles, or no layout that is known; names what was seen.
        OSError: the environment cannot be opened.
    """
    options = options or ReadOptions()
    return detect(_open(shard, options), options)


@contextmanager
def open_layout(
    shard: Shard, options: ReadOptions, name: LayoutName | None = None, *, whole: bool = False
) -> Iterator[tuple[Snapshot, Layout]]:
    """What is in an LMDB, and how to read its records.

    Args:
        shard: the LMDB.
        options: how to read it.
        name: of its layout, where it need not be told from the first entries.
        whole: as of `Layout`.

    Raises:
        InputError, OSError: as `layout_of`.
    """
    snapshot = _open(shard, options)
    options = replace(options, member_bytes=min(options.member_bytes, _LARGEST))
    layout = LAYOUTS[name or detect(snapshot, options)]
    with captions.opened(captions_beside(Path(snapshot.path))) as lines:
        yield snapshot, layout(snapshot, options, lines, whole=whole)


def _open(shard: Shard, options: ReadOptions) -> Snapshot:
    state = re.search(r"@\d+(?:t(\d+))?$", shard.id)  # as listed; none of what a conversion reads back
    if shard.fault or (state and not state[1]):
        raise OSError(shard.fault or f"{shard.url}: could not be read when it was listed")
    snapshot = environment.opened(shard.open().path, options.database)
    if state and int(state[1]) != snapshot.transaction:
        raise OSError(
            f"{shard.url}: changed since the run was planned: transaction {snapshot.transaction}, was "
            f"{state[1]}; run again when its writer is done"
        )
    return snapshot


@dataclass
class _Rows:
    """Consecutive rows: where they are, what they hold and, by their place here, what is wrong with them."""

    found: list[Found] = field(default_factory=list)
    contents: list[dict[str, Payload]] = field(default_factory=list)
    errors: dict[int, dict[str, str]] = field(default_factory=dict)

    def parse(self, found: Found, layout: Layout) -> dict[str, Payload]:
        """What the next one holds."""
        try:
            return layout.contents(found)
        except RecordError as e:
            self.errors[len(self.found)] = error("read", e.kind, e.reason)
            return {}


class _Reader:
    """Goes over the records of an environment, and cuts them into blocks."""

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
        row = -1  # nowhere yet
        for gap in wanted:
            if row < 0 or gap.start:
                records, row = self._layout.group(gap.start), gap.first if gap.start else 0
            last = math.inf if gap.last is None else gap.last
            rows, size, full, end = _Rows(), 0, False, True
            for found in records:  # one more than is needed, to know the last row of a shard
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
            if rows.found:
                yield from self._blocks(rows, row, end=end)
        if row == 0:
            empty = empty_row(self._shard.id, "", len(self._snapshot))
            yield table({name: [value] for name, value in empty.items()}, self._schema)

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
                columns[name] = payload_column(values, self._snapshot, views=self._options.views)
        made = table(columns, self._schema)
        for at in range(0, count, self._options.block_rows):
            self._snapshot.check_unchanged()
            yield made.slice(at, self._options.block_rows)
