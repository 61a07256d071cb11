"""Dynamic batching: calls that arrive while one batch runs share the next.

Not `serve.batch`: it closes a batch when it is queued, not when it runs, so that with 32 connections and no
wait batches had 1.3 records.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Gathering(Generic[T, R]):
    """Calls of one event loop, answered in batches, one batch at a time.

    Args:
        run: answers a batch, in order.
        cost: of one call.
        most: cost of a batch; a call that costs more is a separate batch.
        wait_s: how long a batch waits for more records.
    """

    def __init__(
        self,
        run: Callable[[list[T]], Awaitable[list[R]]],
        cost: Callable[[T], int],
        most: int,
        wait_s: float,
    ) -> None:
        self._run = run
        self._cost = cost
        self._most = most
        self._wait_s = wait_s
        self._waiting: deque[tuple[T, int, asyncio.Future[R]]] = deque()
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, work: T) -> R:
        """The answer to one call; an exception of `run` is raised for all calls of its batch."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((work, self._cost(work), future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run_all())
        return await future

    async def _run_all(self) -> None:
        while self._waiting:
            if self._wait_s:
                await asyncio.sleep(self._wait_s)
            batch = self._next_batch()
            if not batch:
                continue
            try:
                answers = await self._run([work for work, _ in batch])
            except Exception as e:  # each caller gets it and handles it
                for _, future in batch:
                    if not future.done():
                        future.set_exception(e)
                continue
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():  # the client may have gone meanwhile
                    future.set_result(answer)

    def _next_batch(self) -> list[tuple[T, asyncio.Future[R]]]:
        batch: list[tuple[T, asyncio.Future[R]]] = []
        total = 0
        while self._waiting and (not batch or total + self._waiting[0][1] <= self._most):
            work, cost, future = self._waiting.popleft()
            if not future.done():
                batch.append((work, future))
                total += cost
        return batch
