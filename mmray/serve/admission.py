"""Limits of a replica: places in its queue, bodies in transit, total bytes of bodies.

A place is taken when the body has arrived, so that slow clients occupy none. If too much is in transit, the
body that was silent longest is dropped: normal clients are never silent for long.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from mmray.serve.problems import overloaded


class Admission:
    """Of one replica, on its event loop.

    Args:
        places: requests whose body has arrived and that are not yet answered.
        bodies: maximum number in transit at a time.
        most_bytes: of all bodies, as far as they have arrived.
    """

    def __init__(self, *, places: int, bodies: int, most_bytes: int) -> None:
        self._places = places
        self._bodies = bodies
        self._most_bytes = most_bytes
        self._taken = 0
        self._bytes = 0
        self._arriving: dict[Arrival, asyncio.Timeout] = {}  # silent longest first

    @contextmanager
    def request(self) -> Iterator[Arrival]:
        """A request from its head to its answer.

        Raises:
            Problem: 503, at once, if the queue is full: its body is not read.
        """
        self._check_places()
        arrival = Arrival(self)
        try:
            yield arrival
        finally:
            self._bytes -= arrival.bytes

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place in the queue, for a request whose body has arrived.

        Raises:
            Problem: 503.
        """
        self._check_places()
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    def _check_places(self) -> None:
        if self._taken >= self._places:
            raise overloaded()

    def _begin(self, arrival: Arrival, deadline: asyncio.Timeout) -> None:
        if len(self._arriving) >= self._bodies:
            self._give_up_most_silent()
        self._arriving[arrival] = deadline

    def _came(self, arrival: Arrival, count: int) -> None:
        if arrival.given_up:
            raise overloaded()
        arrival.bytes += count
        self._bytes += count
        self._arriving[arrival] = self._arriving.pop(arrival)
        if self._bytes > self._most_bytes:
            if len(self._arriving) == 1:
                raise overloaded()
            self._give_up_most_silent()

    def _give_up_most_silent(self) -> None:
        arrival, deadline = next(iter(self._arriving.items()))
        del self._arriving[arrival]
        arrival.given_up = True
        if not deadline.expired():
            deadline.reschedule(asyncio.get_running_loop().time())

    def _end(self, arrival: Arrival) -> None:
        self._arriving.pop(arrival, None)


class Arrival:
    """The body of one request, in transit."""

    def __init__(self, admission: Admission) -> None:
        self.bytes = 0
        self.given_up = False
        self._admission = admission

    @asynccontextmanager
    async def within(self, timeout_s: float) -> AsyncIterator[None]:
        """The time during which the body arrives.

        Raises:
            Problem: 503, others needed the memory.
            TimeoutError: it did not arrive within `timeout_s`.
        """
        try:
            async with asyncio.timeout(timeout_s) as deadline:
                self._admission._begin(self, deadline)
                yield
        except TimeoutError:
            if self.given_up:
                raise overloaded() from None
            raise
        finally:
            self._admission._end(self)

    def came(self, count: int) -> None:
        """Add so many bytes.

        Raises:
            Problem: 503, there is no memory for them.
        """
        self._admission._came(self, count)
