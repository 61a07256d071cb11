"""Rates of what was counted."""

from mmray.pipeline.snapshot import Snapshot


def test_the_rate_leaves_out_the_start_and_the_first_block():
    assert Snapshot(rows=110, first=100.0, first_rows=10, last=104.0).rows_per_s == 25
    assert Snapshot(rows=10, first=100.0, first_rows=10, last=100.0).rows_per_s == 0
    assert Snapshot().rows_per_s == 0
