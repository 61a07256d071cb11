"""Payload that lies scattered → the columns of a block, which view it where it lies."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from mmray.schema import error
from mmray.sources.names import COLUMNS, Ints
from mmray.sources.views import Source, to_column


@dataclass
class Cells:
    """What some rows hold, and which of them hold nothing because something is wrong."""

    rows: int
    slots: Ints  # of each value, column x rows + row; none twice, once `sound`
    at: Ints  # where it lies in the source
    sizes: Ints  # its bytes
    made: dict[int, bytes] = field(default_factory=dict)  # values that lie nowhere, by slot
    errors: dict[int, dict[str, str]] = field(default_factory=dict)  # by row

    def fail(self, row: int, kind: str, reason: str) -> None:
        """Make a row one with an error; the first reason stays."""
        self.errors.setdefault(row, error("read", kind, reason))

    def sound(self) -> Cells:
        """Without the values of rows with an error."""
        if not self.errors:
            return self
        keep = ~np.isin(self.slots % self.rows, list(self.errors))
        made = {slot: value for slot, value in self.made.items() if slot % self.rows not in self.errors}
        return Cells(self.rows, self.slots[keep], self.at[keep], self.sizes[keep], made, self.errors)

    def row_bytes(self) -> Ints:
        """Bytes that each row holds."""
        slots, sizes = self.slots, self.sizes
        if self.made:
            slots = np.append(slots, list(self.made))
            sizes = np.append(sizes, [len(value) for value in self.made.values()])
        return np.bincount(slots % self.rows, weights=sizes, minlength=self.rows).astype(np.int64)

    def of_rows(self, first: int, stop: int) -> tuple[Ints, Ints]:
        """Where the values of rows from one to before another lie in the source, and their bytes."""
        row = self.slots % self.rows
        here = (first <= row) & (row < stop)
        return self.at[here], self.sizes[here]

    def to_columns(self, source: Source) -> dict[str, pa.BinaryViewArray]:
        """The columns, by name."""
        views = np.zeros((len(COLUMNS) * self.rows, 4), np.int32)
        valid = np.zeros(len(views), bool)
        views[self.slots], buffers = source.views(self.at, self.sizes)
        valid[self.slots] = True
        if self.made:
            slots, values = list(self.made), list(self.made.values())
            sizes = np.array([len(value) for value in values])
            own = Source(pa.py_buffer(b"".join([*values, b"\0"])))  # never empty
            views[slots], further = own.views(np.cumsum(sizes) - sizes, sizes, len(buffers))
            valid[slots] = True
            buffers += further
        parts = zip(np.split(views, len(COLUMNS)), np.split(valid, len(COLUMNS)), strict=True)
        return {
            name: to_column(seen, buffers, there) for name, (seen, there) in zip(COLUMNS, parts, strict=True)
        }
