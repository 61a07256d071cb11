"""Counters stay small, and shares from sums are those from records."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from mmray.report.counting import BUCKETS, Buckets, Few, Names, Sums
from mmray.stats.intervals import Clusters

RECORDS = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=60)


@given(RECORDS)
def test_intervals_from_sums_are_those_of_the_records(records):
    groups = np.array([group for group, _ in records])
    held = np.array([value for _, value in records])
    sums = Sums(2)
    sums.add(np.ones(len(records), np.int64), groups, held)
    found = sums.share("x", [1])
    low, high = Clusters(groups).interval(held, 0.95)
    assert (found.records, found.mean) == (len(records), held.mean())
    assert abs(found.low - low) < 1e-6
    assert abs(found.high - high) < 1e-6


def test_of_no_record_everything_is_possible():
    assert (Sums(1).share("x", [0]).low, Sums(1).share("x", [0]).high) == (0.0, 1.0)


@given(st.lists(st.integers(0, 9)))
def test_keys_that_come_too_late_are_counted_together(keys):
    few = Few[int](most=4)
    for key in keys:
        few.add(key)
    assert few.total == len(keys)
    assert len(few.counts) <= 4
    assert all(n == keys.count(key) for key, n in few.counts.items())


def test_names_that_come_too_late_share_the_last_number():
    names = Names(2)
    assert [names.number(n) for n in ("a", "b", "c", "a", "d")] == [0, 1, 2, 0, 2]


def test_a_group_keeps_its_bucket_and_a_record_without_one_has_its_own():
    buckets = Buckets()
    first = buckets.of(pa.array(["a", "b", None, "a", None]))
    assert first[0] == first[3]
    assert len(set(first.tolist())) == 4
    assert buckets.of(pa.array(["b"]))[0] == first[1]
    many = buckets.of(pa.array([f"g{i}" for i in range(3 * BUCKETS)]))
    assert many.min() >= 0
    assert many.max() < BUCKETS
    assert buckets.of(pa.array(["g9000"]))[0] == many[9000]
