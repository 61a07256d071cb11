"""Finds a record that kills its worker, so that only this record is rejected and not its shard.

Rows are suspect while a worker processes them. If the worker died in two passes, its rows are cut into
pieces, each its own unit, and so on until a record is alone. If its worker dies again while other pieces
succeed, the record is at fault. Pieces are a sixteenth each: a pass takes seconds to start, so three passes
are better than the seven of bisection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from mmray.coverage import Interval, Missing
from mmray.pipeline.rundir import RunDirectory
from mmray.pipeline.sink import commit
from mmray.pipeline.snapshot import Doing, End
from mmray.schema import REJECTS, OutputColumns, Stage, predictions, table
from mmray.sources import Shard

_PIECES = 16
#: Stage of a reject by the stage that the worker was in; for any other, "infer".
_BLAMED: Mapping[str, Stage] = {"read": "read", "preprocess": "preprocess"}
#: By how its worker ended: type of the reject, and words for the reason.
_ENDS: Mapping[End, tuple[str, str]] = {
    "died": ("worker-died", "died"),
    "hung": ("worker-hung", "made no progress for stall_s"),
    "out of memory": ("worker-out-of-memory", "needed more memory than its limit"),
}
_WHY = "several times, the last time with only this record; see Ray's logs"

Gaps = list[tuple[Shard, list[Missing]]]  # what is missing, by shard
_Rows = Sequence[Mapping[str, Any]]  # addresses of consecutive rows


class Culprit(NamedTuple):
    """A record to reject."""

    shard: Shard
    address: Mapping[str, Any]  # its ``row``, ``key``, ``offset``, ``length`` and ``end``
    doing: Doing  # what its worker was doing


class Verdict(NamedTuple):
    """How the next pass handles the rows that are still missing."""

    as_before: Gaps
    alone: Gaps  # each gap is a separate unit
    guilty: list[Culprit]


class Suspects:
    """Tracks the rows of workers that died in this run.

    Args:
        locate: gives the addresses of wanted rows of a shard: a table with the columns ``row``, ``key``,
            ``offset``, ``length`` and ``end``.
    """

    def __init__(self, locate: Callable[[Shard, Missing], pa.Table]) -> None:
        self._locate = locate
        self._before: dict[str, list[Missing]] = {}  # suspect rows after earlier passes, by shard id
        self._alone: set[tuple[str, int]] = set()  # records that were a separate unit

    def judge(self, lost: Sequence[Doing], missing: Gaps) -> Verdict:
        """Call it after each pass.

        Args:
            lost: what the workers that died in the pass were doing.
            missing: rows that are still missing.
        """
        verdict = Verdict([], [], [])
        for shard, gaps in missing:
            doubts = [(at.rows, doing) for doing in lost for at in doing.places if at.shard == shard.id]
            for doubt, doing in doubts:
                if (shard.id, doubt.first) in self._alone:
                    gaps, found = self._take(shard, gaps, doubt._replace(last=doubt.first))
                    verdict.guilty.extend(Culprit(shard, rows[0], doing) for rows, _ in found)
            earlier = self._before.setdefault(shard.id, [])
            pieces: list[Missing] = []
            for doubt, _ in doubts:
                for twice in [both for other in earlier if (both := _both(doubt, other))]:
                    gaps, found = self._take(shard, gaps, twice)
                    pieces += [piece for rows, last in found for piece in self._cut(shard, rows, last)]
            earlier += [doubt for doubt, _ in doubts]
            verdict.as_before.extend([(shard, gaps)] if gaps else [])
            verdict.alone.extend([(shard, pieces)] if pieces else [])
        return verdict

    def _take(
        self, shard: Shard, gaps: list[Missing], wanted: Missing
    ) -> tuple[list[Missing], list[tuple[_Rows, int | None]]]:
        """Take rows out of the gaps of a shard.

        Returns:
            The rest of the gaps; for each gap the addresses of the rows taken and its last row, None if only
            reading on shows whether the shard ends there.
        """
        rest: list[Missing] = []
        taken: list[tuple[_Rows, int | None]] = []
        for gap in gaps:
            inside = _both(wanted, gap)
            rows = self._locate(shard, inside).to_pylist() if inside else []
            if not rows:
                rest.append(gap)
                continue
            first, last = rows[0], rows[-1]
            if first["row"] > gap.first:
                rest.append(Missing(gap.first, first["row"] - 1, gap.start))
            if not last["end"] and last["row"] != gap.last:
                rest.append(Missing(last["row"] + 1, gap.last, last["offset"] + last["length"]))
            taken.append((rows, gap.last if last["end"] else last["row"]))
        return rest, taken

    def _cut(self, shard: Shard, rows: _Rows, last: int | None) -> list[Missing]:
        """Rows in pieces; the last piece ends at the given row."""
        if len(rows) <= _PIECES:
            self._alone |= {(shard.id, row["row"]) for row in rows}
        begins = rows[:: -(-len(rows) // _PIECES)]
        ends: list[int | None] = [begin["row"] - 1 for begin in begins[1:]]
        pieces = zip(begins, [*ends, last], strict=True)
        return [Missing(begin["row"], end, begin["offset"]) for begin, end in pieces]


def reject(out: RunDirectory, culprit: Culprit, columns: OutputColumns) -> None:
    """Write a part with only the reject of a guilty record."""
    at, doing, shard = culprit.address, culprit.doing, culprit.shard.id
    kind, did = _ENDS[doing.end]
    row = {
        "shard": shard,
        **{name: at[name] for name in ("row", "key", "offset", "length")},
        "stage": _BLAMED.get(doing.stage, "infer"),
        "type": kind,
        "reason": f"the worker that processed it {did}, {_WHY}",
    }
    coverage = {shard: [Interval(at["row"], at["row"], at["offset"] + at["length"])]}
    totals = {shard: at["row"] + 1} if at["end"] else {}
    rejects = table({name: [value] for name, value in row.items()}, REJECTS)
    commit(out, predictions(columns).empty_table(), rejects, coverage, totals)


def names(lost: Sequence[Doing]) -> str:
    """What workers that died were doing, as in "died in preprocess of a.tar from row 128 on"."""
    said = []
    for doing in lost[:3]:
        where = ", ".join(f"{at.name} from row {at.rows.first} on" for at in doing.places[:2])
        said.append(f"{_ENDS[doing.end][1]} in {doing.stage}{where and f' of {where}'}")
    return "; ".join(said)


def _both(doubt: Missing, gap: Missing) -> Missing | None:
    """Rows that are in both; `doubt` is bounded."""
    last = doubt.last if gap.last is None else min(doubt.last or 0, gap.last)
    later = max(doubt, gap, key=lambda rows: rows.first)
    return Missing(later.first, last, later.start) if later.first <= (last or 0) else None
