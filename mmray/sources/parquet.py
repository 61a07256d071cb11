"""A Parquet file of records → Arrow blocks of RECORDS, row group by row group.

Columns are plain, or structs and lists as Hugging Face's datasets have them (see `cells`); paths are not
followed. Pages are decoded as a whole, and a dictionary is one page: their size, not that of rows, determines
the memory (see `pages`).
"""

from __future__ import annotations

import io
import math
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, repeat
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mmray.coverage import WHOLE, Missing
from mmray.errors import RecordError, ShardError, of_machine
from mmray.schema import error
from mmray.sources.blocks import empty_row, new_row, to_blocks
from mmray.sources.cells import head_of
from mmray.sources.columns import Columns, Values
from mmray.sources.options import ReadOptions
from mmray.sources.pages import Chunk, Gate, chunks
from mmray.sources.shards import Shard
from mmray.sources.stream import Watched

_GROUP_BYTES = 128 << 20  # a row group up to this size is read at once
_BUFFER_BYTES = 1 << 20  # buffer of each column while a larger one is read
_LIST_BUFFER_BYTES = 1 << 16  # buffer with lists: the number of values in a page is checked as it is read
_SAMPLED_ROWS = 8  # rows that are examined for a column with an unknown name
_TAIL_BYTES = 8  # the size of the footer, and the end mark
_FOOTER_BYTES = 64 << 20
_FOOTER_ITEMS = 100_000  # values of one list: Arrow allocates about 400 bytes for each stated value
_ROWS_PER_BYTE = 100  # rows of the file, at most; each is at least a row with an error
_INFLATED_BYTES = 128 << 20  # bytes of the largest pages of a row group, beyond normal compression


def read_parquet(
    shard: Shard, options: ReadOptions, wanted: Sequence[Missing] = (WHOLE,)
) -> Iterator[pa.Table]:
    """Yield the wanted rows of a Parquet file as tables of RECORDS, in order.

    Row groups without wanted rows are not read. If no payload is requested, only keys are read: counting rows
    is fast, and faults of the payload are not found.

    Raises:
        OSError: the shard cannot be opened or read; anything wrong *inside* it is a row with an error.
    """
    place = shard.open()
    with place.open_input() as raw:
        yield from to_blocks(_Records(shard, _Watched(raw), options).read(wanted), options)


def names_in(shard: Shard) -> list[str]:
    """Names of its columns; none if they cannot be read.

    Raises:
        OSError: the shard cannot be opened or read.
    """
    with shard.open().open_input() as raw:
        try:
            _, schema, _ = _Records(shard, _Watched(raw), ReadOptions())._footer()
        except ShardError:
            return []
    return list(schema.names)


def read_integers(
    data: bytes, names: Sequence[str], max_rows: int
) -> tuple[Mapping[bytes, bytes], list[npt.NDArray[np.int64]]]:
    """Columns of int64 of a small file, and its metadata; files that are too large are refused.

    Raises:
        ShardError, RecordError, ValueError: it is damaged, has no such columns, or too much in them.
    """
    source = _Watched(io.BytesIO(data))
    stated = source.footer()
    file = pq.ParquetFile(source, pre_buffer=False, thrift_container_size_limit=_FOOTER_ITEMS)
    if any(file.schema_arrow.field(name).type != pa.int64() for name in names):
        raise ValueError(f"{', '.join(names)} are not of type int64")
    if file.metadata.num_rows > max_rows:
        raise ValueError(f"{file.metadata.num_rows} rows, more than {max_rows}")
    source.gate = Gate([chunk for group in chunks(stated) for chunk in group], _INFLATED_BYTES)
    table = file.read(list(names), use_threads=False)
    return table.schema.metadata or {}, [table[name].to_numpy() for name in names]


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
        columns = Columns(schema, self._options)
        for name in columns.doubtful:
            columns.classify(name, self._head(footer, chunks, columns, name))
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
        """The footer, its schema, and the positions of the columns of each row group.

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
        self, footer: pq.FileMetaData, group: int, chunks: list[Chunk], columns: Columns
    ) -> Iterator[Values | dict[str, Any]]:
        """The values of each row of a row group; after the last row, faults without end.

        Rows are decoded one by one, at 7 µs a row: so a batch is never larger than a row, and a damaged row
        does not affect the rows before it.
        """
        fault = columns.fault
        if columns.paths and not fault:
            try:
                for batch in self._batches(footer, group, chunks, columns.paths, columns.has_lists):
                    yield [(name, batch.column(j)[0]) for j, name in enumerate(batch.schema.names)]
            except ShardError as e:
                fault = error("shard", e.kind, f"row group {group}: {e.reason}")
            except RecordError as e:
                fault = error("read", e.kind, f"row group {group}: {e.reason}")
        yield from repeat({"error": fault})

    def _head(self, footer: pq.FileMetaData, chunks: list[list[Chunk]], columns: Columns, name: str) -> bytes:
        """The first bytes of the first value of a column, in the first rows of the file."""
        group = next((i for i in range(footer.num_row_groups) if footer.row_group(i).num_rows), None)
        if group is None:
            return b""
        rows = min(_SAMPLED_ROWS, footer.row_group(group).num_rows)
        try:
            batches = self._batches(footer, group, chunks[group], [name], columns.has_lists)
            heads = (head_of(batch.column(0)[0]) for batch in islice(batches, rows))
            return next(filter(None, heads), b"")
        except (ShardError, RecordError):  # reported when the column is read
            return b""

    def _batches(
        self, footer: pq.FileMetaData, group: int, chunks: list[Chunk], paths: list[str], has_lists: bool
    ) -> Iterator[pa.RecordBatch]:
        """The rows of a row group, one by one, without end.

        Raises:
            ShardError: the next ones cannot be read.
            RecordError: a page of theirs would become too large.
        """
        # A row group of normal size is read with one request for each column, a larger one as a stream.
        large = sum(chunk.size for chunk in chunks) > _GROUP_BYTES
        lists = {j for j in range(len(chunks)) if footer.schema.column(j).max_repetition_level}
        most = max(_INFLATED_BYTES, 2 * self._options.member_bytes)
        gate = self._source.gate = Gate(chunks, most, lists, self._options.member_bytes)
        buffer_bytes = _LIST_BUFFER_BYTES if has_lists else _BUFFER_BYTES if large else 0
        try:
            file = pq.ParquetFile(
                self._source,
                metadata=footer,
                buffer_size=buffer_bytes,
                pre_buffer=False,
                page_checksum_verification=True,
            )
            batches = file.iter_batches(1, [group], paths, use_threads=False)
        except Exception as e:
            raise self._blame(e, "it cannot be opened") from e
        while True:
            gate.begin_row()
            try:
                batch = next(batches, None)
            except Exception as e:
                raise self._blame(e, "a page cannot be read") from e
            if not batch:  # none, or one without rows
                raise ShardError("it has fewer rows than the footer states")
            yield batch

    def _blame(self, failure: Exception, what: str) -> Exception:
        """The error to raise after a failure of pyarrow: the file's own, the machine's fault, or damage."""
        self._source.check()
        if not of_machine(failure):
            return ShardError.of(failure, what)
        # Arrow requests far too much memory if numbers in a page are wrong, as in a delta encoding.
        asked = re.search(r"of size (\d+) failed", str(failure))
        most = 4 * self._source.gate.largest + _BUFFER_BYTES if self._source.gate else math.inf
        return ShardError.of(failure, what) if asked and int(asked[1]) > most else failure

    def _row(self, row: int, fields: dict[str, Any]) -> dict[str, Any]:
        return new_row(self._shard_id, row, str(row), row, 1) | fields


class _Watched(Watched):
    """A seekable file whose pages are checked as they are read."""

    def __init__(self, raw: pa.NativeFile | io.BytesIO) -> None:
        super().__init__(raw)
        self.size = int(raw.seek(0, io.SEEK_END))
        self.gate: Gate | None = None  # of the current row group
        self._file = raw

    def tell(self) -> int:
        return int(self._file.tell())

    def seek(self, position: int, whence: int = io.SEEK_SET, /) -> int:
        return int(self._file.seek(position, whence))

    def read(self, size: int = -1, /) -> bytes:
        # With a damaged file pyarrow may request more bytes than exist, and a buffer of that size is
        # allocated.
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
    """The first wanted row from `row` on, infinite if there is none. Drops the gaps before it."""
    while gaps and gaps[0].last is not None and gaps[0].last < row:
        gaps.popleft()
    return max(row, gaps[0].first) if gaps else math.inf
