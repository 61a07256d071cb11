"""Payload that lies scattered in memory → the binary columns of a block, copied once."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa

from mmray.schema import error
from mmray.sources.names import COLUMNS, Ints


@dataclass
class Cells:
    """What some rows hold, and which of them hold nothing because something is wrong."""

    rows: int
    slots: Ints  # of each value, column x rows + row; none twice, once `sound`
    values: list[memoryview | bytes]
    errors: dict[int, dict[str, str]] = field(default_factory=dict)  # by row

    @cached_property
    def sizes(self) -> Ints:
        """Bytes of each value; asked for when all of them are there."""
        return np.fromiter(map(len, self.values), np.int64, len(self.values))

    def fail(self, row: int, kind: str, reason: str) -> None:
        """Make a row one with an error; the first reason stays."""
        self.errors.setdefault(row, error("read", kind, reason))

    def sound(self) -> Cells:
        """Without the values of rows with an error."""
        if not self.errors:
            return self
        keep = np.flatnonzero(~np.isin(self.slots % self.rows, list(self.errors)))
        return Cells(self.rows, self.slots[keep], [self.values[i] for i in keep.tolist()], self.errors)

    def rows_within(self, limit: int) -> int:
        """How many rows it takes to hold this many bytes; all, where they hold less."""
        if self.sizes.sum() < limit:
            return self.rows
        by_row = np.bincount(self.slots % self.rows, weights=self.sizes, minlength=self.rows)
        return int(np.searchsorted(np.cumsum(by_row), limit)) + 1

    def to_columns(self) -> dict[str, pa.BinaryArray]:
        """The columns, by name, each in a buffer of its size.

        Buffers are of Arrow's pool, which keeps its pages: fresh ones cost several times as much as the copy.
        """
        shape = len(COLUMNS), self.rows
        values = [self.values[i] for i in np.argsort(self.slots).tolist()]
        sizes, valid = np.zeros(shape, np.int64), np.zeros(shape, bool)
        sizes.ravel()[self.slots] = self.sizes
        valid.ravel()[self.slots] = True
        offsets = np.zeros((shape[0], shape[1] + 1), np.int32)
        np.cumsum(sizes, axis=1, out=offsets[:, 1:])
        bits = np.packbits(valid, axis=1, bitorder="little")
        columns, begin = {}, 0
        for i, (name, count) in enumerate(zip(COLUMNS, valid.sum(axis=1).tolist(), strict=True)):
            data = pa.allocate_buffer(int(offsets[i, -1]))
            room, at = memoryview(data).cast("B"), 0
            for value in values[begin : begin + count]:
                stop = at + len(value)
                room[at:stop] = value
                at = stop
            begin += count
            validity = pa.py_buffer(bits[i]) if count < self.rows else None
            buffers = [validity, pa.py_buffer(offsets[i]), data]
            columns[name] = pa.BinaryArray.from_buffers(pa.binary(), self.rows, buffers, self.rows - count)
        return columns
