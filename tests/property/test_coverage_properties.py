"""The arithmetic of exactly-once, against sets of rows."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from mmray.coverage import Interval, insert, merge, missing, of_rows, overlaps

TOTAL = 40


def stop(row):
    """Byte offset past a row; rows have different sizes."""
    return sum(512 * (1 + r % 3) for r in range(row + 1))


spans = st.tuples(st.integers(0, TOTAL - 1), st.integers(0, 8)).map(
    lambda s: Interval(s[0], min(TOTAL - 1, s[0] + s[1]), stop(min(TOTAL - 1, s[0] + s[1])))
)
many = st.lists(spans, max_size=10)


def rows(intervals):
    return {row for i in intervals for row in range(i.first, i.last + 1)}


def is_normal(intervals):
    """Sorted, apart from each other, each with the offset that belongs to its last row."""
    return all(a.last + 1 < b.first for a, b in pairwise(intervals)) and all(
        i.stop == stop(i.last) for i in intervals
    )


@settings(deadline=None)
@given(many, st.randoms())
def test_merging_keeps_the_rows_and_forgets_the_pieces(pieces, random):
    merged = merge(pieces)
    assert rows(merged) == rows(pieces)
    assert is_normal(merged)
    assert merge(merged) == merged
    shuffled = random.sample(pieces, len(pieces))
    assert merge(shuffled) == merged
    middle = len(pieces) // 2
    assert merge([*merge(pieces[:middle]), *merge(pieces[middle:])]) == merged


@settings(deadline=None)
@given(st.sets(st.integers(0, TOTAL - 1)), st.randoms())
def test_single_rows_merge_into_the_same_intervals(chosen, random):
    done = of_rows((row, stop(row)) for row in random.sample(sorted(chosen), len(chosen)))
    assert rows(done) == chosen
    assert is_normal(done)


@settings(deadline=None)
@given(many, st.booleans())
def test_missing_is_the_complement_and_says_where_to_go_on(pieces, total_known):
    done = merge(pieces)
    gaps = missing(done, TOTAL if total_known else None)
    left = [row for gap in gaps for row in range(gap.first, TOTAL if gap.last is None else gap.last + 1)]
    assert left == sorted(set(range(TOTAL)) - rows(done))
    for gap in gaps:
        assert gap.start == (stop(gap.first - 1) if gap.first else 0)
    assert [gap.last for gap in gaps if gap.last is None] == ([] if total_known else [None])
    assert all(gap.last is not None for gap in gaps[:-1])


@settings(deadline=None)
@given(many)
def test_inserting_what_does_not_overlap_is_merging(pieces):
    done = []
    for piece in pieces:
        assert overlaps(done, piece) == bool(rows(done) & rows([piece]))
        if not overlaps(done, piece):
            expected = merge([*done, piece])
            insert(done, piece)
            assert done == expected
