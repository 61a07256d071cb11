"""A server for all tests: one port, small bundles, on the session's cluster."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from mmray.serve.app import Server
from mmray.serve.settings import ServeSettings


@dataclass(frozen=True)
class Served:
    """Where tests find the server; its `url` serves the small bundle."""

    server: Server
    url: str

    @contextmanager
    def also(self, name: str, **settings: Any) -> Iterator[str]:
        """Another application beside it, for a while; its URL."""
        try:
            yield self.deploy(name, **settings)
        finally:
            self.server.remove(name)

    def deploy(self, name: str, **settings: Any) -> str:
        return self.server.deploy(quick(**settings), name=name, prefix=f"/{name}")


@dataclass(frozen=True)
class Guarded:
    """An application that asks for a token."""

    url: str
    token: str


def quick(**settings: Any) -> ServeSettings:
    """Replicas take no CPU from the batch jobs of other tests, and wait for nobody long."""
    return ServeSettings(**{"cpus": 0.0, "body_timeout_s": 2.0, "drain_s": 5.0} | settings)


def start(bundle: str) -> Served:
    """A server at a free port of loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Server("127.0.0.1", port)
    return Served(server, server.deploy(quick(bundle=bundle)))


class Load:
    """Threads that ask one record after the other until told to stop, and keep what they were answered.

    Args:
        url: of the application.
        records: JSON bodies, taken in turn.
        threads: requests at a time.
    """

    def __init__(self, url: str, records: Sequence[dict[str, Any]], threads: int = 4) -> None:
        self.answers: list[tuple[int, httpx.Response | None]] = []  # index of the record; None: broke off
        self._url = f"{url}/v1/predict"
        self._records = records
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(i,)) for i in range(threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, count: int) -> None:
        """Until so many more answers are there."""
        wanted = len(self.answers) + count
        deadline = time.monotonic() + 60
        while len(self.answers) < wanted:
            assert time.monotonic() < deadline, "the server answers no more"
            time.sleep(0.01)

    def _run(self, start: int) -> None:
        with httpx.Client(timeout=60) as client:
            for i in itertools.count(start):
                if self._stop.is_set():
                    return
                index = i % len(self._records)
                try:
                    answer = client.post(self._url, json=self._records[index])
                except httpx.TransportError:
                    answer = None
                self.answers.append((index, answer))
