"""An LMDB → Arrow blocks of RECORDS, in bounded memory, each payload copied once, or not at all.

Environments are on local disks, and mapped; how their records are laid out is told by the first entries (see
`layouts`). Rows are in the order of the keys. Offsets and lengths are entries, notes of the writer included.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from mmray.coverage import WHOLE, Missing
from mmray.errors import InputError
from mmray.schema import ERROR, RECORDS, VIEWS, error, table
from mmray.sources import captions, environment
from mmray.sources.captions import captions_beside
from mmray.sources.cells import Cells
from mmray.sources.environment import Entries, Environment
from mmray.sources.layouts import Layout, LayoutName, detect, layout_named
from mmray.sources.names import Ints, Records, split_name, text_of
from mmray.sources.options import ReadOptions
from mmray.sources.shards import Shard

_SAMPLE_ENTRIES = 64  # that tell the layout
_STRETCH_ENTRIES = 4096  # whose keys are read ahead
_SHEET_ROWS = 256  # whose views are made together
_MAX_MEMBERS = 1 << 16  # entries of one record
_LARGEST = (1 << 30) - 1  # bytes of a value, and of a block before it: a column's are counted in int32


def read_lmdb(shard: Shard, options: ReadOptions, wanted: Sequence[Missing] = (WHOLE,)) -> Iterator[pa.Table]:
    """Yield the wanted rows of an LMDB as tables of RECORDS, or of VIEWS if the options say so, in order.

    Goes at once to where each gap starts, and touches no payload that is not wanted. Where no payload is
    asked for, values are not looked at: faults in them, their size included, are not found.

    Raises:
        OSError: the environment cannot be opened or read, its layout is not known, or its captions are not
            sorted; anything wrong with one record is a row with an error.
    """
    try:
        with _opened(shard, options) as (opened, layout):
            yield from _Walk(shard, opened, layout, options).read(wanted)
    except InputError as e:
        raise OSError(str(e)) from e


def layout_of(shard: Shard, options: ReadOptions | None = None) -> LayoutName:
    """How the records of an LMDB are laid out, from its first entries. An empty one counts as members.

    Raises:
        InputError: pickles, or no layout that is known; names what was seen.
        OSError: the environment cannot be opened.
    """
    path = shard.open().path
    with environment.opened(path) as opened:
        return _detect(opened, options or ReadOptions(), captioned=captions_beside(Path(path)).exists())


@contextmanager
def _opened(shard: Shard, options: ReadOptions) -> Iterator[tuple[Environment, Layout]]:
    path = shard.open().path
    beside = captions_beside(Path(path))
    with ExitStack() as stack:
        opened = stack.enter_context(environment.opened(path))
        options = replace(options, member_bytes=min(options.member_bytes, _LARGEST))
        name = _detect(opened, options, captioned=beside.exists())
        lines = stack.enter_context(captions.opened(beside)) if name == "images" else None
        yield opened, layout_named(name, options, lines)


def _detect(opened: Environment, options: ReadOptions, *, captioned: bool) -> LayoutName:
    for start in range(0, len(opened), _SAMPLE_ENTRIES):
        # At first as many as are read first, so that they need not be found twice.
        count = _SAMPLE_ENTRIES if start else _STRETCH_ENTRIES
        entries = opened.entries(start, start + count).part(0, _SAMPLE_ENTRIES)
        try:
            if name := detect(entries, options, captioned=captioned):
                return name
        except InputError as e:
            raise InputError(f"{opened.path}: {e}") from e
    return "members"


@dataclass(frozen=True)
class _Position:
    """Where a record begins that is to be read next."""

    entry: int
    row: int
    before: bytes = b""  # key of the entry before it


@dataclass(frozen=True)
class _Stretch:
    """Consecutive entries, from a position on, and the records among them."""

    begin: _Position
    entries: Entries
    records: Records
    rows: int  # records that are whole
    ended: bool  # whether these are the last entries

    @cached_property
    def _held(self) -> Ints:
        """Bytes of the values up to that of each entry."""
        return np.cumsum(self.entries.sizes)

    def row_holding(self, first: int, size: int) -> int:
        """The row with which those from `first` on have values of this many bytes."""
        entry = int(self.records.first[first])
        before = int(self._held[entry - 1]) if entry else 0
        full = np.searchsorted(self._held, before + size)
        return int(np.searchsorted(self.records.first, full, side="right")) - 1

    def after(self, rows: int) -> _Position:
        """Where one is after that many of its records."""
        count = len(self.entries)
        if rows < len(self.records):
            entry = int(self.records.first[rows])
        else:
            entry = count if self.ended else count - 1
        before = self.entries.name(entry - 1) if entry else self.begin.before
        return _Position(self.begin.entry + entry, self.begin.row + rows, before)


@dataclass(frozen=True)
class _Sheet:
    """Some blocks together, of about `block_bytes`: views are made by calls that cost as much for a few."""

    cells: Cells
    table: pa.Table  # of VIEWS


class _Walk:
    """Goes over the records of an environment: a stretch at a time by keys, then block by block by values."""

    def __init__(self, shard: Shard, opened: Environment, layout: Layout, options: ReadOptions) -> None:
        self._shard = shard
        self._environment = opened
        self._layout = layout
        self._options = options
        self._block_bytes = min(options.block_bytes, _LARGEST)
        self._first_names: dict[bytes, bytes] = {}
        self._sheet_rows = options.block_rows * max(1, _SHEET_ROWS // options.block_rows)
        self._shard_ids = pa.repeat(pa.scalar(shard.id), self._sheet_rows)

    def read(self, wanted: Sequence[Missing]) -> Iterator[pa.Table]:
        at, entries = _Position(0, 0), len(self._environment)
        for gap in wanted:
            if gap.start:
                at = self._position(gap.start, gap.first)
            while at.entry < entries and (gap.last is None or at.row <= gap.last):
                stretch = self._stretch(at, gap.last)
                first = min(stretch.rows, max(0, gap.first - at.row))
                last = stretch.rows if gap.last is None else min(stretch.rows, gap.last + 1 - at.row)
                while first < last:
                    stop = min(last, first + self._sheet_rows)
                    if self._options.payload:
                        stop = min(stop, stretch.row_holding(first, self._block_bytes) + 1)
                    yield from self._blocks(self._sheet(stretch, first, stop))
                    first = stop
                at = stretch.after(last)
        if at.entry >= entries and at.row == 0:
            yield self._empty_shard()

    def _position(self, entry: int, row: int) -> _Position:
        before = self._environment.entries(entry - 1, entry).names.to_pylist()
        return _Position(entry, row, *before)

    def _stretch(self, begin: _Position, last: int | None) -> _Stretch:
        """Entries from a position on: as many as hold a whole record, and about those up to row `last`.

        The last record may go on behind them, so it is left for the next stretch.
        """
        environment = self._environment
        count = _STRETCH_ENTRIES if last is None else min(_STRETCH_ENTRIES, 8 * (last - begin.row + 2))
        while True:
            entries = environment.entries(begin.entry, begin.entry + count)
            ended = begin.entry + count >= len(environment)
            records = self._layout.group(entries.names, begin.before)
            rows = len(records) if ended else max(0, len(records) - 1)
            stretch = _Stretch(begin, entries, records, rows, ended)
            if stretch.after(rows).entry > begin.entry:
                return stretch
            if count >= _MAX_MEMBERS:
                raise OSError(
                    f"{environment.path}: more than {_MAX_MEMBERS} entries are one record, from key "
                    f"{entries.name(0)!r} on; rewrite it with a key for each record"
                )
            count = min(_MAX_MEMBERS, 8 * count)

    def _sheet(self, stretch: _Stretch, low: int, high: int) -> _Sheet:
        """The records from `low` to before `high` of a stretch."""
        records = stretch.records.part(low, high)
        begin = int(stretch.records.first[low])
        entries = stretch.entries.part(begin, begin + int(records.stop[-1]))
        cells = self._layout.cells(entries if self._options.payload else entries.emptied(), records)
        self._fail_torn(cells, entries, records)
        cells = cells.sound()
        rows = len(records)
        row = stretch.begin.row + low
        entry = stretch.begin.entry + begin
        end = np.zeros(rows, bool)
        end[-1] = stretch.ended and high == len(stretch.records)
        columns = {
            "shard": self._shard_ids[:rows],
            "row": pa.array(np.arange(row, row + rows)),
            "end": pa.array(end),
            "key": records.keys,
            "offset": pa.array(entry + records.first),
            "length": pa.array(records.stop - records.first),
        }
        if cells.errors:
            columns["error"] = pa.array([cells.errors.get(i) for i in range(rows)], ERROR)
        if self._options.payload:
            columns |= cells.to_columns(self._environment.source)
        return _Sheet(cells, table(columns, VIEWS))

    def _blocks(self, sheet: _Sheet) -> Iterator[pa.Table]:
        """Its rows, cut into blocks."""
        held = np.cumsum(sheet.cells.row_bytes())
        first, rows = 0, len(held)
        while first < rows:
            self._environment.check_unchanged()
            before = int(held[first - 1]) if first else 0
            full = int(np.searchsorted(held, before + self._block_bytes)) + 1
            stop = min(rows, full, first + self._options.block_rows)
            block = sheet.table.slice(first, stop - first)
            if self._options.views:
                self._environment.read_ahead(*sheet.cells.of_rows(first, stop))
            yield block if self._options.views else block.cast(RECORDS)
            first = stop

    def _fail_torn(self, cells: Cells, entries: Entries, records: Records) -> None:
        """Fail records whose key has entries before them already, with others' in between."""
        for row in records.doubtful:
            name = entries.name(int(records.first[row]))
            key, _ = split_name(name)
            if key not in self._first_names:
                if len(self._first_names) >= _STRETCH_ENTRIES:
                    self._first_names.clear()
                others = (other for other, _ in self._environment.walk(self._environment.find(key + b".")))
                same = (other for other in others if split_name(other)[1] and split_name(other)[0] == key)
                self._first_names[key] = next(same, name)
            if self._first_names[key] != name:
                reason = (
                    f"members of this key lie apart: entries in the folder {text_of(key)}.… lie between them"
                )
                cells.fail(row, "interleaved-members", f"{reason}; rename that folder")

    def _empty_shard(self) -> pa.Table:
        entries = len(self._environment)
        address = {"shard": self._shard.id, "row": 0, "end": True, "key": "", "offset": 0, "length": entries}
        fault = error("read", "shard-empty", "the shard holds no records")
        columns = {**{name: [value] for name, value in address.items()}, "error": [fault]}
        return table(columns, VIEWS if self._options.views else RECORDS)
