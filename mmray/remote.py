"""Temporary failures of stores: which they are, how long to retry, and a file that resumes reading.

Clients of stores repeat a request by themselves: pyarrow's for S3 31 times within 6 s at even intervals,
Google's for 6 s, Azure's 3 times within 6 s; but not for longer, nor after every temporary answer (409
OperationAborted, 400 RequestTimeout). This module retries after that.
"""

from __future__ import annotations

import io
import random
import re
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from time import sleep
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from mmray.errors import ChangedError, MmrayError, RunError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

ATTEMPTS = 6  # with the client's own 6 s each and the sleeps, a store may be away for about 50 s
BACKOFF_S = 1.0  # longest sleep after the first failure; it doubles with each
MAX_BACKOFF_S = 20.0
PIECE_BYTES = 4 << 20  # bytes of a piece of a file that is read sequentially
_FIRST_BYTES = 1 << 20  # doubles up to that; reading one record costs no more
# Pieces in transit while another is read: with 30 ms latency a task gets 1.3 times the throughput of one
# piece at a time, and 1.9 times if each connection is limited (`jobs/bench store`).
STREAMS = 2

_LASTING = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
# Messages of pyarrow in an OSError without a specific type. HTTP 3xx: a bucket of another region.
_LASTING_TEXT = re.compile(
    r"AWS Error (ACCESS_DENIED|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|NO_SUCH_BUCKET|NO_SUCH_KEY)"
    r"|HTTP status 3\d\d|^Bucket '[^']*' not found"
    r"|Status\((PERMISSION_DENIED|UNAUTHENTICATED|NOT_FOUND)|Azure Error: \[\w*\] 40[134]"
)
_NO_CREDENTIALS = re.compile(
    r"(?i)access_?denied|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|PERMISSION_DENIED|UNAUTHENTICATED"
    r"|OAuth2 access token|authoriz|authenticat|credential|answered 40[13]"
)
_REFUSALS = (400, 401, 403, 404, 405)  # of HTTP

#: Keys of stores that identify an object's content; first those that a copy keeps. GCS has a checksum of the
#: whole content, S3 and others an ETag.
_VERSIONS = ("crc32c", "etag", "content-md5", "generation", "versionid", "last-modified")

T = TypeVar("T")


class StoreError(RunError, OSError):
    """A store refused, or failed at all attempts: nothing is known about its contents."""


class RefusedError(StoreError):
    """A store refused, and would refuse again."""


def retrying(act: Callable[[], T], what: str) -> T:
    """Do something with a store, with retries after temporary failures.

    Sleeps between attempts are random, up to a bound that doubles: "full jitter" in Marc Brooker, Exponential
    Backoff And Jitter, AWS Architecture Blog, 2015. So a thousand actors that had to slow down at the same
    time do not retry at the same time.

    Args:
        act: what to do; it must start over each time.
        what: names it in the error.

    Raises:
        FileNotFoundError: or any other OSError about the store's contents; at once.
        RefusedError: any other permanent failure, of any library; at once.
        StoreError: a temporary failure that lasted too long.
    """
    failure: Exception | None = None
    for attempt in range(ATTEMPTS):
        if attempt:
            sleep(random.uniform(0, min(MAX_BACKOFF_S, BACKOFF_S * 2 ** (attempt - 1))))
        try:
            return act()
        except (*_LASTING, MmrayError):
            raise
        except Exception as e:  # drivers of fsspec raise what their libraries define
            failure = e
            if not _may_pass(e):
                raise RefusedError(f"{what}: {_reason(e)}") from e
    raise StoreError(f"{what}: failed {ATTEMPTS} times, the last time by {_reason(failure)}") from failure


def _may_pass(failure: Exception) -> bool:
    if isinstance(failure, OSError) and _LASTING_TEXT.search(str(failure)):
        return False
    if getattr(failure, "status_code", None) in _REFUSALS:  # an answer, as Azure's client gives it
        return False
    # An error type of a network library, such as aiohttp.ClientError, may be temporary; a ValueError is not.
    known = type(failure).__module__.partition(".")[0] not in ("builtins", "pyarrow")
    return isinstance(failure, OSError) or known


def _reason(failure: Exception | None) -> str:
    """A client's message, in one line, with a remedy if credentials are missing."""
    said = str(failure).partition("\n")[0]
    if not _NO_CREDENTIALS.search(said):
        return said
    return f"{said}; check the credentials that the environment gives: docs/stores.md names the variables"


def version_in(about: Mapping[Any, object]) -> str:
    """A value that changes with an object's content, from its store's metadata: mostly its ETag; else ""."""
    told = {_text(name).lower(): _text(value).strip('"') for name, value in about.items()}
    return next((told[name] for name in _VERSIONS if told.get(name)), "")


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


class RemoteFile(io.RawIOBase):
    """A file of a store, for reading: after a failure it continues after the last good byte in a new stream.

    Sequential reading makes a request for every 1, 2, then 4 MiB, independent of the size of reads, and from
    the first 4 MiB on the next two are in transit; a read elsewhere requests exactly its bytes. Holds three
    such pieces, or one read if that is larger.
    """

    def __init__(
        self,
        open_stream: Callable[[], pa.NativeFile],
        url: str,
        version: str = "",
        version_of: Callable[[pa.NativeFile], str] = lambda _: "",
    ) -> None:
        """Open it.

        Args:
            open_stream: opens the file for random access.
            url: names it in errors.
            version: that the file must have each time it is opened; "": its version at first opening.
            version_of: gives the version of an open file.

        Raises:
            ChangedError: it has another version.
            OSError: it cannot be opened.
        """
        super().__init__()
        self._open_stream = open_stream
        self._url = url
        self._planned = self._version = version
        self._version_of = version_of
        self._stream: pa.NativeFile | None = None
        self._position = 0
        self._held = memoryview(b"")  # bytes from `_held_from` on
        self._held_from = 0
        self._ahead = 0  # minimum bytes of a request in sequential reading
        self._pool: ThreadPoolExecutor | None = None
        self._coming: deque[tuple[int, Future[memoryview]]] = deque()  # pieces, by their first byte
        self._size = retrying(self._open_size, url)  # the last: if it fails, the file is closed as it is

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError(f"{self._url}: no byte {start + offset} to seek to")
        self._position = start + offset
        return self._position

    def readall(self) -> bytes:
        return self.read(max(0, self._size - self._position)) or b""  # the base class reads 8 KiB a time

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill the buffer, or a part of it up to the end of the file.

        Raises:
            OSError: names the bytes that cannot be read.
        """
        target = memoryview(buffer).cast("B")
        wanted = max(0, min(len(target), self._size - self._position))
        filled = 0
        while filled < wanted:
            begin = self._position - self._held_from
            if not 0 <= begin < len(self._held):
                self._fetch(wanted - filled)
                begin = 0
            piece = self._held[begin : begin + wanted - filled]
            target[filled : filled + len(piece)] = piece
            filled += len(piece)
            self._position += len(piece)
        if self._position == self._held_from + len(self._held):
            self._held, self._held_from = memoryview(b""), self._position
        return wanted

    def close(self) -> None:
        self._forget()
        if self._pool:
            self._pool.shutdown(wait=False)
        self._stream = None
        super().close()

    def _fetch(self, wanted: int) -> None:
        """Hold the bytes after the position: `wanted` bytes, or another number in sequential reading."""
        reads_on = self._position == self._held_from + len(self._held)
        self._ahead = min(max(2 * self._ahead, _FIRST_BYTES), PIECE_BYTES) if reads_on else 0
        self._held = memoryview(b"")
        if self._coming and self._coming[0][0] == self._position:
            self._held = self._coming.popleft()[1].result()
        else:
            self._forget()
            nbytes = min(max(wanted, self._ahead), self._size - self._position)
            self._held = self._request(self._position, nbytes)
        self._held_from = self._position
        if self._ahead == PIECE_BYTES:
            self._request_ahead()

    def _request_ahead(self) -> None:
        """Request the next pieces."""
        self._pool = self._pool or ThreadPoolExecutor(STREAMS, "store")
        while len(self._coming) < STREAMS:
            start = self._held_from + len(self._held)
            if self._coming:
                start = self._coming[-1][0] + PIECE_BYTES
            if start >= self._size:
                return
            nbytes = min(PIECE_BYTES, self._size - start)
            self._coming.append((start, self._pool.submit(self._request, start, nbytes)))

    def _forget(self) -> None:
        """Cancel pieces in transit."""
        for _, future in self._coming:
            future.cancel()
        self._coming.clear()

    def _request(self, start: int, nbytes: int) -> memoryview:
        parts: list[bytes] = []  # mostly one, which is not copied

        def go_on() -> None:
            try:
                stream = self._connected()
                while (done := sum(map(len, parts))) < nbytes:
                    got = stream.read_at(nbytes - done, start + done)
                    if not got:
                        raise OSError(f"it ended at byte {start + done}, of {self._size}")
                    parts.append(got)
            except Exception:
                self._stream = None  # another thread may still read from it, so it is not closed here
                raise

        retrying(go_on, f"{self._url}: bytes {start} to {start + nbytes}")
        return memoryview(parts[0] if len(parts) == 1 else b"".join(parts))

    def _connected(self) -> pa.NativeFile:
        stream = self._stream
        if stream is None:
            size = self._open_size()
            stream = self._stream
            if size != self._size:
                raise StoreError(f"{self._url}: was changed while it was read: had {self._size} bytes")
        return stream

    def _open_size(self) -> int:
        stream = self._open_stream()
        size: int = stream.size()
        version = self._version_of(stream)
        if self._version and version and version != self._version:
            if self._planned:
                raise ChangedError(self._url, f"version {version}, was {self._version}")
            raise StoreError(f"{self._url}: was changed while it was read: version {version}")
        self._version = version
        self._stream = stream
        return size
