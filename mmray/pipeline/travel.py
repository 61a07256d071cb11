"""Transport of tables between the operators of Ray Data: each as one row.

Ray cuts and joins blocks by bytes, and a picture has a thousand times as many as a caption. As one row, a
table keeps its whole batches.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

#: Size at which Ray ends a block. The outcomes of a call are one block, because each block costs the driver
#: some milliseconds; rows are padded to this size.
BLOCK_BYTES = 1 << 20

#: A table of open rows (TENSORS), and one of OUTCOMES for answered rows: Arrow IPC streams.
ROW = pa.schema([("open", pa.large_binary()), ("answered", pa.large_binary())])


def to_row(waiting: pa.Table, answered: pa.Table | None = None) -> pa.Table:
    """Two tables as one row, with zeros behind the first if it is small."""
    cells = [_stream(waiting, at_least=BLOCK_BYTES + 1), _stream(answered) if answered else None]
    return pa.table([_cell(cell) for cell in cells], schema=ROW)


def from_rows(rows: pa.Table) -> tuple[pa.Table, pa.Table | None]:
    """The inverse of `to_row`, for one row or several. Copies nothing."""
    waiting = [pa.ipc.open_stream(cell.as_buffer()).read_all() for cell in rows["open"]]
    answered = [pa.ipc.open_stream(c.as_buffer()).read_all() for c in rows["answered"] if c.is_valid]
    # A table whose records were all answered has no columns for values that are passed on.
    filled = [table for table in waiting if table.num_rows] or waiting[:1]
    return pa.concat_tables(filled), pa.concat_tables(answered) if answered else None


def _stream(table: pa.Table, at_least: int = 0) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    sink.write(bytes(max(0, at_least - sink.tell())))
    return sink.getvalue()


def _cell(stream: pa.Buffer | None) -> pa.Array:
    if stream is None:
        return pa.nulls(1, pa.large_binary())
    ends = pa.py_buffer(np.array([0, stream.size], np.int64))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, ends, stream])
