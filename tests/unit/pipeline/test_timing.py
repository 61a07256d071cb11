"""Seconds of stages add up, and nothing is counted twice."""

from collections import Counter

import pytest

from mmray.pipeline.timing import drain, measured, timed


def test_draining_takes_everything_once():
    a, b = Counter({"image": 2, "model": 1}), Counter({"model": 3})
    assert drain(a, b) == {"image": 2, "model": 4}
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
