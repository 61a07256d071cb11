"""Requests to a real server that stalls: what was due meanwhile is counted with all of its wait."""

import asyncio
import contextlib
import threading
import time
from collections import Counter

import numpy as np
import pytest

from mmray.load.open_loop import Target, arrivals, load, one_by_one

STALL_S = 1.0
ANSWER = b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\nok"


class Tiny:
    """A server in a thread. It answers at once, but at one request its whole event loop stalls."""

    def __init__(self, stall_at=None, status=200):
        self.heard = Counter()
        self.connections = 0
        self._stall_at, self._status = stall_at, status

    async def talk(self, reader, writer):
        self.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
                self.heard[await reader.readexactly(length)] += 1
                if self.heard.total() == self._stall_at:
                    time.sleep(STALL_S)  # nobody is answered
                writer.write(ANSWER % self._status)
                await writer.drain()
        writer.close()

    def __enter__(self):
        ready = threading.Event()

        async def main():
            self.loop, self.end = asyncio.get_running_loop(), asyncio.Event()
            server = await asyncio.start_server(self.talk, "127.0.0.1", 0, backlog=1000)
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            ready.set()
            await self.end.wait()

        self.thread = threading.Thread(target=asyncio.run, args=(main(),))
        self.thread.start()
        ready.wait()
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.end.set)
        self.thread.join()

    def target(self, *bodies):
        return Target(self.url, bodies or (b"a",), "text/plain", timeout_s=5.0)


def test_arrivals_are_a_poisson_process_of_the_rate():
    due = np.array(arrivals(50.0, warm_s=2.0, requests=5000, seed=1))
    gaps = np.diff(due)
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.05)
    assert gaps.std() == pytest.approx(1 / 50, rel=0.05)  # as the mean: it is exponential
    assert (due[-5000:] >= 2.0).all()
    assert (due[:-5000] < 2.0).all()


def test_a_stall_is_counted_for_all_who_should_have_been_answered_meanwhile():
    """1 s of 4: a quarter of all requests wait, half of those for more than half of it.

    A client that waits for each answer sees one slow one of 400, and its p99 knows nothing of it.
    """
    with Tiny(stall_at=150) as server:
        step = load(server.target(), 100.0, requests=400, warm_s=0.2, seed=0)
        closed = one_by_one(server.target(*[b"a"] * 400))
    assert step.statuses == {200: 400}
    assert step.p99_low_ms > 500 * STALL_S
    assert step.p50_ms < 500 * STALL_S
    assert not step.holds(500 * STALL_S)
    assert sorted(sent.latency_s for sent in closed)[-5] < STALL_S / 2
    assert server.connections > 50  # those who were due did not wait for a connection of others


def test_bodies_are_sent_in_turns_and_those_of_the_warm_up_do_not_count():
    with Tiny() as server:
        step = load(server.target(b"one", b"two"), 400.0, requests=400, warm_s=0.5, seed=0)
    assert step.requests == 400
    assert server.heard.total() > 500
    assert abs(server.heard[b"one"] - server.heard[b"two"]) <= 1
    assert step.answered_per_s == 400.0


def test_a_server_that_refuses_or_is_gone_holds_nothing():
    with Tiny(status=503) as server:
        refused = load(server.target(), 200.0, requests=50, warm_s=0.0, seed=0)
        target = server.target()
    gone = load(target, 200.0, requests=50, warm_s=0.0, seed=0)
    assert refused.statuses == {503: 50}
    assert gone.statuses == {0: 50}
    assert not refused.holds(1e6)
    assert not gone.holds(1e6)
