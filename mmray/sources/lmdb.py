"""An LMDB → Arrow blocks of RECORDS, in bounded memory.

Environments are on local disks, and mapped; how their records are laid out is told by the first entries (see
`layouts`). Rows are in the order of the keys. Offsets and lengths are entries, notes of the writer included.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmray.coverage import WHOLE, Missing
from mmray.errors import InputError, RecordError
from mmray.schema import ERROR, RECORDS, VIEWS, error, table
from mmray.sources import captions, environment
from mmray.sources.blocks import payload_column
from mmray.sources.captions import captions_beside
from mmray.sources.environment import Snapshot
from mmray.sources.layouts import LAYOUTS, Found, Layout, LayoutName, Payload, detect
from mmray.sources.names import texts_of
from mmray.sources.options import ReadOptions
from mmray.sources.shards import Shard

_SHEET_ROWS, _SHEET_BYTES = 256, 1 << 20  # of blocks that are made together, if they are small
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
    captioned = captions_beside(Path(shard.open().path)).exists()
    return detect(_open(shard, options), options, captioned=captioned)


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
    beside = captions_beside(Path(snapshot.path))
    name = name or detect(snapshot, options, captioned=beside.exists())
    with captions.opened(beside) if name == "images" else nullcontext() as lines:
        yield snapshot, LAYOUTS[name](snapshot, options, lines, whole=whole)


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
    contents: list[Mapping[str, Payload]] = field(default_factory=list)
    errors: dict[int, dict[str, str]] = field(default_factory=dict)


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
        records: Iterator[Found] | None = None
        row = 0
        following: Found | None = None  # one is read ahead, to know the last row of a shard
        for gap in wanted:
            if records is None or gap.start:
                records, row = self._layout.group(gap.start), gap.first if gap.start else 0
                following = next(records, None)
            rows, size = _Rows(), 0
            while following is not None and (gap.last is None or row <= gap.last):
                found, following = following, next(records, None)
                row += 1
                if row <= gap.first:
                    continue
                try:
                    contents = self._layout.contents(found)
                except RecordError as e:
                    contents = {}
                    rows.errors[len(rows.found)] = error("read", e.kind, e.reason)
                rows.found.append(found)
                rows.contents.append(contents)
                for value in contents.values():
                    size += len(value)
                full = size >= sheet_bytes and (size >= block_bytes or len(rows.found) % block_rows == 0)
                if full or len(rows.found) == sheet_rows:
                    yield from self._blocks(rows, row, end=following is None)
                    rows, size = _Rows(), 0
            if rows.found:
                yield from self._blocks(rows, row, end=following is None)
        if row == 0:
            yield self._empty_shard()

    def _blocks(self, rows: _Rows, stop: int, *, end: bool) -> Iterator[pa.Table]:
        """Rows up to before row `stop` as blocks. Arrow makes a table of 256 rows as fast as one of 64."""
        keys, first, past, _ = zip(*rows.found, strict=True)
        count = len(keys)
        offsets = pa.array(first, pa.int64())
        ends = np.zeros(count, bool)
        ends[-1] = end
        columns = {
            "shard": self._shard_ids[:count],
            "row": pa.array(np.arange(stop - count, stop)),
            "end": pa.array(ends),
            "key": texts_of(keys),
            "offset": offsets,
            "length": pc.subtract(pa.array(past, pa.int64()), offsets),
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

    def _empty_shard(self) -> pa.Table:
        entries = len(self._snapshot)
        address = {"shard": self._shard.id, "row": 0, "end": True, "key": "", "offset": 0, "length": entries}
        fault = error("read", "shard-empty", "the shard holds no records")
        return table({**{name: [value] for name, value in address.items()}, "error": [fault]}, self._schema)
