"""Fetches a manifest's files by http and https: bounded in bytes and time, only from public addresses.

Uses the standard library's client, which connects to the checked address, follows no redirects by itself and
uses no proxy. Temporary failures are tried again; after that the record is rejected with a type of its own:
of a million URLs some always fail, and `mmray retry` fetches those again.
"""

from __future__ import annotations

import errno
import io
import random
import re
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from functools import lru_cache
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote, urljoin, urlsplit

from mmray import __version__
from mmray.errors import RecordError
from mmray.magic import HEAD_BYTES, modality_of
from mmray.sources.addresses import resolve
from mmray.sources.fetched import Fetched, shared
from mmray.sources.options import ReadOptions
from mmray.storage import cache_directory

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_REDIRECTS = (301, 302, 303, 307, 308)
_PASSING = (408, 425, 429, 500, 502, 503, 504)  # status codes that may be temporary
_OF_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
_STEP_BYTES = 64 << 10
_BACKOFF_S, _MAX_BACKOFF_S = 1.0, 15.0
_ILL = 8  # consecutive failures of a host; then each URL is tried once, with a short timeout
_ILL_S = 10.0
_SHOWN = 120
_USER = re.compile(r"//[^/@]*@")
_SAFE = "/%:@!$&'()*+,;=~-._?"  # characters of a path or query that are not quoted


class _MayPassError(Exception):
    """A failure that may be temporary."""

    def __init__(self, kind: str, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.kind = kind
        self.wait_s = wait_s  # requested by the server


class _Hosts:
    """State of each host, shared by all threads of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._gates: dict[tuple[str, int], threading.Semaphore] = {}
        self.failures: Counter[str] = Counter()

    def gate(self, host: str, connections: int) -> threading.Semaphore:
        with self._lock:
            return self._gates.setdefault((host, connections), threading.Semaphore(connections))


_hosts = _Hosts()


class Fetcher:
    """Fetches URLs; threads may share one."""

    def __init__(self, options: ReadOptions, cache: Fetched | None = None) -> None:
        self._options = options.fetch
        self._max_bytes = options.member_bytes
        self._cache = cache or shared(options.fetch.cache_bytes, cache_directory() / "fetched")

    def get(self, url: str) -> bytes:
        """The body of a URL, from the cache or the server.

        Raises:
            RecordError: "fetch-failed": the server answered with a permanent error; "fetch-unavailable": with
                a temporary error, at every attempt; "fetch-unreachable": it did not answer any attempt;
                "fetch-refused": fetching from there is not allowed; "member-too-large".
            OSError: this machine has no handle or memory left.
        """
        body = self._cache.get(url, self._max_bytes)
        if body is not None:
            return body
        host = _parts(url)[1]
        ill = _hosts.failures[host] >= _ILL
        attempts = 1 if ill else self._options.attempts
        total_s = min(_ILL_S, self._options.total_s) if ill else self._options.total_s
        for attempt in range(attempts):
            try:
                body = self._follow(url, time.monotonic() + total_s)
            except _MayPassError as e:
                _hosts.failures[host] += e.kind == "fetch-unreachable"
                if attempt == attempts - 1:
                    raise RecordError(f"{_short(url)}: {e} ({attempts} tries)", e.kind) from e
                pause = random.uniform(0, _BACKOFF_S * 2**attempt) if e.wait_s is None else e.wait_s
                time.sleep(min(_MAX_BACKOFF_S, pause))
            else:
                _hosts.failures.pop(host, None)
                break
        assert body is not None
        # Not an error page, which a retry should request again.
        if modality_of(body[:HEAD_BYTES]):
            self._cache.put(url, body)
        return body

    def _follow(self, url: str, deadline: float) -> bytes:
        """One attempt, with its redirects."""
        at = url
        for _ in range(self._options.redirects + 1):
            try:
                there = self._request(at, deadline)
            except RecordError as e:
                if at == url:
                    raise
                raise RecordError(f"{_short(url)} redirects to {e.reason}", e.kind) from e
            if isinstance(there, bytes):
                return there
            at = urljoin(at, there)
        raise RecordError(f"{_short(url)}: more than {self._options.redirects} redirects", "fetch-failed")

    def _request(self, url: str, deadline: float) -> bytes | str:
        """The body at a URL, or where it redirects to."""
        try:
            scheme, host, port, target = _parts(url)
            with _hosts.gate(host, self._options.connections_per_host):
                addresses = resolve(host, port, allow_private=self._options.allow_private)
                connection = _Connection(host, port)
                with connection.pin(addresses, scheme == "https", deadline, self._options.timeout_s):
                    headers = {
                        "User-Agent": f"mmray/{__version__}",
                        "Accept": "*/*",
                        "Accept-Encoding": "identity",
                        "Connection": "close",
                    }
                    connection.request("GET", target, headers=headers)
                    with connection.getresponse() as response:
                        return self._answer(url, response)
        except ssl.SSLCertVerificationError as e:
            raise RecordError(f"{_short(url)}: {e.verify_message}", "fetch-refused") from e
        except socket.gaierror as e:
            raise _MayPassError("fetch-unreachable", f"{host}: {e.strerror}") from e
        except HTTPException as e:
            if isinstance(e, ConnectionError):  # closed before its answer
                raise _MayPassError("fetch-unreachable", str(e)) from e
            raise _MayPassError("fetch-unavailable", f"not HTTP: {type(e).__name__}") from e
        except OSError as e:
            if e.errno in _OF_MACHINE:
                raise
            raise _MayPassError("fetch-unreachable", e.strerror or str(e) or type(e).__name__) from e

    def _answer(self, url: str, response: HTTPResponse) -> bytes | str:
        status = response.status
        if status in _REDIRECTS and (there := response.headers.get("Location")):
            return there
        if status in _PASSING:
            raise _MayPassError("fetch-unavailable", f"HTTP {status}", _wait_s(response))
        if status != 200:
            raise RecordError(f"{_short(url)}: HTTP {status} {response.reason[:_SHOWN]}", "fetch-failed")
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise RecordError(f"{_short(url)}: sent compressed, although not requested", "fetch-failed")
        stated = response.length  # None: not stated
        if stated is not None and stated > self._max_bytes:
            self._refuse_size(url, f"{stated} bytes")
        body = bytearray()
        while part := response.read1(_STEP_BYTES):
            body += part
            if len(body) > self._max_bytes:
                self._refuse_size(url, "it has")
        if stated is not None and len(body) < stated:
            raise _MayPassError("fetch-unreachable", f"broke off at byte {len(body)} of {stated}")
        return bytes(body)

    def _refuse_size(self, url: str, what: str) -> NoReturn:
        reason = f"{_short(url)}: {what} more than limits.member_bytes={self._max_bytes}"
        raise RecordError(reason, "member-too-large")


class _Connection(HTTPConnection):
    """A connection to one of the checked addresses, whose reads end at a deadline."""

    sock: Any  # of the base class, which has no type for it

    def pin(
        self, addresses: Sequence[tuple[int, str]], secure: bool, deadline: float, timeout_s: float
    ) -> socket.socket:
        """Connect to the first address that answers; the caller closes the socket.

        Raises:
            OSError: none can be reached in time.
        """
        self.auto_open = 0  # it never connects by itself, which would resolve the name again
        self.default_port = 443 if secure else 80
        for family, address in addresses[:-1]:
            with suppress(OSError):
                return self._connect(family, address, secure, deadline, timeout_s)
        return self._connect(*addresses[-1], secure, deadline, timeout_s)

    def _connect(
        self, family: int, address: str, secure: bool, deadline: float, timeout_s: float
    ) -> socket.socket:
        wire = socket.socket(family, socket.SOCK_STREAM)
        try:
            wire.settimeout(_left_s(deadline, timeout_s))
            wire.connect((address, self.port))
            if secure:
                wire = _trust().wrap_socket(wire, server_hostname=self.host)
        except BaseException:
            wire.close()
            raise
        self.sock = _Wire(wire, deadline, timeout_s)
        return wire


class _Wire:
    """The part of a socket's interface that the client needs."""

    def __init__(self, wire: socket.socket, deadline: float, timeout_s: float) -> None:
        self._reader = _Reader(wire, deadline, timeout_s)
        self.sendall = wire.sendall

    def makefile(self, mode: str) -> io.BufferedReader:
        assert mode == "rb"
        return io.BufferedReader(self._reader)

    def close(self) -> None:
        """Does nothing: the client calls it before it has read the answer."""


class _Reader(io.RawIOBase):
    """Reads that end at the deadline, even if single bytes keep arriving."""

    def __init__(self, wire: socket.socket, deadline: float, timeout_s: float) -> None:
        self._wire = wire
        self._deadline = deadline
        self._timeout_s = timeout_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        self._wire.settimeout(_left_s(self._deadline, self._timeout_s))
        return self._wire.recv_into(memoryview(buffer))


@lru_cache(maxsize=1)
def _trust() -> ssl.SSLContext:
    return ssl.create_default_context()


def _left_s(deadline: float, timeout_s: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return min(left, timeout_s)


def _parts(url: str) -> tuple[str, str, int, str]:
    """Scheme, host, port and target of a URL.

    Raises:
        RecordError: it is not a URL that is fetched.
    """
    try:
        parts = urlsplit(url.strip())
        scheme, host, port = parts.scheme.lower(), parts.hostname or "", parts.port
        host = host if host.isascii() else host.encode("idna").decode()
    except (ValueError, UnicodeError) as e:
        raise RecordError(f"{_short(url)}: not a URL: {e}", "fetch-refused") from e
    if scheme not in ("http", "https") or not host or parts.username is not None:
        reason = "only http and https are fetched, without user and password"
        raise RecordError(f"{_short(url)}: {reason}", "fetch-refused")
    target = quote(parts.path or "/", safe=_SAFE) + (parts.query and f"?{quote(parts.query, safe=_SAFE)}")
    return scheme, host, port or (443 if scheme == "https" else 80), target


def _wait_s(response: HTTPResponse) -> float | None:
    """Seconds of a Retry-After header, which has seconds or a date."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isdigit():
        return float(text[:6])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time()) if text else None
    except (ValueError, TypeError):
        return None


def _short(url: str) -> str:
    """A URL shortened for a reason; without its query, which may be a signature."""
    text = _USER.sub("//", url.partition("?")[0])
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
