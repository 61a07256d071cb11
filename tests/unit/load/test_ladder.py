"""The highest rate that holds is found from below and from above, and not by luck."""

from hypothesis import given
from hypothesis import strategies as st

from mmray.load.ladder import highest_rate


@given(limit=st.floats(1.0, 1000.0), first=st.floats(1.0, 1000.0))
def test_it_is_at_most_an_eighth_below_the_limit(limit, first):
    found = highest_rate(lambda rate: rate <= limit, first)
    if found is None:
        assert limit * 1.5**2 < first  # two rates below the first one were tried
    else:
        assert limit / 1.12 <= found <= limit or found >= first * 1.5**14


def test_a_rate_that_held_by_luck_is_given_up_for_the_next_lower_one():
    tried = []

    def holds(rate):
        tried.append(rate)
        return rate <= 10 or (rate == 15 and tried.count(15) == 1)

    found = highest_rate(holds, 10)
    assert found == 10
    assert tried.count(15) == 2
    assert tried[-1] == 10


def test_where_no_rate_holds_twice_lower_ones_are_tried():
    tried = []

    def holds(rate):
        tried.append(rate)
        return rate < 5 or (rate <= 10 and tried.count(rate) == 1)

    assert highest_rate(holds, 10) == 10 / 1.5**2
    assert tried[-2:] == [10 / 1.5**2] * 2


def test_a_server_that_never_fails_does_not_keep_it_for_ever():
    assert highest_rate(lambda _: True, 1.0) > 100
