"""A web server on loopback that answers as a test says, and counts what it was asked."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Web:
    """Pages by path: bytes, or a function that answers by itself."""

    url: str = ""
    pages: dict[str, Any] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    hosts: set[str] = field(default_factory=set)  # that requests named
    most: int = 0  # requests at once, of those that are slow
    now: int = 0
    lock: Any = field(default_factory=threading.Lock)


def status(code: int, **headers: str) -> Callable[[Any], None]:
    """A page that is an error, or a redirect."""

    def answer(handler: Any) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def in_turn(*pages: Any) -> Callable[[Any], None]:
    """Each page once, the last for ever."""
    left = list(pages)

    def answer(handler: Any) -> None:
        handler.page(left.pop(0) if len(left) > 1 else left[0])

    return answer


@contextmanager
def serving() -> Iterator[Web]:
    web = Web()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with web.lock:
                web.asked[self.path] += 1
                web.hosts.add(self.headers["Host"])
            with suppress(BrokenPipeError, ConnectionResetError):
                self.page(web.pages.get(self.path, status(404)))

        def slow(self, page: Any, seconds: float) -> None:
            """Think for a while; ends before the answer does, so that who waits for it is not counted."""
            with web.lock:
                web.now += 1
                web.most = max(web.most, web.now)
            time.sleep(seconds)
            with web.lock:
                web.now -= 1
            self.page(page)

        def page(self, page: Any) -> None:
            if callable(page):
                page(self)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    web.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
