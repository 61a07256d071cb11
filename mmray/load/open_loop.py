"""Requests at fixed times (an open loop): a stalled server does not delay them.

A client that waits for an answer before it sends again sends less the slower the server is, and measures few
of the requests that would have waited: "coordinated omission" (Gil Tene, How NOT to Measure Latency, 2015).
Users do not wait for each other. So arrivals are a Poisson process, each request has its own task, and its
latency counts from when it was due.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
import numpy as np

from mmray.load.latency import Sent, Step, step_of

T = TypeVar("T")


@dataclass(frozen=True)
class Target:
    """Where requests go."""

    url: str
    bodies: Sequence[bytes]  # sent in turns
    content_type: str
    timeout_s: float = 10.0  # for an answer; later ones do not count


def arrivals(rate_per_s: float, *, warm_s: float, requests: int, seed: int) -> list[float]:
    """Seconds from the start at which requests of a Poisson process are due.

    Args:
        rate_per_s: on average.
        warm_s: as long as this, and then so many:
        requests: the last ones, which count.
        seed: of the random numbers.
    """
    rng = np.random.default_rng(seed)
    due = [0.0]
    while due[-1] < warm_s:
        due.append(due[-1] + float(rng.exponential(1 / rate_per_s)))
    for _ in range(requests - 1):
        due.append(due[-1] + float(rng.exponential(1 / rate_per_s)))
    return due


def load(target: Target, rate_per_s: float, *, requests: int, warm_s: float, seed: int) -> Step:
    """Send at one rate until all are answered; returns the results.

    Args:
        target: of the requests.
        rate_per_s: requests a second, on average.
        requests: that count.
        warm_s: seconds before, in which requests are sent but do not count.
        seed: of the times at which they come.
    """
    due = arrivals(rate_per_s, warm_s=warm_s, requests=requests, seed=seed)
    cpu_before_s, before_s = time.process_time(), time.perf_counter()
    sent = _in_thread(_send_all(target, due))
    share = (time.process_time() - cpu_before_s) / (time.perf_counter() - before_s)
    return step_of(sent[-requests:], rate_per_s, share)


def one_by_one(target: Target) -> list[Sent]:
    """Each body once, the next one after the answer: the latency of an idle server."""
    return _in_thread(_send_in_turn(target))


async def _send_all(target: Target, due: Sequence[float]) -> list[Sent]:
    async with _session(target) as session:
        start_s = time.perf_counter() + 0.05
        tasks = []
        for i, at in enumerate(due):
            if (wait_s := start_s + at - time.perf_counter()) > 0:
                await asyncio.sleep(wait_s)
            body = target.bodies[i % len(target.bodies)]
            tasks.append(asyncio.create_task(_send(session, target, body, start_s + at)))
        return await asyncio.gather(*tasks)


async def _send_in_turn(target: Target) -> list[Sent]:
    async with _session(target) as session:
        return [await _send(session, target, body, time.perf_counter()) for body in target.bodies]


async def _send(session: aiohttp.ClientSession, target: Target, body: bytes, due_s: float) -> Sent:
    sent_s = time.perf_counter()
    try:
        async with session.post(target.url, data=body) as response:
            await response.read()
            status = response.status
    except (aiohttp.ClientError, OSError):  # a time-out is an OSError
        status = 0
    return Sent(due_s, sent_s, time.perf_counter(), status)


def _session(target: Target) -> aiohttp.ClientSession:
    """Connections are reused; there are as many as open requests."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=target.timeout_s),
        headers={"Content-Type": target.content_type},
    )


def _in_thread(work: Coroutine[Any, Any, T]) -> T:
    """Run it in a thread: signals are for the main thread, and asyncio would swallow their exceptions."""
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(asyncio.run(work))
        except BaseException as e:  # the main thread answers
            result.set_exception(e)

    threading.Thread(target=run, daemon=True).start()
    return result.result()
