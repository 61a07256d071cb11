"""A second bundle is asked beside the first, and nothing that happens there reaches who asks the first."""

import asyncio

import pytest
from ray.exceptions import RayError

from mmray.errors import EngineError
from mmray.serve.bodies import Item
from mmray.serve.metrics import Metrics
from mmray.serve.shadowing import Shadowing
from mmray.serve.work import Work


class Counting:
    """What Ray's metrics do not tell: what was counted."""

    def __init__(self):
        self.counts = {}

    def inc(self, value=1.0, tags=None):
        key = tags["answer"], tags["modalities"]
        self.counts[key] = self.counts.get(key, 0) + value


def work(*texts):
    return Work([Item({"text": text.encode()}) for text in texts])


def rows(*labels):
    return [{"label": label, "modalities": ["text"]} for label in labels]


def compared(ask, *offers, share=1.0):
    """Counts after some offers, once nothing is under way."""
    metrics = Metrics()
    metrics.canary = Counting()

    async def offer():
        shadowing = Shadowing(ask, share, metrics)
        for one in offers:
            shadowing.offer(*one)
        while shadowing._under_way:
            await asyncio.sleep(0.01)

    asyncio.run(offer())
    return metrics.canary.counts


async def first_letter(asked):
    return [item.members["text"].decode()[0] if item.members["text"] else None for item in asked.items]


def test_labels_are_compared_record_by_record():
    counts = compared(first_letter, (work("ab", "cd", ""), rows("a", "b", "x")))
    assert counts == {("same", "text"): 1, ("other", "text"): 1, ("rejected", "text"): 1}


def test_records_without_a_label_are_not_compared():
    assert compared(first_letter, (work("ab", "cd"), rows(None, "c"))) == {("same", "text"): 1}
    assert compared(first_letter, (work("ab"), rows(None))) == {}


@pytest.mark.parametrize("failure", [EngineError("hangs"), TimeoutError(), MemoryError(), RayError("died")])
def test_a_canary_that_fails_is_counted_and_told_once(failure, caplog):
    async def fail(asked):
        raise failure

    assert compared(fail, *[(work("ab"), rows("a"))] * 3) == {("failed", "text"): 3}


def test_a_canary_that_is_behind_is_asked_no_more_than_a_few_at_once():
    most = 0
    open_now = 0

    async def slow(asked):
        nonlocal most, open_now
        open_now += 1
        most = max(most, open_now)
        await asyncio.sleep(0.05)
        open_now -= 1
        return ["a"]

    counts = compared(slow, *[(work("ab"), rows("a"))] * 40)
    assert most <= 4
    assert counts[("same", "text")] + counts[("skipped", "text")] == 40
    assert counts[("skipped", "text")] == 36


def test_a_share_of_the_requests_is_compared():
    async def at_once(asked):
        return ["a"]

    assert compared(at_once, *[(work("ab"), rows("a"))] * 400, share=1e-9) == {}
