"""Threads take turns at a device, and its times add up."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mmray.engine.turns import Device


def test_one_inference_runs_at_a_time_whoever_asks():
    device, inside, done = Device(), [], []

    def infer(number):
        inside.append(1)
        assert len(inside) == 1
        done.append(sum(range(20_000)) and number)
        inside.pop()

    with ThreadPoolExecutor(4) as threads:
        turns = list(threads.map(lambda n: device.run(lambda: infer(n)), range(200)))
    assert sorted(done) == list(range(200))
    assert all(0 <= turn.busy_s <= turn.wall_s for turn in turns)


def test_a_failure_leaves_the_device_to_the_others():
    device, done = Device(), []

    def fail():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        device.run(fail)
    device.run(lambda: done.append(1))
    assert done == [1]


def test_what_a_shape_takes_at_first_is_planning_and_not_work():
    device = Device()
    turns = [device.run(lambda: time.sleep(0.001), shape) for shape in ("a", "a", "b", "a", "a")]
    assert [turn.planned_s > 0 for turn in turns] == [True, False, True, False, False]
    assert [turn.busy_s > 0 for turn in turns] == [False, True, False, True, True]
    assert [turn.changed for turn in turns] == [True, False, True, True, False]


def test_copies_are_timed_and_need_no_turn():
    device, done = Device(), []
    with ThreadPoolExecutor(1) as threads:

        def compute():
            threads.submit(device.copy, lambda: done.append("copied"), 8).result(timeout=10)
            done.append("computed")

        device.run(compute)
    assert done == ["copied", "computed"]
    assert device.copy(lambda: time.sleep(0.001), 8) >= 0.001
