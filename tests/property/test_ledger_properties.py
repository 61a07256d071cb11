"""Exactly once: however rows are grouped, split, repeated and ordered on their way to the disk."""

import tempfile
from pathlib import Path

import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st
from support.outcomes import begin, fails, interval, rows_of, shard, write

from mmray.pipeline.audit import audit
from mmray.pipeline.ledger import Ledger

SHARDS = (shard("a.tar", 12), shard("b.tar", 5), shard("c.tar", 1))
ALL = [pair for one in SHARDS for pair in rows_of(one)]

groups = st.lists(st.lists(st.sampled_from(ALL), min_size=1, max_size=10, unique=True), max_size=6)


@st.composite
def shuffled_partition(draw):
    """Every row once, in groups of any size and any order."""
    rows = draw(st.permutations(ALL))
    cuts = sorted(draw(st.sets(st.integers(1, len(ALL) - 1), max_size=5)))
    return [rows[a:b] for a, b in zip([0, *cuts], [*cuts, len(ALL)], strict=True)]


def wanted_rows(missing):
    """(shard, row) pairs of a ledger's missing intervals."""
    return [
        (one, row)
        for one, gaps in missing
        for gap in gaps
        for row in range(gap.first, one.size // 1024 if gap.last is None else gap.last + 1)
    ]


def rows_on_disk(folder):
    """(shard id, row) pairs in parts/ and rejects/."""
    tables = [pq.read_table(path, columns=["shard", "row"]) for path in Path(folder).glob("*/*.parquet")]
    return [(row["shard"], row["row"]) for table in tables for row in table.to_pylist()]


def by_id(pairs):
    return sorted((one.id, row) for one, row in pairs)


@settings(deadline=None, max_examples=40)
@given(groups, st.randoms())
def test_what_counts_and_what_is_missing_are_all_rows_once(groups, random):
    """Parts may overlap in any way, as after crashes and retries."""
    with tempfile.TemporaryDirectory() as folder:
        out = begin(folder, *SHARDS)
        for rows in groups:
            write(out, rows)
        ledger = Ledger.load(out)
        chosen = {part.name for part in ledger.parts}
        ledger.clean_up(out)
        again = Ledger.load(out)
        assert {part.name for part in again.parts} == chosen
        assert (again.superseded, again.orphans, again.foreign) == ([], [], [])
        done = rows_on_disk(folder)
        assert len(done) == len(set(done))
        missing = wanted_rows(again.missing(SHARDS))
        assert sorted(done + by_id(missing)) == by_id(ALL)
        assert set(by_id(missing)) | {pair for rows in groups for pair in by_id(rows)} == set(by_id(ALL))
        for one, gaps in again.missing(SHARDS):
            assert all(gap.start == (interval(0, gap.first - 1).stop if gap.first else 0) for gap in gaps), (
                one
            )
        assert audit(out).ok == (not missing)
        if missing:  # and a resume, in whatever grouping, makes it whole
            random.shuffle(missing)
            middle = len(missing) // 2
            for rows in filter(None, (missing[:middle], missing[middle:])):
                write(out, rows)
        verdict = audit(out)
        assert verdict.problems == []
        assert (verdict.predicted, verdict.rejected) == (
            len(ALL) - verdict.rejected,
            sum(fails(r) for _, r in ALL),
        )


@settings(deadline=None, max_examples=25)
@given(shuffled_partition(), st.data())
def test_a_crash_after_any_write_costs_only_what_was_not_written(groups, data):
    """Also one that falls between the rejects and their part."""
    with tempfile.TemporaryDirectory() as folder:
        out = begin(folder, *SHARDS)
        written = data.draw(st.integers(0, len(groups)), label="groups written")
        parts = [write(out, rows) for rows in groups[:written]]
        if parts and data.draw(st.booleans(), label="torn"):
            Path(folder, "parts", parts.pop().name).unlink()
            written -= 1
        ledger = Ledger.load(out)
        ledger.clean_up(out)
        left = wanted_rows(ledger.missing(SHARDS))
        assert by_id(left) == by_id(pair for rows in groups[written:] for pair in rows)
        if left:
            write(out, left)
        assert audit(out).problems == []
