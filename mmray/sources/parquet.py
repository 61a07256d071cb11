"""A Parquet file of records → Arrow blocks of RECORDS, row group by row group.

Columns are plain, or structs of `bytes` and `path` as Hugging Face's datasets have them; a path is never
followed. Pages are decoded whole, and a dictionary is one page: their size, not that of rows, bounds the
memory (see `pages`).
"""

from __future__ import annotations

import io
import math
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pat

from mmray.coverage import WHOLE, Missing
from mmray.errors import RecordError, ShardError, is_of_machine
from mmray.schema import MODALITIES, error
from mmray.sources.blocks import empty_row, new_row, to_blocks
from mmray.sources.options import EXTENSIONS, ReadOptions
from mmray.sources.pages import Chunk, Gate, chunks
from mmray.sources.shards import Shard
from mmray.sources.stream import Watched

#: Columns that count where none has the name of an extension.
NAMES: Mapping[str, tuple[str, ...]] = {
    "image": ("image",),
    "text": ("text", "caption"),
    "audio": ("audio",),
    "meta": ("meta", "json"),
}
KEYS = ("key", "__key__", "id")  # the first that is there

_GROUP_BYTES = 128 << 20  # a row group up to this size is read at once
_BUFFER_BYTES = 1 << 20  # of each column, while a larger one is read
_KEY_BYTES = 1 << 10  # longer keys are cut: blocks are not bounded by them
_TAIL_BYTES = 8  # the size of the footer, and the end mark
_FOOTER_BYTES = 64 << 20
_FOOTER_ITEMS = 100_000  # of one list in it: Arrow makes room of some 400 bytes for each that is stated
_ROWS_PER_BYTE = 1000  # of the file, at most; each is at least a row with an error
_INFLATED_BYTES = 128 << 20  # of the largest pages of a row group, beyond what compression gains in earnest
#: Arrow asks for so much at once where a page's own numbers lie; no page that passed needs it.
_LARGEST_ALLOCATION = 1 << 31
_MEDIA = ("image", "audio")  # columns of bytes, not of text
_BYTES = (pat.is_binary, pat.is_large_binary, pat.is_binary_view, pat.is_fixed_size_binary)
_STRINGS = (pat.is_string, pat.is_large_string, pat.is_string_view)

_Values = list[tuple[str, Any]]  # names and scalars of a row; a name may come twice


def read_parquet(
    shard: Shard, options: ReadOptions, wanted: Sequence[Missing] = (WHOLE,)
) -> Iterator[pa.Table]:
    """Yield the wanted rows of a Parquet file as tables of RECORDS, in order.

    Row groups that hold nothing wanted are not read. Where no payload is asked for, only keys are read: rows
    are quickly counted, and what is wrong with the payload is not seen.

    Raises:
        OSError: the shard cannot be opened or read; anything wrong *inside* it is a row with an error.
    """
    place = shard.open()
    with place.open_input() as raw:
        yield from to_blocks(_Records(shard, _Watched(raw), options).read(wanted), options)


class _Records:
    """Makes rows of the row groups of one shard."""

    def __init__(self, shard: Shard, source: _Watched, options: ReadOptions) -> None:
        self._shard_id = shard.id
        self._source = source
        self._options = options

    def read(self, wanted: Sequence[Missing]) -> Iterator[dict[str, Any]]:
        try:
            footer, schema, chunks = self._footer()
        except ShardError as e:
            fault = error("shard", e.kind, e.reason)
            if wanted[0].first == 0:
                yield self._row(0, {"end": True, "error": fault})
            return
        if not footer.num_rows and wanted[0].first == 0:
            yield empty_row(self._shard_id, "0", 1)
        columns = _Columns(schema, self._options)
        gaps, first = deque(wanted), 0
        for group in range(footer.num_row_groups):
            rows = range(first, first + footer.row_group(group).num_rows)
            first = rows.stop
            if _next(gaps, rows.start) >= rows.stop:
                continue
            values = self._values(footer, group, chunks[group], columns)
            for row, value in zip(rows, values, strict=False):
                following = _next(gaps, row)
                if following == row:
                    fields = value if isinstance(value, dict) else columns.fields(value)
                    yield self._row(row, fields | {"end": row == footer.num_rows - 1})
                elif following >= rows.stop:
                    break

    def _footer(self) -> tuple[pq.FileMetaData, pa.Schema, list[list[Chunk]]]:
        """What the footer states, its schema, and where the columns of each row group lie.

        Raises:
            ShardError: it cannot be read, or its numbers make no sense.
        """
        stated = self._source.footer()
        limits = {"thrift_string_size_limit": len(stated) + 1, "thrift_container_size_limit": _FOOTER_ITEMS}
        try:
            file = pq.ParquetFile(self._source, pre_buffer=False, **limits)
            footer, schema = file.metadata, file.schema_arrow
            groups = [footer.row_group(i).num_rows for i in range(footer.num_row_groups)]
            repr(schema)  # names that are not UTF-8
        except Exception as e:
            raise self._blame(e, "not a Parquet file that can be read") from e
        found = chunks(stated)
        if min(groups, default=0) < 0 or sum(groups) != footer.num_rows or len(found) != len(groups):
            raise ShardError("the footer contradicts itself about the number of rows")
        if footer.num_rows > _ROWS_PER_BYTE * self._source.size:
            raise ShardError(f"the footer states {footer.num_rows} rows in {self._source.size} bytes")
        return footer, schema, found

    def _values(
        self, footer: pq.FileMetaData, group: int, chunks: list[Chunk], columns: _Columns
    ) -> Iterator[_Values | dict[str, Any]]:
        """The values of each row of a row group; after the last, without end, a fault in their place.

        Rows are decoded one by one, for 7 µs a row: so a batch is never larger than one, keys included, and
        no row is lost with a damaged one that follows it.
        """
        fault = columns.fault
        if columns.paths and not fault:
            try:
                for batch in self._batches(footer, group, chunks, columns.paths):
                    yield [(name, batch.column(j)[0]) for j, name in enumerate(batch.schema.names)]
            except ShardError as e:
                fault = error("shard", e.kind, f"row group {group}: {e.reason}")
            except RecordError as e:
                fault = error("read", e.kind, f"row group {group}: {e.reason}")
        yield from repeat({"error": fault})

    def _batches(
        self, footer: pq.FileMetaData, group: int, chunks: list[Chunk], paths: list[str]
    ) -> Iterator[pa.RecordBatch]:
        """The rows of a row group, one by one, without end.

        Raises:
            ShardError: the next ones cannot be read.
            RecordError: a page of theirs would become too large.
        """
        # One of usual size is read in one request for each column, a larger one as a stream.
        large = sum(chunk.size for chunk in chunks) > _GROUP_BYTES
        self._source.gate = Gate(chunks, max(_INFLATED_BYTES, 2 * self._options.member_bytes))
        try:
            file = pq.ParquetFile(
                self._source,
                metadata=footer,
                buffer_size=_BUFFER_BYTES if large else 0,
                pre_buffer=False,
                page_checksum_verification=True,
            )
            batches = file.iter_batches(1, [group], paths, use_threads=False)
        except Exception as e:
            raise self._blame(e, "it cannot be opened") from e
        while True:
            try:
                batch = next(batches, None)
            except Exception as e:
                raise self._blame(e, "a page cannot be read") from e
            if batch is None:
                raise ShardError("it has fewer rows than the footer says")
            yield batch

    def _blame(self, failure: Exception, what: str) -> Exception:
        """What to raise where pyarrow failed: what the file itself raised, the machine's fault, or damage."""
        self._source.check()
        asked = re.search(r"of size (\d+) failed", str(failure))
        beyond_reason = asked is not None and int(asked[1]) >= _LARGEST_ALLOCATION
        return failure if is_of_machine(failure) and not beyond_reason else ShardError.of(failure, what)

    def _row(self, row: int, fields: dict[str, Any]) -> dict[str, Any]:
        return new_row(self._shard_id, row, str(row), row, 1) | fields


class _Columns:
    """Which columns of a file are read, and as what.

    They are chosen by name and type: columns of other types, such as lists, are left out. Where one has the
    name of an extension, the built-in names do not count.
    """

    def __init__(self, schema: pa.Schema, options: ReadOptions) -> None:
        kinds = {column.name: _kind(column.type) for column in schema}
        fitting = {name.lower(): name for name, kind in kinds.items() if kind and kind != "scalar"}
        self._max_bytes = options.member_bytes
        self._column_of: dict[str, str] = {}
        for column in EXTENSIONS:
            built_in = [name for name in NAMES[column] if name not in options.column_of]
            ranks = (options.extensions.get(column, ()), built_in)
            there = ([fitting[name] for name in names if name in fitting] for names in ranks)
            self._column_of |= dict.fromkeys(next(filter(None, there), []), column)
        self._key = next((name for name in KEYS if kinds.get(name) not in (None, "struct")), None)
        self.fault: dict[str, str] | None = None  # why no row has anything
        if not set(self._column_of.values()) & set(MODALITIES):
            seen = ", ".join(schema.names)
            reason = f"no image, text or audio among the columns {seen}; name one in `extensions`"
            self.fault = error("read", "columns-missing", reason)
        self.paths = [self._key] if self._key else []  # what to read: without payload, keys only
        for name in self._column_of if options.payload else ():
            self.paths += [f"{name}.bytes", f"{name}.path"] if kinds[name] == "struct" else [name]

    def fields(self, values: _Values) -> dict[str, Any]:
        """Key and payload of a row, or what is wrong with it."""
        keys = [_plain(value) for name, value in values if name == self._key]
        key = next(({"key": _text(scalar)} for scalar in keys if scalar.is_valid), {})
        found: dict[str, bytes] = {}
        try:
            for name, value in values:
                column = self._column_of.get(name)
                data = _content(name, value, column) if column else None
                if column is None or data is None:
                    continue
                if column in found:
                    reason = f"more than one {column}: {name!r} comes second; name one in `extensions`"
                    raise RecordError(reason, "repeated-member")
                if data.size > self._max_bytes:
                    reason = f"{name!r}: {data.size} bytes, more than limits.member_bytes={self._max_bytes}"
                    raise RecordError(reason, "member-too-large")
                found[column] = data.to_pybytes()
        except RecordError as e:
            return key | {"error": error("read", e.kind, e.reason)}
        return key | found


def _content(name: str, value: pa.Scalar, column: str) -> pa.Buffer | None:
    """Bytes of a value, where they lie; None of a null."""
    scalar = _plain(value)
    only_path = column in _MEDIA and scalar.is_valid and _kind(scalar.type) == "string"
    if isinstance(scalar, pa.StructScalar):
        path, scalar = scalar.get("path"), _plain(scalar["bytes"])
        only_path = not scalar.is_valid and path is not None and path.is_valid
    if only_path:
        reason = f"{name!r} holds a path or URL, which is not followed; put the bytes into the file"
        raise RecordError(reason, "parquet-path")
    return scalar.as_buffer() if scalar.is_valid else None


class _Watched(Watched):
    """A file that is gone about in, too, and whose pages are looked at as they pass."""

    def __init__(self, raw: pa.NativeFile) -> None:
        super().__init__(raw)
        self.size = raw.seek(0, io.SEEK_END)
        self.gate: Gate | None = None  # of the row group that is read
        self._file = raw

    def tell(self) -> int:
        return int(self._file.tell())

    def seek(self, position: int, whence: int = io.SEEK_SET, /) -> int:
        return int(self._file.seek(position, whence))

    def read(self, size: int = -1, /) -> bytes:
        # A damaged file makes pyarrow ask for more than there is, and room is made for what is asked for.
        start = self.tell()
        data = super().read(min(size, max(0, self.size - start)))
        if self.gate:
            try:
                self.gate.see(start, data)
            except Exception as e:
                self._failure = e
                raise
        return data

    def footer(self) -> bytes:
        """The Thrift of the footer.

        Raises:
            ShardError: there is none.
        """
        self.seek(max(0, self.size - _TAIL_BYTES))
        tail = self.read(_TAIL_BYTES)
        size = int.from_bytes(tail[:4], "little")
        if tail[4:] != b"PAR1" or size > self.size - _TAIL_BYTES:
            raise ShardError("not a Parquet file that can be read: it has no footer at its end")
        if size > _FOOTER_BYTES:
            raise ShardError(f"its footer has {size} bytes, more than {_FOOTER_BYTES}", "shard-unreadable")
        self.seek(self.size - _TAIL_BYTES - size)
        return self.read(size)


def _next(gaps: deque[Missing], row: int) -> float:
    """The first wanted row from `row` on, infinite if there is none. Forgets the gaps before it."""
    while gaps and gaps[0].last is not None and gaps[0].last < row:
        gaps.popleft()
    return max(row, gaps[0].first) if gaps else math.inf


def _kind(type: pa.DataType) -> str | None:
    """What a column's type is good for; None if for nothing."""
    if isinstance(type, pa.BaseExtensionType):
        return _kind(type.storage_type)
    if pat.is_dictionary(type):
        return _kind(type.value_type)
    if any(test(type) for test in _BYTES):
        return "bytes"
    if any(test(type) for test in _STRINGS):
        return "string"
    if pat.is_struct(type):
        index = type.get_field_index("bytes")
        return "struct" if index >= 0 and _kind(type.field(index).type) == "bytes" else None
    return None if pat.is_nested(type) or pat.is_temporal(type) else "scalar"


def _plain(scalar: pa.Scalar) -> pa.Scalar:
    """The value of a dictionary or of an extension type."""
    wrapped = scalar.is_valid and isinstance(scalar, pa.DictionaryScalar | pa.ExtensionScalar)
    return _plain(scalar.value) if wrapped else scalar


def _text(key: pa.Scalar) -> str:
    if _kind(key.type) == "scalar":
        return str(key.as_py())
    return bytes(key.as_buffer()[:_KEY_BYTES]).decode(errors="backslashreplace")
