"""Whatever records kill their workers: they are found, they alone, in few passes."""

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from support.outcomes import shard

from mmray.coverage import Missing, missing, of_rows
from mmray.pipeline.isolate import Suspects
from mmray.pipeline.snapshot import Doing, Place

BLOCK = 8
SHARD = shard("a.tar", 5_000)


class Runner:
    """A shard of `rows` records, ten bytes each, and workers that die of some of them."""

    def __init__(self, rows, deadly):
        self.rows, self.deadly = rows, deadly
        self.done = set()  # on disk
        self.seen_end = False

    def missing(self):
        found = missing(
            of_rows((row, 10 * row + 10) for row in self.done), self.rows if self.seen_end else None
        )
        return [(SHARD, found)] if found else []

    def locate(self, _, wanted):
        rows = range(wanted.first, min(wanted.last + 1, self.rows))
        assert wanted.start == 10 * wanted.first
        table = {"row": list(rows), "key": [str(row) for row in rows], "offset": [10 * row for row in rows]}
        return pa.table({**table, "length": [10] * len(rows), "end": [row == self.rows - 1 for row in rows]})

    def work(self, unit, kept):
        """Blocks of a unit, until one is deadly: what it was at then. Some before that are lost, too."""
        last = self.rows - 1 if unit.last is None else unit.last
        before = []
        for first in range(unit.first, last + 1, BLOCK):
            block = range(first, min(first + BLOCK, last + 1))
            if self.deadly & set(block):
                self.done |= set(before[:kept])
                return Doing("preprocess", (Place(SHARD.id, Missing(first, block[-1] + BLOCK, 10 * first)),))
            before += block
        self.done |= set(before)
        self.seen_end |= unit.last is None or last == self.rows - 1
        return None


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 200), st.data())
def test_the_deadly_records_are_found_and_no_others(rows, data):
    deadly = data.draw(st.sets(st.integers(0, rows - 1), max_size=4))
    runner = Runner(rows, deadly)
    suspects = Suspects(runner.locate)
    as_before, alone, guilty = runner.missing(), [], []
    for _ in range(6 + 4 * len(deadly)):
        units = [gap for gaps in (as_before, alone) for _, each in gaps for gap in each]
        lost = [runner.work(unit, data.draw(st.integers(0, 20))) for unit in units]
        verdict = suspects.judge([doing for doing in lost if doing], runner.missing())
        assert covered(verdict.as_before + verdict.alone + of_culprits(verdict.guilty), rows) == covered(
            runner.missing(), rows
        )
        for culprit in verdict.guilty:
            guilty.append(culprit.address["row"])
            runner.done.add(culprit.address["row"])
            runner.seen_end |= culprit.address["end"]
        as_before, alone = verdict.as_before, verdict.alone
        if not runner.missing():
            break
    assert sorted(guilty) == sorted(deadly)
    assert runner.done == set(range(rows))


def covered(gaps, rows):
    """Rows in gaps; none is there twice."""
    listed = [row for _, each in gaps for gap in each for row in rows_of(gap, rows)]
    assert len(listed) == len(set(listed))
    return set(listed)


def rows_of(gap, rows):
    assert gap.start == 10 * gap.first
    return range(gap.first, rows if gap.last is None else gap.last + 1)


def of_culprits(guilty):
    return [(SHARD, [Missing(c.address["row"], c.address["row"], c.address["offset"])]) for c in guilty]
