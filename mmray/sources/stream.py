"""A compressed shard as a file that the tar walk can read: forward only, with a short memory.

Decompressed bytes that are passed over are read and dropped; the walk's steps back (after names, after a
damaged header) stay within what is kept.
"""

from __future__ import annotations

import io
from typing import Protocol

import pyarrow as pa

from mmray.errors import of_machine

_KEPT = 1 << 20  # more than the long names before one header, which is as far as the walk steps back
_STEP = 1 << 20


class Readable(Protocol):
    """Any binary file."""

    def read(self, size: int, /) -> bytes: ...


class Watched(io.RawIOBase):
    """Passes reads on, and remembers if one failed: that counts, and not what a library makes of it."""

    def __init__(self, raw: Readable) -> None:
        self._raw = raw
        self._failure: Exception | None = None

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        try:
            return self._raw.read(size)
        except Exception as e:
            self._failure = e
            raise

    def check(self) -> None:
        """Raise what reading raised, if it did."""
        if self._failure is not None:
            raise self._failure


class DecompressedFile:
    """The decompressed bytes of a gzip, bzip2 or zstd stream.

    Where the compressed bytes are damaged the file ends, and `fault` says why. However much they stand for,
    2 MiB of it are held, and zstd's window: Arrow takes none over 128 MiB.

    Args:
        raw: the compressed file.
        compression: "gzip", "bz2" or "zstd".

    Raises:
        OSError: from any method, if the store fails.
    """

    def __init__(self, raw: Readable, compression: str) -> None:
        self._raw = Watched(raw)
        self._stream = pa.CompressedInputStream(pa.PythonFile(self._raw, mode="r"), compression)
        self._kept = bytearray()
        self._start = 0  # offset of the first kept byte
        self._position = 0
        self._ended = False
        self.fault: str | None = None

    def tell(self) -> int:
        """Where the next read begins; at most one past the last byte."""
        return self._position

    def seek(self, position: int, /) -> None:
        """Go on at a later byte, or at one of the last kept ones.

        Raises:
            ValueError: that byte is gone.
        """
        if position < self._start:
            raise ValueError(f"byte {position} of a stream is gone; bytes from {self._start} on are kept")
        while (missing := position - self._end) > 0 and not self._ended:
            self._fill(min(missing, _STEP))
            self._drop(min(position, self._end))
        self._position = min(position, self._end)

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; fewer only at the end."""
        while (missing := self._position + size - self._end) > 0 and not self._ended:
            self._fill(min(missing, _STEP))
        at = self._position - self._start
        data = bytes(self._kept[at : at + size])
        self._position += len(data)
        self._drop(self._position)
        return data

    @property
    def _end(self) -> int:
        return self._start + len(self._kept)

    def _fill(self, size: int) -> None:
        try:
            data = self._stream.read(size)
        except Exception as e:  # whatever pyarrow makes of what zlib and zstd say
            self._raw.check()
            if of_machine(e):
                raise
            self.fault, data = f"the compressed stream is damaged: {e} ({type(e).__name__})", b""
        self._ended = not data
        self._kept += data

    def _drop(self, position: int) -> None:
        """Forget what lies more than `_KEPT` bytes before a position; seldom, since it moves the rest."""
        excess = position - _KEPT - self._start
        if excess > _KEPT:
            del self._kept[:excess]
            self._start += excess
