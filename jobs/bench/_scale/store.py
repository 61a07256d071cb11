"""A simulated S3 with any number of shards, which answers each request after the same time.

The tests' server (moto) takes milliseconds of CPU for a request, so it would dominate the measurement. This
one implements the part of S3 that a listing needs: pages of a thousand names, HEAD, and GET of a range.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from urllib.parse import parse_qs, urlsplit

from _scale.tars import tar_of_captions

PAGE = 1000
_TIME = ("2024-01-01T00:00:00.000Z", "Mon, 01 Jan 2024 00:00:00 GMT")


class _Requests(asyncio.Protocol):
    """One connection."""

    def __init__(self, store: _Store) -> None:
        self._store = store
        self._waiting = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._waiting += data
        while b"\r\n\r\n" in self._waiting:
            head, _, self._waiting = self._waiting.partition(b"\r\n\r\n")
            answer = self._store.answer(head.decode())
            self._store.begin()
            asyncio.get_running_loop().call_later(self._store.latency_s, self._send, answer)

    def _send(self, answer: bytes) -> None:
        self._store.waiting -= 1
        if not self._transport.is_closing():
            self._transport.write(answer)  # type: ignore[attr-defined]


class _Store:
    def __init__(self, shards: int, shard_bytes: int, latency_s: float) -> None:
        self._shards = shards
        self.latency_s = latency_s
        content = tar_of_captions(0, 1)
        self._content = content + bytes(max(0, shard_bytes - len(content)))
        self.calls = self.waiting = self.most = 0

    def begin(self) -> None:
        """One more request waits for its answer."""
        self.waiting += 1
        self.most = max(self.most, self.waiting)

    def answer(self, head: str) -> bytes:
        self.calls += 1
        (method, target, _), *lines = (line.split(" ", 2) for line in head.split("\r\n"))
        headers = {line[0].rstrip(":").lower(): " ".join(line[1:]) for line in lines}
        parts = urlsplit(target)
        if "list-type=2" in parts.query:
            return self._listing(parse_qs(parts.query))
        if not parts.path.endswith(".tar"):
            return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        tag = f'"{_tag(parts.path)}"'
        size, span = len(self._content), headers.get("range", "")
        first, last = 0, size - 1
        if span:
            first, last = (int(number) for number in span.removeprefix("bytes=").split("-"))
            last = min(last, size - 1)
        about = f"Content-Length: {last + 1 - first}\r\nETag: {tag}\r\nLast-Modified: {_TIME[1]}\r\n"
        status = "200 OK"
        if span:
            status, about = "206 Partial Content", f"{about}Content-Range: bytes {first}-{last}/{size}\r\n"
        body = b"" if method == "HEAD" else self._content[first : last + 1]
        return f"HTTP/1.1 {status}\r\n{about}\r\n".encode() + body

    def _listing(self, query: dict[str, list[str]]) -> bytes:
        first = int(query.get("continuation-token", ["0"])[0])
        last = min(first + PAGE, self._shards)
        files = "".join(
            f"<Contents><Key>{key}</Key><LastModified>{_TIME[0]}</LastModified><ETag>&quot;{_tag(f'/b/{key}')}"
            f"&quot;</ETag><Size>{len(self._content)}</Size></Contents>"
            for key in (f"in/{i // PAGE:04d}/t-{i:07d}.tar" for i in range(first, last))
        )
        more = f"<NextContinuationToken>{last}</NextContinuationToken>" if last < self._shards else ""
        text = (
            '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>b</Name><KeyCount>{last - first}</KeyCount>"
            f"<IsTruncated>{str(bool(more)).lower()}</IsTruncated>{more}{files}</ListBucketResult>"
        ).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: {len(text)}\r\n\r\n"
        return head.encode() + text


def _tag(path: str) -> str:
    """An ETag."""
    return f"{hash(path) & (1 << 64) - 1:016x}"


async def _serve(store: _Store, told: Connection) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Requests(store), "127.0.0.1", 0, backlog=1024)
    told.send(server.sockets[0].getsockname()[1])
    while await loop.run_in_executor(None, told.recv):
        told.send((store.calls, store.most))
    server.close()


def _run(shards: int, shard_bytes: int, latency_s: float, told: Connection) -> None:
    asyncio.run(_serve(_Store(shards, shard_bytes, latency_s), told))


@contextmanager
def store(shards: int, shard_bytes: int, latency_s: float) -> Iterator[tuple[str, Connection]]:
    """The URL of a directory with so many shards; and a pipe that answers True with the counts so far.

    The counts are the calls, and the maximum of waiting ones.
    """
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.Process(target=_run, args=(shards, shard_bytes, latency_s, theirs), daemon=True)
    server.start()
    try:
        yield f"s3://b/in?endpoint_override=127.0.0.1:{ours.recv()}&scheme=http", ours
    finally:
        ours.send(False)
        server.join()
