"""Calls share a batch with those who wait, within its cost, and each gets its own answer."""

import asyncio

import pytest

from mmray.serve.gathering import Gathering


class Model:
    """Doubles numbers; batches run when told to."""

    def __init__(self, most=8):
        self.batches = []
        self.go = asyncio.Semaphore(0)
        self.call = Gathering(self._run, cost=abs, most=most, wait_s=0.0)

    async def _run(self, batch):
        self.batches.append(batch)
        await self.go.acquire()
        if 0 in batch:
            raise ZeroDivisionError
        return [2 * number for number in batch]

    async def begin(self, *numbers):
        tasks = [asyncio.create_task(self.call(number)) for number in numbers]
        for _ in range(3):
            await asyncio.sleep(0)
        return tasks


def test_whoever_arrives_while_a_batch_runs_shares_the_next():
    async def check():
        model = Model()
        first = await model.begin(1)
        others = await model.begin(2) + await model.begin(3)
        model.go.release()
        model.go.release()
        assert await asyncio.gather(*first, *others) == [2, 4, 6]
        assert model.batches == [[1], [2, 3]]

    asyncio.run(check())


def test_a_batch_is_bounded_by_its_cost_and_what_alone_is_more_is_one_of_its_own():
    async def check():
        model = Model(most=5)
        tasks = await model.begin(1) + await model.begin(2, 3, 1, 9, 4)
        for _ in tasks:
            model.go.release()
        assert await asyncio.gather(*tasks) == [2, 4, 6, 2, 18, 8]
        assert model.batches == [[1], [2, 3], [1], [9], [4]]

    asyncio.run(check())


def test_an_exception_is_that_of_its_batch_and_the_next_one_runs():
    async def check():
        model = Model()
        failing = await model.begin(0)
        good = await model.begin(1)
        model.go.release()
        model.go.release()
        with pytest.raises(ZeroDivisionError):
            await failing[0]
        assert await good[0] == 2

    asyncio.run(check())


def test_nothing_is_computed_for_a_caller_who_has_gone():
    async def check():
        model = Model()
        first = await model.begin(1)
        gone, stays = await model.begin(2, 3)
        gone.cancel()
        model.go.release()
        model.go.release()
        assert await asyncio.gather(*first, stays) == [2, 6]
        assert model.batches == [[1], [3]]

    asyncio.run(check())
