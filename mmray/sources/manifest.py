"""A CSV or JSON Lines file whose rows name files and captions → Arrow blocks of RECORDS.

The shard is the manifest: offsets are bytes of it, and its state is compared. The files that it names are not
part of that: a repaired file can be retried.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from mmray.coverage import WHOLE, Missing
from mmray.errors import RecordError, ShardError
from mmray.schema import MODALITIES, error
from mmray.sources.ahead import in_order
from mmray.sources.blocks import empty_row, new_row, to_blocks
from mmray.sources.fetch import Fetcher
from mmray.sources.fields import Fields, fields_of, load
from mmray.sources.files import Files
from mmray.sources.lines import Row, Rows
from mmray.sources.naming import Naming, extension_of, is_url
from mmray.sources.open_record import said
from mmray.sources.options import EXTENSIONS, ReadOptions
from mmray.sources.shards import Shard
from mmray.storage import Location

_BUFFER_BYTES = 1 << 20
_THREADS = 8  # threads that read or fetch; for each host, fetch.connections_per_host
_AHEAD_BYTES = 128 << 20  # bytes of files that are loaded but not yet consumed
_GUESS_BYTES = 2 << 20  # assumed bytes of a file before its size is known
_HEAD_ROWS = 64


def read_manifest(
    shard: Shard, options: ReadOptions, wanted: Sequence[Missing] = (WHOLE,)
) -> Iterator[pa.Table]:
    """Yield the wanted rows of a CSV or JSONL as tables of RECORDS, in order.

    Reading seeks to the byte where each gap starts. If no payload is requested, no file is opened.

    Raises:
        OSError: the shard, or a file that it names, cannot be read, perhaps temporarily; anything wrong
            *inside* the shard is a row with an error.
    """
    place = shard.open()
    with place.open_input() as raw, io.BufferedReader(raw, _BUFFER_BYTES) as file:
        yield from to_blocks(_Records(shard, place, options).read(file, wanted), options)


def first_rows(shard: Shard) -> list[dict[str, Any]]:
    """The first rows; empty if they cannot be read.

    Raises:
        OSError: the shard cannot be opened or read.
    """
    place = shard.open()
    with place.open_input() as raw, io.BufferedReader(raw, _BUFFER_BYTES) as file:
        try:
            walk = Rows(file, place.name).walk()
            return [row.values for row, _ in zip(walk, range(_HEAD_ROWS), strict=False)]
        except ShardError:
            return []


def _names(rows: Rows) -> dict[str, None]:
    """Names of the columns, or of the fields of the first rows, in order."""
    names = dict.fromkeys(rows.names)
    if not names:
        for row, _ in zip(rows.walk(), range(_HEAD_ROWS), strict=False):
            names |= dict.fromkeys(row.values)
    return names


def starts(shard: Shard) -> Iterator[int]:
    """Where each row begins, without reading its files.

    Raises:
        OSError: the shard cannot be read.
        ShardError: its rows cannot be separated.
    """
    place = shard.open()
    with place.open_input() as raw, io.BufferedReader(raw, _BUFFER_BYTES) as file:
        yield from (row.start for row in Rows(file, place.name).walk())


@dataclass
class _Draft:
    """A row under construction."""

    row: dict[str, Any]
    fields: Fields | None = None


class _Records:
    """Makes rows of RECORDS from a manifest's rows."""

    def __init__(self, shard: Shard, place: Location, options: ReadOptions) -> None:
        self._shard = shard
        self._options = options
        self._naming = Naming(options)
        root = replace(place, path=place.path.removesuffix(shard.name).rstrip("/") or "/", version="")
        self._files = Files(place.parent, root, options)
        self._fetcher = Fetcher(options)
        self._name = place.name

    def read(self, file: io.BufferedReader, wanted: Sequence[Missing]) -> Iterator[dict[str, Any]]:
        try:
            rows = Rows(file, self._name)
        except ShardError as e:
            if wanted[0].first == 0:
                fault = error("shard", e.kind, e.reason)
                yield new_row(self._shard.id, 0, "0", 0, self._shard.size) | {"end": True, "error": fault}
            return
        drafts = self._drafts(rows, wanted, self._columns_fault(rows))
        cost = self._cost
        for draft, payload in in_order(drafts, self._load, cost, _size, threads=_THREADS, most=_AHEAD_BYTES):
            yield draft.row | payload

    def _columns_fault(self, rows: Rows) -> dict[str, str] | None:
        """Why no row can have a modality, judging by the names in the first ones."""
        names = _names(rows)
        if not names:
            return None  # no rows, or none that can be parsed: each is reported
        seen = ", ".join(names)
        lower = {name.strip().lower() for name in names}
        for column, configured in self._options.columns.items():
            if not lower & {*configured}:
                reason = f"columns.{column}: none of {', '.join(configured)} among the columns {seen}"
                return error("read", "columns-missing", reason)
        roles = set(self._naming.roles(names).values())
        if roles & {*MODALITIES, "file"}:
            return None
        is_data = any(is_url(name) or extension_of(name) in self._options.column_of for name in rows.names)
        remedy = "its first line has no column names: add such a line" if is_data else "name one in `columns`"
        reason = f"no image, text or audio among the columns {seen}; {remedy}"
        return error("read", "columns-missing", reason)

    def _drafts(
        self, rows: Rows, wanted: Sequence[Missing], fault: dict[str, str] | None
    ) -> Iterator[_Draft]:
        for gap in wanted:
            number = gap.first if gap.start else 0
            walk = rows.walk(gap.start)
            row = next(walk, None)
            if row is None and number == 0:
                yield _Draft(empty_row(self._shard.id, "0", self._shard.size))
            while row is not None and (gap.last is None or number <= gap.last):
                following = next(walk, None)
                if number >= gap.first:
                    yield self._draft(row, number, fault, end=following is None)
                row, number = following, number + 1

    def _draft(self, row: Row, number: int, fault: dict[str, str] | None, *, end: bool) -> _Draft:
        record = new_row(self._shard.id, number, str(number), row.start, row.stop - row.start)
        record["end"] = end
        draft = _Draft(record)
        try:
            if row.fault:
                raise row.fault
            draft.fields = fields_of(row.values, self._naming)
            record["key"] = draft.fields.key or record["key"]
            record["error"] = fault
        except RecordError as e:
            record["error"] = error("read", e.kind, e.reason)
        return draft

    def _cost(self, draft: _Draft) -> int:
        return _GUESS_BYTES * len(draft.fields.files) if draft.fields else 0

    def _load(self, draft: _Draft) -> dict[str, Any]:
        """The payload of a row, or its fault."""
        if draft.fields is None or draft.row["error"] or not self._options.payload:
            return {}
        try:
            found, unread = load(draft.fields, self._read, self._naming)
            found |= {"meta": draft.fields.meta_bytes()}
            if draft.fields.text is not None:
                found["text"] = draft.fields.text
            for column in EXTENSIONS:
                if (size := len(found.get(column, b""))) > self._options.member_bytes:
                    limit = f"limits.member_bytes={self._options.member_bytes}"
                    raise RecordError(f"its {column} has {size} bytes, more than {limit}", "member-too-large")
        except RecordError as e:
            return {"error": error("read", e.kind, e.reason)}
        return {**found, "unread": said(unread)}

    def _read(self, path: str) -> bytes:
        return self._fetcher.get(path) if is_url(path) else self._files.read(path)


def _size(payload: dict[str, Any]) -> int:
    return sum(len(value) for value in payload.values() if isinstance(value, bytes))
