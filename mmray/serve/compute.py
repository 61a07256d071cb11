"""The compute thread of a replica, and its health, shown by its answers.

Work that takes too long cannot be stopped, so the replica counts as failed from then on: waiting requests
fail at once, and the health check has the replica replaced.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from math import inf
from time import monotonic
from typing import NoReturn, TypeVar

from mmray.errors import EngineError
from mmray.serve.problems import Problem

# A batch takes tenths of a second: from here on, requests should go to other replicas.
_LONG_S = 5.0

T = TypeVar("T")


class Compute:
    """Of one event loop.

    Args:
        name: of the thread.
        timeout_s: maximum time of one piece of work; beyond it the thread counts as hung.
        fresh_s: how long an answer counts as proof of health.
    """

    def __init__(self, name: str, timeout_s: float, fresh_s: float) -> None:
        self._thread = ThreadPoolExecutor(1, name)
        self._name = name
        self._timeout_s = timeout_s
        self._fresh_s = fresh_s
        self._began: float | None = None  # what it is at
        self._proved_at = monotonic()  # what loads a model runs its golden inputs
        self._failure: str | None = None

    async def __call__(self, work: Callable[[], T]) -> T:
        """Result or exception of `work`, in its turn.

        Raises:
            EngineError: the thread hangs, or failed before.
        """
        self.check_alive()
        future = asyncio.get_running_loop().run_in_executor(self._thread, self._timed, work)
        while not future.done():
            await asyncio.wait({future}, timeout=max(0.01, self._left_s()))
            if not future.done():
                self.check_alive()
        try:
            return future.result()
        except Problem:  # a body that cannot be read
            raise
        except EngineError as e:
            self.fail(str(e))
        except Exception:  # handled by the caller; the next check finds out whether more is wrong
            self.doubt()
            raise

    def proved(self) -> None:
        """An answer has just shown that its results are right."""
        self._proved_at = monotonic()

    def doubt(self) -> None:
        """The next check must probe."""
        self._proved_at = -inf

    def fail(self, reason: str) -> NoReturn:
        """Refuse all work from now on.

        Raises:
            EngineError: always.
        """
        self._failure = self._failure or reason
        raise EngineError(self._failure)

    def check_alive(self) -> None:
        """Neither failed nor hung.

        Raises:
            EngineError: it is.
        """
        if self._failure:
            self.fail(self._failure)
        if self._left_s() <= 0:
            self.fail(f"the thread {self._name!r} has worked on one request for {self._timeout_s:g} s")

    def check_ready(self) -> None:
        """Likely to answer the next request soon.

        Raises:
            EngineError: it is not.
        """
        self.check_alive()
        if self._began is not None and monotonic() - self._began > _LONG_S:
            raise EngineError(f"the thread {self._name!r} has worked on one request for {_LONG_S:g} s")

    async def check(self, probe: Callable[[], Awaitable[None]]) -> None:
        """Alive, as shown by a recent answer, or else by `probe`. For current work, the time-out decides.

        Raises:
            EngineError: it is not; or an exception of `probe`.
        """
        self.check_alive()
        if self._began is None and monotonic() - self._proved_at > self._fresh_s:
            await probe()

    def _timed(self, work: Callable[[], T]) -> T:
        self._began = monotonic()
        try:
            return work()
        finally:
            self._began = None

    def _left_s(self) -> float:
        began = self._began  # the thread may finish it between two checks
        return self._timeout_s - (monotonic() - began if began is not None else 0.0)
