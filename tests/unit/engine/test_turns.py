"""Threads take turns at a device, and its times add up."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from mmray.engine.turns import Device


def test_one_inference_runs_at_a_time_whoever_asks():
    device, inside = Device(), []

    def infer(feeds):
        inside.append(1)
        assert len(inside) == 1
        sum(range(20_000))
        inside.pop()
        return feeds

    with ThreadPoolExecutor(4) as threads:
        turns = list(threads.map(lambda n: device.run(infer, {"n": n}), range(200)))
    assert [turn.outputs["n"] for turn in turns] == list(range(200))
    assert all(0 <= turn.busy_s <= turn.wall_s for turn in turns)


def test_a_failure_leaves_the_device_to_the_others():
    device = Device()

    def fail(feeds):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        device.run(fail, {})
    assert device.run(lambda feeds: feeds, {"a": 1}).outputs == {"a": 1}
