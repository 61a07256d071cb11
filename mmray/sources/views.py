"""Bytes that lie scattered in a buffer → Arrow columns that view them there, made for many at a time.

The layout is Arrow's "Variable-size Binary View": 16 bytes for each value, which are its length and, where it
has at most twelve bytes, all of them; else its first four, the number of a buffer and its place in that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.int32]

_INLINE = np.arange(12)  # bytes of a value that a view itself may hold
_WINDOW_BITS = 30  # places in a buffer are int32; a value of fewer than 1 GiB ends in the window it begins in


@dataclass(frozen=True)
class Source:
    """Where values lie. Columns keep it alive."""

    buffer: pa.Buffer

    @cached_property
    def bytes(self) -> npt.NDArray[np.uint8]:
        return np.frombuffer(self.buffer, np.uint8)

    @cached_property
    def _view(self) -> memoryview:
        return memoryview(self.buffer).cast("B")  # Arrow's are of signed bytes

    def views(self, at: Ints, size: Ints, first_window: int = 0) -> tuple[Words, list[pa.Buffer]]:
        """Views (values x 4) of values that begin `at`, and the buffers that these count from `first_window`.

        A buffer is the source from a multiple of 1 GiB on, for 2 GiB. Values are in the source, and each has
        fewer bytes than 1 GiB.
        """
        head = self.bytes.take(at[:, None] + _INLINE, mode="clip")
        head[size[:, None] <= _INLINE] = 0
        views = np.empty((len(at), 4), np.int32)
        views[:, 0] = size
        views[:, 1:] = head.view(np.int32)
        windows, number = np.unique(at >> _WINDOW_BITS, return_inverse=True)
        long = size > len(_INLINE)
        views[long, 2] = first_window + number[long]
        views[long, 3] = at[long] & ((1 << _WINDOW_BITS) - 1)
        starts = [window << _WINDOW_BITS for window in windows.tolist()]
        most = (2 << _WINDOW_BITS) - 1
        return views, [self.buffer.slice(at, min(most, self.buffer.size - at)) for at in starts]

    def value(self, at: int, size: int) -> memoryview:
        """One value."""
        return self._view[at : at + size]

    def column(self, at: Ints, size: Ints) -> pa.BinaryViewArray:
        """A column of values that are all there."""
        return to_column(*self.views(at, size))


def to_column(
    views: Words, buffers: Sequence[pa.Buffer], valid: npt.NDArray[np.bool_] | None = None
) -> pa.BinaryViewArray:
    """A column of views, null where not valid."""
    bits, nulls = None, 0
    if valid is not None and (nulls := len(valid) - int(np.count_nonzero(valid))):
        bits = pa.py_buffer(np.packbits(valid, bitorder="little"))
    return pa.Array.from_buffers(
        pa.binary_view(), len(views), [bits, pa.py_buffer(views), *buffers], null_count=nulls
    )
