"""Utilization of a link to a store with one and with two requests at a time.

    OMP_NUM_THREADS=1 python jobs/bench store   # five minutes

A server on loopback implements the part of S3 that reading needs. It answers after a latency, with limited
bytes a second for each connection and for all together. Tasks read one large object each, in small reads,
like a worker that reads a shard: with one request of 8 MiB at a time, with two requests ahead (of 4 MiB each,
which need the same memory, and of 8 MiB), and like `mmray.remote.RemoteFile`. Expected: a table of MB/s in
which two ahead are not slower than one, then one JSON line.
"""

from __future__ import annotations

import json
import os
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Annotated, NamedTuple

import typer

from mmray.storage import Location

MB, MIB = 1_000_000, 1 << 20
_READ_BYTES = 256 << 10
_STEP_BYTES = 64 << 10


class Link(NamedTuple):
    """The link between a task and its store."""

    latency_ms: float
    connection_mb_s: float
    all_mb_s: float


LINKS = {
    "near, bound by all": Link(1, 1000, 100),
    "30 ms, bound by all": Link(30, 1000, 100),
    "30 ms, bound by each": Link(30, 40, 1000),
}


def main(
    size_mib: Annotated[int, typer.Option(help="Of each object.")] = 96,
    rounds: Annotated[int, typer.Option()] = 3,
) -> None:
    """Measure all ways on all links in turn, several times, and print the medians."""
    ways: dict[str, Callable[[str, int], int]] = {
        "one x 8 MiB": lambda url, nbytes: _drain(_one(url, nbytes, 8 * MIB)),
        "two x 4 MiB": lambda url, nbytes: _drain(_two(url, nbytes, 4 * MIB)),
        "two x 8 MiB": lambda url, nbytes: _drain(_two(url, nbytes, 8 * MIB)),
        "mmray": lambda url, _: _drain(_as_it_is(url)),
    }
    found: dict[str, float] = {}
    print(f"{'link':24}{'tasks':>6}" + "".join(f"{way:>14}" for way in ways))
    for link_name, link in LINKS.items():
        with _served(link, size_mib * MIB) as url:
            for tasks in (1, 4):
                speeds: dict[str, list[float]] = {way: [] for way in ways}
                for _ in range(rounds):
                    for way, read in ways.items():
                        speeds[way].append(_measure(read, url, tasks, size_mib * MIB))
                medians = {way: statistics.median(got) for way, got in speeds.items()}
                found |= {f"{link_name}, {tasks} tasks, {way}": round(v, 1) for way, v in medians.items()}
                print(
                    f"{link_name:24}{tasks:6}" + "".join(f"{v:14.1f}" for v in medians.values()), flush=True
                )
    print(json.dumps(found))


def _measure(read: Callable[[str, int], int], url: str, tasks: int, nbytes: int) -> float:
    """MB/s of all tasks together."""
    begun = time.monotonic()
    with ThreadPoolExecutor(tasks) as pool:
        done = sum(pool.map(lambda number: read(url.replace("KEY", str(number)), nbytes), range(tasks)))
    if done != tasks * nbytes:
        raise SystemExit(f"{done} bytes were read of {tasks * nbytes}")
    return done / MB / (time.monotonic() - begun)


def _one(url: str, nbytes: int, piece: int) -> Iterator[bytes]:
    """A new request when the last answer is consumed."""
    place = Location.parse(url)
    with place.filesystem.open_input_file(place.path) as file:
        for start in range(0, nbytes, piece):
            held = memoryview(file.read_at(min(piece, nbytes - start), start))
            for at in range(0, len(held), _READ_BYTES):
                yield bytes(held[at : at + _READ_BYTES])


def _as_it_is(url: str) -> Iterator[bytes]:
    with Location.parse(url).open_input() as file:
        while part := file.read(_READ_BYTES):
            yield part


def _two(url: str, nbytes: int, piece: int) -> Iterator[bytes]:
    """Two requests in transit while an answer is read."""
    place = Location.parse(url)
    starts = range(0, nbytes, piece)
    with place.filesystem.open_input_file(place.path) as file, ThreadPoolExecutor(2) as pool:
        coming = deque(pool.submit(file.read_at, piece, start) for start in starts[:2])
        for number in range(len(starts)):
            held = memoryview(coming.popleft().result())
            if number + 2 < len(starts):
                coming.append(pool.submit(file.read_at, piece, starts[number + 2]))
            for at in range(0, len(held), _READ_BYTES):
                yield bytes(held[at : at + _READ_BYTES])


def _drain(parts: Iterator[bytes]) -> int:
    return sum(len(part) for part in parts)


class _served:  # noqa: N801  (used as a function)
    """The store in a separate process, so that it shares no interpreter with the tasks."""

    def __init__(self, link: Link, nbytes: int) -> None:
        context = get_context("spawn")
        here, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(link, nbytes, there), daemon=True)
        self._here = here

    def __enter__(self) -> str:
        self._process.start()
        port = self._here.recv()
        return f"s3://bucket/KEY?endpoint_override=127.0.0.1:{port}&scheme=http&region=x"

    def __exit__(self, *_: object) -> None:
        self._process.kill()


def _serve(link: Link, nbytes: int, say: Connection) -> None:
    server = _Store(link, nbytes)
    say.send(server.server_port)
    server.serve_forever()


class _Pace:
    """So many bytes a second in total."""

    def __init__(self, mb_s: float) -> None:
        self._mb_s = mb_s
        self._free_at = 0.0
        self._lock = threading.Lock()

    def wait(self, nbytes: int) -> None:
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now - 0.01) + nbytes / MB / self._mb_s
            pause = self._free_at - now
        if pause > 0:
            time.sleep(pause)


class _Store(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, link: Link, nbytes: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.link = link
        self.pace = _Pace(link.all_mb_s)
        self.data = memoryview(os.urandom(nbytes))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Store

    def _answer(self) -> None:
        time.sleep(self.server.link.latency_ms / 1000)
        data = self.server.data
        first, last = 0, len(data) - 1
        if part := self.headers["Range"]:
            first, last = map(int, part.removeprefix("bytes=").split("-"))
        self.send_response(206 if part else 200)
        self.send_header("Content-Length", str(last + 1 - first))
        if part:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("ETag", '"one"')
        self.send_header("Last-Modified", "Sun, 29 Nov 2026 00:00:00 GMT")
        self.end_headers()
        if self.command == "HEAD":
            return
        own = _Pace(self.server.link.connection_mb_s)
        for at in range(first, last + 1, _STEP_BYTES):
            step = data[at : min(at + _STEP_BYTES, last + 1)]
            own.wait(len(step))
            self.server.pace.wait(len(step))
            self.wfile.write(step)

    do_GET = do_HEAD = _answer  # noqa: N815  (names of the base class)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


if __name__ == "__main__":
    typer.run(main)
