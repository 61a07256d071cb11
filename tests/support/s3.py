"""A real S3 server on loopback, behind a proxy that counts requests and makes faults."""

from __future__ import annotations

import logging
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

#: Error answers. After the first, pyarrow's client repeats a request by itself; not so after the others.
_ERRORS = {
    "slow-down": (503, "SlowDown"),
    "conflict": (409, "OperationAborted"),
    "denied": (403, "AccessDenied"),
}
CLIENT_ATTEMPTS = 31  # within 6 s; then it gives up
_OF_A_CONNECTION = ("connection", "expect", "transfer-encoding")  # headers that a proxy does not pass on
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # linger for no time: closing sends RST


class Request(NamedTuple):
    """One request that came in."""

    method: str
    path: str  # with its query
    range: str | None


@dataclass
class Fault:
    """What becomes of requests that match, from the next one on.

    Kinds: slow-down, conflict and denied are error answers, and the request is not carried out. In short and
    reset it is, and half of the answer is sent; then the connection is closed, or reset.
    """

    kind: str
    times: int
    method: str = "GET"
    path: str = ""  # a regular expression that is searched for in path and query
    every: int = 1  # 3: every third request that matches
    seen: int = 0
    made: int = 0

    def strikes(self, request: Request) -> bool:
        if self.made == self.times or request.method != self.method or not re.search(self.path, request.path):
            return False
        self.seen += 1
        if self.seen % self.every:
            return False
        self.made += 1
        return True


class FaultyServer(ThreadingHTTPServer):
    """The proxy. What came in is in `requests`; `faults` are made, the first that matches each time."""

    daemon_threads = True

    def __init__(self, backend: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.backend = backend
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self._lock = threading.Lock()

    def receive(self, request: Request) -> str | None:
        """Remember a request; the kind of fault to make of it."""
        with self._lock:
            self.requests.append(request)
            return next((fault.kind for fault in self.faults if fault.strikes(request)), None)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FaultyServer

    def _serve(self) -> None:
        body = self._body()
        kind = self.server.receive(Request(self.command, self.path, self.headers["Range"]))
        if kind in _ERRORS:
            status, code = _ERRORS[kind]
            text = (
                f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>A fault.</Message></Error>".encode()
            )
            self._answer(status, {"Content-Type": "application/xml", "Content-Length": str(len(text))}, text)
            return
        answer, data = self._forward(body)
        headers = {
            k: v for k, v in answer.getheaders() if k.lower() not in ("connection", "transfer-encoding")
        }
        if self.command != "HEAD":
            headers["Content-Length"] = str(len(data))
        self._answer(answer.status, headers, data, cut=kind)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve  # noqa: N815  (names of the base class)

    def _body(self) -> bytes:
        if self.headers["Transfer-Encoding"] != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"] or 0))
        chunks = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _forward(self, body: bytes) -> tuple[HTTPResponse, bytes]:
        headers = {k: v for k, v in self.headers.items() if k.lower() not in _OF_A_CONNECTION}
        headers["Content-Length"] = str(len(body))
        backend = HTTPConnection(*self.server.backend)
        try:
            backend.request(self.command, self.path, body, headers)
            answer = backend.getresponse()
            return answer, answer.read()
        finally:
            backend.close()

    def _answer(self, status: int, headers: dict[str, str], data: bytes, cut: str | None = None) -> None:
        lines = [f"HTTP/1.1 {status} {self.responses.get(status, ('',))[0]}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode()
        if self.command == "HEAD":
            data = b""
        if cut is None:
            self.wfile.write(head + data)
            return
        self.wfile.write(head + data[: len(data) // 2] if data else head[: len(head) // 2])
        self.close_connection = True
        if cut == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self.connection.close()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@dataclass
class Bucket:
    """A bucket of its own for each test, on the server that they share."""

    name: str
    server: FaultyServer = field(repr=False)

    def url(self, path: str = "") -> str:
        host, port = self.server.server_address[:2]
        return f"s3://{self.name}/{path}?endpoint_override={host}:{port}&scheme=http"

    def fail(self, kind: str, times: int, method: str = "GET", path: str = "", every: int = 1) -> Fault:
        """Make a fault from now on; it is returned, to be asked later how often it was made."""
        fault = Fault(kind, times, method, path, every)
        self.server.faults.append(fault)
        return fault

    @contextmanager
    def counting(self) -> Iterator[list[str]]:
        """Methods of the requests that come in meanwhile."""
        first, methods = len(self.server.requests), list[str]()
        yield methods
        methods += [request.method for request in self.server.requests[first:]]


class S3:
    """The server, for a session."""

    def __init__(self) -> None:
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._store = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._store.start()
        self._proxy = FaultyServer(self._store.get_host_and_port())
        threading.Thread(target=self._proxy.serve_forever, daemon=True).start()
        self._buckets = 0

    def bucket(self) -> Bucket:
        """A new bucket, and no faults."""
        self._buckets += 1
        self._proxy.requests.clear()
        self._proxy.faults.clear()
        name = f"bucket-{self._buckets}"
        maker = HTTPConnection(*self._store.get_host_and_port())
        maker.request("PUT", f"/{name}")
        assert maker.getresponse().status == 200
        maker.close()
        return Bucket(name, self._proxy)

    def stop(self) -> None:
        self._proxy.shutdown()
        self._proxy.server_close()
        self._store.stop()
