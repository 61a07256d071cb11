"""An LMDB → Arrow blocks of RECORDS, in bounded memory, each payload copied once.

Environments are on local disks, and mapped; how their records are laid out is told by the first entries (see
`layouts`). Rows are in the order of the keys. Offsets and lengths are entries, notes of the writer included.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from mmray.coverage import WHOLE, Missing
from mmray.errors import InputError
from mmray.schema import ERROR, RECORDS, error, table
from mmray.sources import captions, environment
from mmray.sources.cells import Cells
from mmray.sources.environment import Environment
from mmray.sources.layouts import Layout, LayoutName, detect, layout_named
from mmray.sources.names import Records, is_note, split_name, text_of
from mmray.sources.options import ReadOptions
from mmray.sources.shards import Shard

_SAMPLE_ENTRIES = 64  # that tell the layout
_STRETCH_ENTRIES = 4096  # whose keys are read ahead
_MAX_MEMBERS = 1 << 16  # entries of one record
_LARGEST = (1 << 30) - 1  # bytes of a value, and of a block before it: a column's are counted in int32


def read_lmdb(shard: Shard, options: ReadOptions, wanted: Sequence[Missing] = (WHOLE,)) -> Iterator[pa.Table]:
    """Yield the wanted rows of an LMDB as tables of RECORDS, in order.

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
    with environment.opened(shard.open().path) as opened:
        return _detect(opened, options or ReadOptions(), captioned=_captions(shard).exists())


@contextmanager
def _opened(shard: Shard, options: ReadOptions) -> Iterator[tuple[Environment, Layout]]:
    with ExitStack() as stack:
        opened = stack.enter_context(environment.opened(shard.open().path))
        options = replace(options, member_bytes=min(options.member_bytes, _LARGEST))
        name = _detect(opened, options, captioned=_captions(shard).exists())
        lines = stack.enter_context(captions.opened(_captions(shard))) if name == "images" else None
        yield opened, layout_named(name, options, lines)


def _captions(shard: Shard) -> Path:
    return captions.captions_beside(Path(shard.open().path))


def _detect(opened: Environment, options: ReadOptions, *, captioned: bool) -> LayoutName:
    at = 0
    while (name := opened.name_at(at)) is not None:
        names = opened.names(name, _SAMPLE_ENTRIES)
        entries = [i for i, found in enumerate(names) if not is_note(found)]
        if entries:
            with opened.values(name, len(names)) as values:
                shown = [values[i] for i in entries]
                try:
                    return detect([names[i] for i in entries], shown, options, captioned=captioned)
                except InputError as e:
                    raise InputError(f"{opened.path}: {e}") from e
        at += len(names)
    return "members"


@dataclass(frozen=True)
class _Position:
    """Where a record begins that is to be read next."""

    entry: int
    row: int
    name: bytes | None  # key of the entry; None at the end of the environment
    before: bytes = b""  # key of the entry before it


@dataclass(frozen=True)
class _Stretch:
    """Consecutive entries, from a position on, and the records among them."""

    begin: _Position
    names: list[bytes]
    records: Records
    rows: int  # records that are whole
    ended: bool  # whether these are the last entries

    def after(self, rows: int) -> _Position:
        """Where one is after that many of its records."""
        if rows < len(self.records):
            entry = int(self.records.first[rows])
        else:
            entry = len(self.names) if self.ended else len(self.names) - 1
        return _Position(
            self.begin.entry + entry,
            self.begin.row + rows,
            self.names[entry] if entry < len(self.names) else None,
            self.names[entry - 1] if entry else self.begin.before,
        )


class _Walk:
    """Goes over the records of an environment: a stretch at a time by keys, then block by block by values."""

    def __init__(self, shard: Shard, opened: Environment, layout: Layout, options: ReadOptions) -> None:
        self._shard = shard
        self._environment = opened
        self._layout = layout
        self._options = options
        self._block_bytes = min(options.block_bytes, _LARGEST)
        self._first_names: dict[bytes, bytes] = {}
        # Columns that are the same in most blocks are made once, and cut.
        self._shard_ids = pa.repeat(pa.scalar(shard.id), options.block_rows)
        self._not_ended = pa.repeat(pa.scalar(False), options.block_rows)
        self._no_errors = pa.nulls(options.block_rows, ERROR)

    def read(self, wanted: Sequence[Missing]) -> Iterator[pa.Table]:
        at = self._position(0, 0)
        for gap in wanted:
            if gap.start:
                at = self._position(gap.start, gap.first)
            while at.name is not None and (gap.last is None or at.row <= gap.last):
                stretch = self._stretch(at, gap.last)
                first = min(stretch.rows, max(0, gap.first - at.row))
                last = stretch.rows if gap.last is None else min(stretch.rows, gap.last + 1 - at.row)
                while first < last:
                    block = self._block(stretch, first, min(last, first + self._options.block_rows))
                    yield block
                    first += block.num_rows
                at = stretch.after(last)
        if at.name is None and at.row == 0:
            yield self._empty_shard()

    def _position(self, entry: int, row: int) -> _Position:
        environment = self._environment
        before = environment.name_at(entry - 1) if entry else None
        return _Position(entry, row, environment.name_at(entry), before or b"")

    def _stretch(self, begin: _Position, last: int | None) -> _Stretch:
        """Entries from a position on: as many as hold a whole record, and about those up to row `last`.

        The last record may go on behind them, so it is left for the next stretch.
        """
        assert begin.name is not None
        count = _STRETCH_ENTRIES if last is None else min(_STRETCH_ENTRIES, 8 * (last - begin.row + 2))
        while True:
            names = self._environment.names(begin.name, count)
            ended = len(names) < count or begin.entry + count == self._environment.header.entries
            records = self._layout.group(names, begin.before)
            rows = len(records) if ended else max(0, len(records) - 1)
            stretch = _Stretch(begin, names, records, rows, ended)
            if stretch.after(rows).entry > begin.entry:
                return stretch
            if count >= _MAX_MEMBERS:
                raise OSError(
                    f"{self._environment.path}: more than {_MAX_MEMBERS} entries are one record, from key "
                    f"{begin.name!r} on; rewrite it with a key for each record"
                )
            count = min(_MAX_MEMBERS, 8 * count)

    def _block(self, stretch: _Stretch, low: int, high: int) -> pa.Table:
        """The records from `low` to before `high` of a stretch, or as many of them as a block takes."""
        records = stretch.records.part(low, high)
        begin = int(stretch.records.first[low])
        names = stretch.names[begin : begin + int(records.stop[-1])]
        with self._values(names) as values:
            cells = self._layout.cells(names, values, records)
            self._fail_torn(cells, names, records)
            cells = cells.sound()
            rows = cells.rows_within(self._block_bytes)
            if rows == len(records):
                payload = cells.to_columns() if self._options.payload else {}
                return self._table(stretch, low, records, cells, payload)
        return self._block(stretch, low, low + rows)

    def _values(self, names: list[bytes]) -> AbstractContextManager[Sequence[memoryview]]:
        """The values of consecutive keys; empty ones where no payload is asked for: even to ask for a large
        value's size reads one of its pages.
        """
        if self._options.payload:
            return self._environment.values(names[0], len(names))
        return nullcontext([memoryview(b"")] * len(names))

    def _table(
        self, stretch: _Stretch, low: int, records: Records, cells: Cells, payload: dict[str, pa.Array]
    ) -> pa.Table:
        """A block of the records from `low` on."""
        rows = len(records)
        row = stretch.begin.row + low
        entry = stretch.begin.entry + int(stretch.records.first[low])
        ends = stretch.ended and low + rows == len(stretch.records)
        errors = [cells.errors.get(i) for i in range(rows)] if cells.errors else None
        columns = {
            "shard": self._shard_ids[:rows],
            "row": pa.array(np.arange(row, row + rows)),
            "end": pa.array([False] * (rows - 1) + [True]) if ends else self._not_ended[:rows],
            "key": records.keys,
            "offset": pa.array(entry + records.first),
            "length": pa.array(records.stop - records.first),
            "error": pa.array(errors, ERROR) if errors else self._no_errors[:rows],
            **payload,
        }
        return table(columns, RECORDS)

    def _fail_torn(self, cells: Cells, names: list[bytes], records: Records) -> None:
        """Fail records whose key has entries before them already, with others' in between."""
        for row in records.doubtful:
            name = names[records.first[row]]
            key, _ = split_name(name)
            if key not in self._first_names:
                if len(self._first_names) >= _STRETCH_ENTRIES:
                    self._first_names.clear()
                alike = (other for other in self._environment.names_from(key + b".") if split_name(other)[1])
                self._first_names[key] = next(other for other in alike if split_name(other)[0] == key)
            if self._first_names[key] != name:
                reason = (
                    f"members of this key lie apart: entries in the folder {text_of(key)}.… lie between them"
                )
                cells.fail(row, "interleaved-members", f"{reason}; rename that folder")

    def _empty_shard(self) -> pa.Table:
        entries = self._environment.header.entries
        address = {"shard": self._shard.id, "row": 0, "end": True, "key": "", "offset": 0, "length": entries}
        fault = error("read", "shard-empty", "the shard holds no records")
        return table({**{name: [value] for name, value in address.items()}, "error": [fault]}, RECORDS)
