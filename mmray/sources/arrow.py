"""An Arrow IPC stream or file, as Hugging Face's `save_to_disk` writes them → Arrow blocks of RECORDS.

Columns are those of a Parquet file (see `columns`). A whole record batch is held in memory. Its bytes are
untrusted: it is validated before use. Offsets are rows.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any

import pyarrow as pa
import pyarrow.ipc

from mmray.coverage import WHOLE, Missing
from mmray.errors import ShardError, of_machine
from mmray.schema import error
from mmray.sources.blocks import empty_row, new_row, to_blocks
from mmray.sources.columns import Columns, Values
from mmray.sources.ipc import BATCH, DICTIONARY, SCHEMA, Message, messages
from mmray.sources.options import ReadOptions
from mmray.sources.shards import Shard

_BUFFER_BYTES = 64 << 10  # heads are small
_DICTIONARIES_BYTES = 256 << 20  # that are held
_END = b"\xff\xff\xff\xff\0\0\0\0"


def read_arrow(
    shard: Shard, options: ReadOptions, wanted: Sequence[Missing] = (WHOLE,)
) -> Iterator[pa.Table]:
    """Yield the wanted rows of an Arrow file as tables of RECORDS, in order.

    Of batches without wanted rows only the head is read.

    Raises:
        OSError: the shard cannot be opened or read; anything wrong *inside* it is a row with an error.
    """
    place = shard.open()
    with place.open_input() as raw, io.BufferedReader(raw, _BUFFER_BYTES) as file:
        yield from to_blocks(_Records(shard, file, options).read(wanted), options)


def names_in(shard: Shard) -> list[str]:
    """Names of its columns; none if they cannot be read.

    Raises:
        OSError: the shard cannot be opened or read.
    """
    with shard.open().open_input() as raw, io.BufferedReader(raw, _BUFFER_BYTES) as file:
        records = _Records(shard, file, ReadOptions())
        try:
            return list(records.schema(next(messages(file, shard.size))).names)
        except (ShardError, StopIteration):
            return []


class _Records:
    """Makes rows of the batches of one shard."""

    def __init__(self, shard: Shard, file: io.BufferedReader, options: ReadOptions) -> None:
        self._shard = shard
        self._file = file
        self._options = options
        self._prefix = b""  # schema and dictionaries, which pyarrow needs before each batch
        self._batch = 0

    def read(self, wanted: Sequence[Missing]) -> Iterator[dict[str, Any]]:
        """The wanted rows; a row is held back until it is known whether it is the last."""
        waiting: dict[str, Any] | None = None
        for row, fields in self._rows(wanted):
            if waiting:
                yield waiting
            waiting = None
            if self._is_wanted(row, wanted):
                waiting = new_row(self._shard.id, row, str(row), row, 1) | fields
            elif wanted[-1].last is not None and row > wanted[-1].last:
                return
        if waiting:
            yield waiting | {"end": True}

    def _is_wanted(self, row: int, wanted: Sequence[Missing]) -> bool:
        return any(gap.first <= row and (gap.last is None or row <= gap.last) for gap in wanted)

    def _rows(self, wanted: Sequence[Missing]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Each row from the first wanted on; of batches without wanted rows only the first."""
        first, columns = 0, None
        walk = messages(self._file, self._shard.size)
        try:
            for message in walk:
                if message.kind == SCHEMA:
                    schema = self.schema(message)
                    columns = Columns(schema, self._options)
                elif columns is None:
                    raise ShardError("it does not begin with its schema")
                elif message.kind == DICTIONARY:
                    self._keep(message)
                elif message.kind == BATCH:
                    rows = range(first, first + message.rows)
                    if any(g.first < rows.stop and (g.last is None or g.last >= first) for g in wanted):
                        yield from zip(rows, self._fields(message, columns, schema), strict=False)
                    elif rows:
                        yield rows.start, {}
                    first = rows.stop
                    self._batch += 1
        except ShardError as e:
            yield first, {"error": error("shard", e.kind, e.reason)}
            return
        if not first:
            empty = empty_row(self._shard.id, "0", 1)
            yield 0, {"error": empty["error"]}

    def schema(self, message: Message) -> pa.Schema:
        """The schema at the start of a stream.

        Raises:
            ShardError: it cannot be read.
        """
        self._prefix = self._bytes(message)
        try:
            schema = pa.ipc.open_stream(self._prefix + _END).schema
            _ = [(field.name, repr(field.type)) for field in schema]  # names that are not UTF-8
        except Exception as e:  # whatever pyarrow makes of foreign bytes
            if of_machine(e):
                raise
            raise ShardError.of(e, "its schema cannot be read") from e
        return schema

    def _keep(self, message: Message) -> None:
        if len(self._prefix) + message.stop - message.start > _DICTIONARIES_BYTES:
            reason = f"its dictionaries have more than {_DICTIONARIES_BYTES} bytes"
            raise ShardError(reason, "shard-unreadable")
        self._prefix += self._bytes(message)

    def _bytes(self, message: Message) -> bytes:
        self._file.seek(message.start)
        return self._file.read(message.stop - message.start)

    def _fields(self, message: Message, columns: Columns, schema: pa.Schema) -> Iterator[dict[str, Any]]:
        """Contents of each row of a batch, or the fault of all of them."""
        fault = columns.fault
        if not fault:
            try:
                yield from map(columns.fields, self._values(message, columns, schema))
            except ShardError as e:
                fault = error("shard", e.kind, f"record batch {self._batch}: {e.reason}")
        if fault:
            yield from repeat({"error": fault}, message.rows)

    def _values(self, message: Message, columns: Columns, schema: pa.Schema) -> Iterator[Values]:
        taken = [
            i
            for i, name in enumerate(schema.names)
            if any(path == name or path.startswith(f"{name}.") for path in columns.paths)
        ]
        if not taken:  # only rows are counted: no keys and payload needed
            yield from ([] for _ in range(message.rows))
            return
        options = pa.ipc.IpcReadOptions(included_fields=taken, use_threads=False)
        whole = b"".join((self._prefix, self._bytes(message), _END))
        try:
            batch = pa.ipc.open_stream(whole, options=options).read_next_batch()
            batch.validate(full=True)
        except Exception as e:  # whatever pyarrow makes of foreign bytes
            if of_machine(e):
                raise
            raise ShardError.of(e, "it cannot be read") from e
        if batch.num_rows != message.rows:
            raise ShardError("its number of rows differs from its head")
        names = batch.schema.names
        arrays = batch.columns
        for i in range(batch.num_rows):
            yield [(name, array[i]) for name, array in zip(names, arrays, strict=True)]
