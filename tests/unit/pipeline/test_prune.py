"""Rows of shards that changed go, all others stay, wherever a crash falls between."""

import pyarrow.parquet as pq
import pytest
from support.outcomes import begin, files, rows_of, shard, write
from support.runs import part_files

from mmray.coverage import WHOLE
from mmray.pipeline.ledger import Ledger
from mmray.pipeline.prune import prune

A, B, C = shard("a.tar", 10), shard("b.tar", 4), shard("c.tar", 3)


@pytest.fixture
def out(tmp_path):
    """A with B in one part, C in another."""
    out = begin(tmp_path / "run", A, B, C)
    write(out, [*rows_of(A), *rows_of(B)])
    write(out, rows_of(C))
    return out


def addresses(out):
    tables = [pq.read_table(path) for path in part_files(out)]
    return sorted((row["shard"], row["row"]) for table in tables for row in table.to_pylist())


def test_only_rows_of_the_named_shards_stay(out):
    before = addresses(out)
    ledger = prune(out, {A.id, C.id})
    assert ledger.missing([A, B, C]) == [(B, [WHOLE])]
    assert addresses(out) == [address for address in before if address[0] != B.id]
    assert ledger.rejects.total() == 4


def test_a_part_of_stale_rows_alone_goes_with_its_rejects(out):
    prune(out, {A.id, B.id})
    assert len(files(out)) == 2
    assert Ledger.load(out).missing([A, B, C]) == [(C, [WHOLE])]


def test_what_is_not_stale_is_not_touched(out):
    before = files(out)
    prune(out, {A.id, B.id, C.id})
    assert files(out) == before


def test_a_crash_between_writing_and_deleting_loses_and_doubles_nothing(out):
    old = files(out)
    prune(out, {A.id, C.id})
    once = addresses(out)
    for name, data in old.items():  # as if the old files had not been deleted yet
        (part_files(out)[0].parent.parent / name).write_bytes(data)
    Ledger.load(out).clean_up(out)
    prune(out, {A.id, C.id})
    assert addresses(out) == once
