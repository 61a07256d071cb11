"""A proxy before a store's server, which counts requests and makes faults."""

from __future__ import annotations

import re
import socket
import struct
import threading
import time
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

#: Error answers. After the first two, clients of stores repeat a request by themselves; not so after others.
_ERRORS = {
    "slow-down": (503, "SlowDown"),
    "too-many": (429, "TooManyRequests"),
    "conflict": (409, "OperationAborted"),
    "denied": (403, "AccessDenied"),
}
_LATE_S = 1.0
_OF_A_CONNECTION = (
    "connection",
    "content-length",
    "expect",
    "transfer-encoding",
)  # headers that a proxy does not pass on
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # linger for no time: closing sends RST


class Request(NamedTuple):
    """One request that came in."""

    method: str
    path: str  # with its query
    range: str | None
    nbytes: int  # of its body


@dataclass
class Fault:
    """What becomes of requests that match, from the next one on.

    Kinds: slow-down, too-many, conflict and denied are error answers, and the request is not carried out. In
    short and reset it is, and half of the answer is sent; then the connection is closed, or reset. A late
    answer comes whole, a second later. A stale one is what the same request was answered the last time.
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
        self.answered: dict[str, tuple[int, dict[str, str], bytes]] = {}  # GETs, for stale answers
        self._lock = threading.Lock()

    def handle_error(self, *_: object) -> None:
        """Say nothing: a client that goes in the middle of an answer is part of the tests."""

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
        part = self.headers["x-ms-range"] or self.headers["Range"]
        kind = self.server.receive(Request(self.command, self.path, part, len(body)))
        if kind in _ERRORS:
            self._fail(*_ERRORS[kind])
            return
        if kind == "late":
            time.sleep(_LATE_S)
        if kind == "stale" and self.path in self.server.answered:
            self._answer(*self.server.answered[self.path])
            return
        answer, data = self._forward(body)
        headers = {
            k: v for k, v in answer.getheaders() if k.lower() not in ("connection", "transfer-encoding")
        }
        if self.command != "HEAD":
            headers["Content-Length"] = str(len(data))
        if "Location" in headers:  # where a resumable upload goes on
            backend, proxy = self.server.backend, self.server.server_address
            headers["Location"] = headers["Location"].replace(
                f"//{backend[0]}:{backend[1]}/", f"//{proxy[0]}:{proxy[1]}/"
            )
        if self.command == "GET" and not part:
            self.server.answered[self.path] = answer.status, headers, data
        self._answer(answer.status, headers, data, cut=kind if kind in ("short", "reset") else None)

    def _fail(self, status: int, code: str) -> None:
        """As stores say it: S3 and Azure in XML, Azure in a header too, Google by the status."""
        text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>A fault.</Message></Error>".encode()
        kind = {"Content-Type": "application/xml", "x-ms-error-code": code}
        self._answer(status, kind | {"Content-Length": str(len(text))}, text)

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
