"""Slow clients hold neither places of the queue nor the room of those who send."""

import asyncio
from contextlib import ExitStack

import pytest

from mmray.serve.admission import Admission
from mmray.serve.problems import Problem


async def send(admission, *pieces, pause=None, timeout_s=60.0):
    """A request that sends its body in pieces, and waits for `pause` before the last."""
    with admission.request() as arrival:
        async with arrival.within(timeout_s):
            for piece in pieces[:-1]:
                arrival.came(piece)
            if pause:
                await pause.wait()
            arrival.came(pieces[-1])
        with admission.place():
            return "answered"


async def statuses(*tasks):
    found = await asyncio.gather(*tasks, return_exceptions=True)
    return [e.status if isinstance(e, Problem) else e for e in found]


def test_bodies_on_their_way_hold_no_place():
    async def check():
        admission, pause = Admission(places=1, bodies=8, most_bytes=100), asyncio.Event()
        slow = [asyncio.create_task(send(admission, 1, 1, pause=pause)) for _ in range(4)]
        await asyncio.sleep(0)
        assert await send(admission, 1) == "answered"
        pause.set()
        assert await statuses(*slow) == 4 * ["answered"]

    asyncio.run(check())


def test_a_full_queue_refuses_before_the_body_is_read():
    admission = Admission(places=2, bodies=8, most_bytes=100)
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(admission.place())
        with pytest.raises(Problem, match="try again"), admission.request():
            pass
    with admission.request(), admission.place():
        pass


def test_the_body_that_was_silent_longest_makes_room_for_one_more():
    async def check():
        admission, pause = Admission(places=8, bodies=2, most_bytes=100), asyncio.Event()
        slow = [asyncio.create_task(send(admission, 1, 1, pause=pause)) for _ in range(2)]
        await asyncio.sleep(0)
        assert await send(admission, 1) == "answered"
        pause.set()
        assert await statuses(*slow) == [503, "answered"]

    asyncio.run(check())


def test_bytes_that_were_sent_and_then_nothing_make_room_for_those_who_send():
    async def check():
        admission, never = Admission(places=8, bodies=8, most_bytes=100), asyncio.Event()
        slow = asyncio.create_task(send(admission, 90, 1, pause=never))
        await asyncio.sleep(0)
        assert await statuses(send(admission, 20)) == ["answered"]
        assert await statuses(slow) == [503]
        assert await statuses(send(admission, 50, 40)) == ["answered"]  # what it held is free again

    asyncio.run(check())


def test_more_bytes_than_there_is_room_for_are_refused():
    admission = Admission(places=8, bodies=8, most_bytes=100)
    assert asyncio.run(statuses(send(admission, 60, 60))) == [503]
    assert asyncio.run(statuses(send(admission, 60, 40))) == ["answered"]


def test_a_body_that_takes_too_long_is_no_overload():
    never = asyncio.Event()
    admission = Admission(places=8, bodies=8, most_bytes=100)
    with pytest.raises(TimeoutError):
        asyncio.run(send(admission, 1, 1, pause=never, timeout_s=0.01))
