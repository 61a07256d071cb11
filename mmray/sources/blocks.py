"""Rows of RECORDS as dictionaries → Arrow blocks of bounded size; payload of an LMDB → a column."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from mmray.schema import EMPTY, RECORDS, error, table
from mmray.sources.options import EXTENSIONS, ReadOptions

_SMALL_BYTES = 4096  # smaller values are copied, not viewed
_SELDOM = ("fields", "unread", "error")  # columns that are mostly null: made faster as such
_INLINE_BYTES = 12  # bytes of a value that a view may contain inline


def new_row(shard_id: str, row: int, key: str, offset: int, length: int) -> dict[str, Any]:
    """A row of RECORDS without payload, not marked as the last."""
    address = {"shard": shard_id, "row": row, "end": False, "key": key, "offset": offset, "length": length}
    return {**dict.fromkeys(RECORDS.names), **address}


def empty_row(shard_id: str, key: str, length: int) -> dict[str, Any]:
    """The one row of a shard without records, so that its total is known."""
    fault = error("read", EMPTY, "the shard has no records")
    return {**new_row(shard_id, 0, key, 0, length), "end": True, "error": fault}


def to_blocks(records: Iterable[dict[str, Any]], options: ReadOptions) -> Iterator[pa.Table]:
    """Cut rows into tables of at most `block_rows` rows and about `block_bytes` of payload and keys.

    Args:
        records: rows with a value for every column of RECORDS.
        options: the bounds.
    """
    block: list[dict[str, Any]] = []
    size = 0
    for record in records:
        block.append(record)
        size += len(record["key"]) + sum(len(record[column] or b"") for column in EXTENSIONS)
        if len(block) >= options.block_rows or size >= options.block_bytes:
            yield _to_table(block)
            block, size = [], 0
    if block:
        yield _to_table(block)


def _to_table(records: list[dict[str, Any]]) -> pa.Table:
    columns: dict[str, Any] = {name: [record[name] for record in records] for name in RECORDS.names}
    for name in _SELDOM:
        if not any(columns[name]):
            del columns[name]
        elif name != "error":
            columns[name] = beside_column(name, columns[name])
    return table(columns, RECORDS)


def beside_column(name: str, values: Sequence[Any]) -> pa.Array:
    """The column `fields` of maps, or `unread` of lists; shared values are built once."""
    distinct = {id(value): value for value in values if value is not None}
    places = dict(zip(distinct, range(len(distinct)), strict=True))
    made = [list(value.items()) if name == "fields" else value for value in distinct.values()]
    indices = [None if value is None else places[id(value)] for value in values]
    return pa.array(made, RECORDS.field(name).type).take(pa.array(indices, pa.int32()))


def payload_column(
    values: Sequence[bytes | memoryview | None], owner: object, *, views: bool
) -> pa.BinaryArray | pa.BinaryViewArray:
    """A column of values; one of views copies none of 4 KiB or more.

    Args:
        values: of one column.
        owner: keeps the memory of memoryviews alive as long as the column.
        views: whether to make views, in Arrow's layout "Variable-size Binary View".
    """
    if not views or max(map(len, filter(None, values)), default=0) < _SMALL_BYTES:
        return pa.array(values, pa.binary_view() if views else pa.binary())
    seen = bytearray(16 * len(values))
    buffers: list[pa.Buffer] = []
    for i, value in enumerate(values):
        if value is None:
            continue
        size = len(value)
        if size <= _INLINE_BYTES:
            struct.pack_into("<i12s", seen, 16 * i, size, bytes(value))
        else:
            struct.pack_into("<i4sii", seen, 16 * i, size, bytes(value[:4]), len(buffers), 0)
            buffers.append(pa.foreign_buffer(pa.py_buffer(value).address, size, (owner, value)))
    valid = np.packbits([value is not None for value in values], bitorder="little")
    shown = [pa.py_buffer(valid), pa.py_buffer(seen), *buffers]
    return pa.Array.from_buffers(pa.binary_view(), len(values), shown)
