"""The computing thread: whoever waits for one that hangs is told, and its health is that of its answers."""

import asyncio
import threading

import pytest

from mmray.errors import EngineError
from mmray.serve.compute import Compute
from mmray.serve.problems import Problem, malformed

NEVER = 1000.0


class Probe:
    """Counts how often it is asked; `failure` is raised."""

    def __init__(self, failure=None):
        self.asked = 0
        self.failure = failure

    async def __call__(self):
        self.asked += 1
        if self.failure:
            raise self.failure


def fail_with(error):
    def work():
        raise error

    return work


def test_a_thread_that_hangs_fails_all_who_wait_and_all_who_come():
    async def check():
        compute, end = Compute("t", 0.2, NEVER), threading.Event()
        try:
            waiting = [asyncio.create_task(compute(end.wait)) for _ in range(3)]
            assert all(
                isinstance(e, EngineError) for e in await asyncio.gather(*waiting, return_exceptions=True)
            )
            with pytest.raises(EngineError):
                await compute(lambda: 1)
            for alive in (compute.check_ready, compute.check_alive):
                with pytest.raises(EngineError, match=r"0\.2 s"):
                    alive()
            with pytest.raises(EngineError):
                await compute.check(Probe())
        finally:
            end.set()

    asyncio.run(check())


def test_a_turn_that_is_waited_for_is_no_hanging():
    async def check():
        compute = Compute("t", 0.3, NEVER)
        pause = threading.Event()
        work = [compute(lambda: pause.wait(0.1)) for _ in range(6)]
        await asyncio.gather(*work)
        compute.check_alive()

    asyncio.run(check())


def test_an_engine_that_failed_stays_failed():
    async def check():
        compute, probe = Compute("t", NEVER, NEVER), Probe()
        with pytest.raises(EngineError, match="lost"):
            await compute(fail_with(EngineError("the device is lost")))
        with pytest.raises(EngineError, match="lost"):
            await compute.check(probe)
        with pytest.raises(EngineError, match="lost"):
            await compute(lambda: 1)
        assert not probe.asked

    asyncio.run(check())


@pytest.mark.parametrize("error", [MemoryError(), OSError(24, "Too many open files"), ValueError("a bug")])
def test_after_any_other_fault_the_next_check_finds_out(error):
    async def check():
        compute, probe = Compute("t", NEVER, NEVER), Probe()
        await compute.check(probe)
        assert not probe.asked  # it was loaded a moment ago
        with pytest.raises(type(error)):
            await compute(fail_with(error))
        assert await compute(lambda: 7) == 7
        await compute.check(probe)
        assert probe.asked == 1
        compute.proved()
        await compute.check(probe)
        assert probe.asked == 1

    asyncio.run(check())


def test_a_body_that_cannot_be_read_says_nothing_of_the_model():
    async def check():
        compute, probe = Compute("t", NEVER, NEVER), Probe()
        with pytest.raises(Problem):
            await compute(fail_with(malformed("no JSON")))
        await compute.check(probe)
        assert not probe.asked

    asyncio.run(check())


def test_where_nothing_was_answered_of_late_the_probe_decides():
    async def check():
        compute = Compute("t", NEVER, 0.0)
        with pytest.raises(EngineError, match="off"):
            await compute.check(Probe(EngineError("off")))
        await compute.check(Probe())

    asyncio.run(check())
