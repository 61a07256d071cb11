"""Stores that fail now and then: which failures pass, how long to try again, and a file that reads on.

Clients of stores repeat a request by themselves: pyarrow's of S3 31 times within 6 s at even intervals,
Google's for 6 s, Azure's 3 times within 6 s; but not for longer, nor after every answer that passes (409
OperationAborted, 400 RequestTimeout). Here is what follows on that.
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
PIECE_BYTES = 4 << 20  # of a file that is read on and on
_FIRST_BYTES = 1 << 20  # doubles up to that; a look at one record costs no more
# Pieces on their way while another is read: over 30 ms a task has 1.3 times what one at a time gives of a
# link, and 1.9 times where each connection is bounded (`jobs/bench store`).
STREAMS = 2

_LASTING = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
# What pyarrow says in an OSError without a kind of its own. HTTP 3xx: a bucket of another region.
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

#: What tells one content of an object from another, as stores name it; first what a copy keeps. GCS has a
#: checksum of the whole content, S3 and others an ETag.
_VERSIONS = ("crc32c", "etag", "content-md5", "generation", "versionid", "last-modified")

T = TypeVar("T")


class StoreError(RunError, OSError):
    """A store would not do it, or failed for as long as we tried: no word on what it holds."""


class RefusedError(StoreError):
    """A store would not do it, and would not if it were asked again."""


def retrying(act: Callable[[], T], what: str) -> T:
    """Do something with a store, again after failures that may pass.

    Sleeps between attempts are random, up to a bound that doubles: "full jitter" in Marc Brooker, Exponential
    Backoff And Jitter, AWS Architecture Blog, 2015. So a thousand actors that were told to slow down at the
    same time do not come back at the same time.

    Args:
        act: what to do; it must start afresh each time.
        what: names it in the error.

    Raises:
        FileNotFoundError: or any other OSError that tells what the store holds; at once.
        RefusedError: any other failure, of whatever library, that would not pass; at once.
        StoreError: one that may pass, but did not.
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
    raise StoreError(f"{what}: failed {ATTEMPTS} times, at last by {_reason(failure)}") from failure


def _may_pass(failure: Exception) -> bool:
    if isinstance(failure, OSError) and _LASTING_TEXT.search(str(failure)):
        return False
    if getattr(failure, "status_code", None) in _REFUSALS:  # an answer, as Azure's client tells it
        return False
    # An error that a network library defines, as aiohttp.ClientError, may pass; a ValueError does not.
    known = type(failure).__module__.partition(".")[0] not in ("builtins", "pyarrow")
    return isinstance(failure, OSError) or known


def _reason(failure: Exception | None) -> str:
    """What a client says, in one line, and what to do where it lacks credentials."""
    said = str(failure).partition("\n")[0]
    if not _NO_CREDENTIALS.search(said):
        return said
    return f"{said}; check the credentials that the environment gives: docs/stores.md names the variables"


def version_in(about: Mapping[Any, object]) -> str:
    """What changes with an object's content, from what its store says of it: mostly its ETag; else ""."""
    told = {_text(name).lower(): _text(value).strip('"') for name, value in about.items()}
    return next((told[name] for name in _VERSIONS if told.get(name)), "")


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


class RemoteFile(io.RawIOBase):
    """A file of a store, for reading: after a failure it goes on from the last good byte of a fresh stream.

    Reading on costs a request for every 1, 2, then 4 MiB, however small the reads, and from the first of 4
    MiB on the next two are on their way; a read elsewhere requests what was asked for. Holds three such
    pieces, or one read if that is larger.
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
            version: what the file must be, each time that it is opened; "": what it is the first time.
            version_of: tells that of an open file.

        Raises:
            ChangedError: it is another than it must be.
            OSError: it cannot be opened.
        """
        super().__init__()
        self._open_stream = open_stream
        self._url = url
        self._planned = self._version = version
        self._version_of = version_of
        self._stream: pa.NativeFile | None = None
        self._size = retrying(self._open_size, url)
        self._position = 0
        self._held = memoryview(b"")  # bytes from `_held_from` on
        self._held_from = 0
        self._ahead = 0  # bytes to request at least, where a file is read on
        self._pool: ThreadPoolExecutor | None = None
        self._coming: deque[tuple[int, Future[memoryview]]] = deque()  # pieces, by their first byte

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
        """Fill the buffer, or as much of it as there is to the end of the file.

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
        """Hold what follows the position: `wanted` bytes, or another number where the file is read on."""
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
        """Have the next pieces on their way."""
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
        """Give up what is on its way."""
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
