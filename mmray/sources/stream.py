"""A compressed shard as a file for the tar reader: forward only, with a short buffer.

Skipped bytes are decompressed and dropped; the tar reader's steps back (after names, after a damaged header)
stay within the buffer.
"""

from __future__ import annotations

import io
from typing import Protocol

import pyarrow as pa

from mmray.errors import of_machine

_KEPT = 1 << 20  # more than the long names before one header, the largest step back
_STEP = 1 << 20


class Readable(Protocol):
    """Any binary file."""

    def read(self, size: int, /) -> bytes: ...


class Watched(io.RawIOBase):
    """Passes reads on, and stores an error: it is raised instead of a library's version of it."""

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
        """Raise the stored error of reading, if any."""
        if self._failure is not None:
            raise self._failure


class DecompressedFile:
    """The decompressed bytes of a gzip, bzip2 or zstd stream.

    If the compressed bytes are damaged, the file ends there and `fault` says why. Memory is 2 MiB and zstd's
    window, which Arrow limits to 128 MiB.

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
        self._start = 0  # offset of the first buffered byte
        self._position = 0
        self._ended = False
        self.fault: str | None = None

    def tell(self) -> int:
        """Where the next read begins; at most one past the last byte."""
        return self._position

    def seek(self, position: int, /) -> None:
        """Seek forward, or back to a buffered byte.

        Raises:
            ValueError: that byte is no longer buffered.
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
        """Drop bytes more than `_KEPT` before a position; rarely, because the rest is moved."""
        excess = position - _KEPT - self._start
        if excess > _KEPT:
            del self._kept[:excess]
            self._start += excess
