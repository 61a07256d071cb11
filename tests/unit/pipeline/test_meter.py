"""What is counted for the display and the summary."""

from collections import Counter

import pytest

from mmray.pipeline.meter import Meter, Snapshot, drain, measured, timed


def test_counts_of_all_workers_add_up():
    meter = Meter()
    meter.add({"rows": 3, "rejects": 1, "model": 0.5})
    meter.add({"rows": 5, "rejects": 0, "image": 0.25, "model": 0.25})
    snapshot = meter.read()
    assert (snapshot.rows, snapshot.rejects, snapshot.first_rows) == (8, 1, 3)
    assert (snapshot.seconds["model"], snapshot.seconds["image"], snapshot.seconds["write"]) == (
        0.75,
        0.25,
        0,
    )
    assert 0 < snapshot.first <= snapshot.last


def test_the_rate_leaves_out_the_start_and_the_first_block():
    assert Snapshot(rows=110, first=100.0, first_rows=10, last=104.0).rows_per_s == 25
    assert Snapshot(rows=10, first=100.0, first_rows=10, last=100.0).rows_per_s == 0
    assert Snapshot().rows_per_s == 0


def test_seconds_alone_do_not_start_the_clock():
    meter = Meter()
    meter.add({"image": 1.0})
    assert meter.read().first == 0


def test_draining_takes_everything_once():
    a, b = Counter({"image": 2}), Counter({"model": 3})
    assert drain(a, b) == {"image": 2, "model": 3}
    assert drain(a, b) == {}


def test_time_is_added_also_where_the_body_fails():
    seconds = Counter()
    with pytest.raises(ValueError, match="no"), measured(seconds, "write"):
        raise ValueError("no")
    assert seconds["write"] > 0


def test_waiting_for_items_is_timed_and_working_on_them_is_not():
    seconds = Counter()
    assert list(timed(iter("abc"), seconds, "read")) == ["a", "b", "c"]
    assert 0 < seconds["read"] < 1


def test_a_shift_is_called_where_early_answers_surely_differ_too_often():
    meter = Meter(disagreement=0.05)
    meter.add({"left 1": 300, "left 2": 100, "shadowed": 20, "agreed": 18})
    assert meter.read().shift == ""
    assert meter.read().left == {1: 300, 2: 100}
    meter.add({"left 1": 300, "shadowed": 20, "agreed": 2})
    assert "20 of 40 early answers that were compared differ" in meter.read().shift


def test_without_a_cascade_nothing_shifts():
    meter = Meter()
    meter.add({"shadowed": 20, "agreed": 0})
    assert meter.shift() == ""


def test_the_busy_share_is_of_the_time_of_all_devices():
    meter = Meter()
    assert meter.read().device_busy == 0
    meter.add({"busy": 3.0, "wall": 4.0, "task": 0.5})
    meter.add({"busy": 5.0, "wall": 6.0})
    assert (meter.read().device_busy, meter.read().task_s) == (0.8, 0.5)
