"""Rows of RECORDS as dictionaries → Arrow blocks of bounded size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyarrow as pa

from mmray.schema import RECORDS, table
from mmray.sources.options import EXTENSIONS, ReadOptions


def to_blocks(
    records: Iterable[dict[str, Any]], options: ReadOptions, ended: Callable[[], bool]
) -> Iterator[pa.Table]:
    """Cut rows into tables of at most `block_rows` rows and about `block_bytes` of payload.

    Args:
        records: rows with a value for every column of RECORDS.
        options: the bounds.
        ended: asked after the last row, whether the end of the shard was seen; that row's `end` then says so.
    """
    block: list[dict[str, Any]] = []
    held: dict[str, Any] | None = None  # the last record, until it is known whether another follows
    size = 0
    for record in records:
        if held is not None:
            block.append(held)
            size += sum(len(held[column] or b"") for column in EXTENSIONS)
        held = record
        if len(block) >= options.block_rows or size >= options.block_bytes:
            yield _to_table(block)
            block, size = [], 0
    if held is not None:
        held["end"] = ended()
        block.append(held)
    if block:
        yield _to_table(block)


def _to_table(records: list[dict[str, Any]]) -> pa.Table:
    return table({name: [record[name] for record in records] for name in RECORDS.names}, RECORDS)
