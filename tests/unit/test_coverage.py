"""Intervals: where reading goes on, and what nobody has done yet."""

import pytest

from mmray.coverage import WHOLE, Interval, Missing, insert, merge, missing, of_rows, overlaps


def test_touching_and_overlapping_intervals_are_one():
    pieces = [
        Interval(5, 9, 900),
        Interval(0, 2, 200),
        Interval(3, 3, 300),
        Interval(8, 12, 1200),
        Interval(20, 20, 9),
    ]
    assert merge(pieces) == [Interval(0, 3, 300), Interval(5, 12, 1200), Interval(20, 20, 9)]


def test_an_interval_within_another_does_not_move_its_stop():
    assert merge([Interval(0, 9, 900), Interval(2, 3, 300)]) == [Interval(0, 9, 900)]


def test_nothing_done_is_the_whole_shard_missing():
    assert missing([], None) == [WHOLE]
    assert missing([], 3) == [Missing(0, 2, 0)]


@pytest.mark.parametrize(
    ("done", "total", "expected"),
    [
        ([Interval(0, 9, 900)], 10, []),
        ([Interval(0, 4, 500)], 10, [Missing(5, 9, 500)]),
        ([Interval(0, 4, 500)], None, [Missing(5, None, 500)]),
        ([Interval(3, 4, 500)], 5, [Missing(0, 2, 0)]),
        (
            [Interval(1, 1, 200), Interval(4, 4, 500)],
            7,
            [Missing(0, 0, 0), Missing(2, 3, 200), Missing(5, 6, 500)],
        ),
    ],
)
def test_gaps_lie_between_and_after_what_is_done(done, total, expected):
    assert missing(done, total) == expected


def test_rows_in_any_order_become_intervals():
    assert of_rows([(4, 50), (1, 20), (0, 10), (2, 30)]) == [Interval(0, 2, 30), Interval(4, 4, 50)]
    assert of_rows([]) == []


def test_overlap_is_a_shared_row():
    done = [Interval(2, 4, 0), Interval(8, 8, 0)]
    shared = [row for row in range(11) if overlaps(done, Interval(row, row, 0))]
    assert shared == [2, 3, 4, 8]
    assert overlaps(done, Interval(0, 2, 0))
    assert overlaps(done, Interval(5, 20, 0))
    assert not overlaps(done, Interval(5, 7, 0))
    assert not overlaps([], Interval(0, 0, 0))


def test_inserting_joins_what_touches():
    done = [Interval(0, 1, 20), Interval(6, 7, 80)]
    insert(done, Interval(2, 3, 40))
    assert done == [Interval(0, 3, 40), Interval(6, 7, 80)]
    insert(done, Interval(4, 5, 60))
    assert done == [Interval(0, 7, 80)]
    insert(done, Interval(9, 9, 100))
    assert done == [Interval(0, 7, 80), Interval(9, 9, 100)]


def test_an_interval_counts_both_its_ends():
    assert Interval(3, 5, 0).rows == 3
