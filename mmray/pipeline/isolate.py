"""Finds the record that kills whoever touches it, so that it costs itself alone and not its shard.

Rows are in doubt while a worker is at them. Those whose worker died in two passes are cut into pieces, each a
unit of its own, and so on until a record is alone; if its worker dies then, too, while other pieces are
done, it is the record's fault. Each time the pieces are a sixteenth: a pass costs seconds to start, so three
passes are better than the seven of halving.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from mmray.coverage import Interval, Missing
from mmray.pipeline.meter import Doing, Place
from mmray.pipeline.rundir import RunDirectory
from mmray.pipeline.sink import commit
from mmray.schema import REJECTS, OutputColumns, Stage, predictions, table
from mmray.sources import Shard

_PIECES = 16
#: Stages of a reject by the stage that the worker was in.
_BLAMED: Mapping[str, Stage] = {"read": "read", "preprocess": "preprocess"}
_WHY = {
    "worker-died": "the worker that processed this record died, again and again and at last with this record "
    "alone: most often a fault of a decoder, or want of memory; Ray's logs say more",
    "worker-hung": "the worker that processed this record stood still for stall_s, again and again and at last "
    "with this record alone",
}

Gaps = list[tuple[Shard, list[Missing]]]  # what is missing, by shard


@dataclass(frozen=True)
class Culprit:
    """A record that is to be rejected."""

    shard: Shard
    row: int
    stage: Stage
    kind: str  # "worker-died" or "worker-hung"


@dataclass
class Suspects:
    """What the workers were at that died in this run.

    Args:
        locate: the addresses of wanted rows of a shard: a table with the columns ``row``, ``key``, ``offset``,
            ``length`` and ``end``.
    """

    locate: Callable[[Shard, Missing], pa.Table]
    _before: dict[str, list[Missing]] = field(default_factory=dict)  # in doubt after earlier passes
    _alone: set[tuple[str, int]] = field(default_factory=set)  # records that were a unit of their own

    def judge(self, lost: Sequence[Doing], missing: Gaps) -> tuple[Gaps, Gaps, list[tuple[Culprit, pa.Table]]]:
        """After a pass: what of the missing rows is to be run as before, what in pieces, and what never again.

        Args:
            lost: what the workers were at that died in it.
            missing: rows that are missing still.

        Returns:
            Gaps as before; gaps that are each to be a unit; records that are guilty, with their addresses.
        """
        doubts: dict[str, list[tuple[Missing, Doing]]] = {}
        for doing in lost:
            for place in doing.places:
                doubts.setdefault(place.shard, []).append((place.rows, doing))
        normal: Gaps = []
        pieces: Gaps = []
        guilty: list[tuple[Culprit, pa.Table]] = []
        for shard, gaps in missing:
            rest, cut = list(gaps), []
            for doubt, doing in doubts.get(shard.id, []):
                for twice in _overlaps(doubt, self._before.get(shard.id, [])):
                    rest, found = self._examine(shard, rest, twice, doing, guilty)
                    cut += found
            self._before.setdefault(shard.id, []).extend(doubt for doubt, _ in doubts.get(shard.id, []))
            normal += [(shard, rest)] if rest else []
            pieces += [(shard, cut)] if cut else []
        return normal, pieces, guilty

    def _examine(
        self,
        shard: Shard,
        gaps: list[Missing],
        doubt: Missing,
        doing: Doing,
        guilty: list[tuple[Culprit, pa.Table]],
    ) -> tuple[list[Missing], list[Missing]]:
        """Take rows in doubt out of the gaps of a shard: what is left of those, and the pieces."""
        rest: list[Missing] = []
        pieces: list[Missing] = []
        for gap in gaps:
            inside = _intersection(doubt, gap)
            if inside is None:
                rest.append(gap)
                continue
            addresses = self.locate(shard, inside)
            if not addresses.num_rows:
                rest.append(gap)
                continue
            first, last = addresses["row"][0].as_py(), addresses["row"][-1].as_py()
            ended = addresses["end"][-1].as_py()
            if first > gap.first:
                rest.append(Missing(gap.first, first - 1, gap.start))
            if not ended and (gap.last is None or last < gap.last):
                after = addresses["offset"][-1].as_py() + addresses["length"][-1].as_py()
                rest.append(Missing(last + 1, gap.last, after))
            if first == last and (shard.id, first) in self._alone:
                kind = "worker-hung" if doing.hung else "worker-died"
                guilty.append((Culprit(shard, first, _BLAMED.get(doing.stage, "infer"), kind), addresses))
                continue
            pieces += _cut(addresses, gap.last if ended else last)
        self._alone |= {(shard.id, piece.first) for piece in pieces if piece.first == piece.last}
        return rest, pieces


def reject(out: RunDirectory, culprit: Culprit, address: pa.Table, columns: OutputColumns) -> None:
    """Write a part that holds a guilty record's reject and nothing else."""
    (row,) = address.to_pylist()
    shard, stop = culprit.shard.id, row["offset"] + row["length"]
    rejects = {
        "shard": [shard],
        **{name: [row[name]] for name in ("row", "key", "offset", "length")},
        "stage": [culprit.stage],
        "type": [culprit.kind],
        "reason": [_WHY[culprit.kind]],
    }
    coverage = {shard: [Interval(culprit.row, culprit.row, stop)]}
    totals = {shard: culprit.row + 1} if row["end"] else {}
    commit(out, predictions(columns).empty_table(), table(rejects, REJECTS), coverage, totals)


def names(lost: Sequence[Doing]) -> str:
    """What workers were at that died, for people: as in "1 in preprocess of a.tar from row 128 on"."""
    said = []
    for doing in lost:
        where = ", ".join(f"{place.name} from row {place.rows.first} on" for place in doing.places[:2])
        said.append(f"{'stood still' if doing.hung else 'died'} in {doing.stage}{where and f' of {where}'}")
    return "; ".join(said[:3])


def _overlaps(doubt: Missing, others: Sequence[Missing]) -> list[Missing]:
    return [both for other in others if (both := _intersection(doubt, other)) is not None]


def _intersection(doubt: Missing, gap: Missing) -> Missing | None:
    """Rows that are in both; `doubt` has an end."""
    assert doubt.last is not None
    last = doubt.last if gap.last is None else min(doubt.last, gap.last)
    later = max(doubt, gap, key=lambda rows: rows.first)
    return Missing(later.first, last, later.start) if later.first <= last else None


def _cut(addresses: pa.Table, last: int | None) -> list[Missing]:
    """Rows in pieces; the last ends where it is said, so that who reads it sees the shard's end, too."""
    rows, offsets = addresses["row"].to_pylist(), addresses["offset"].to_pylist()
    step = -(-len(rows) // _PIECES)
    begins = list(range(0, len(rows), step))
    ends: list[int | None] = [rows[begin] - 1 for begin in begins[1:]]
    return [Missing(rows[b], end, offsets[b]) for b, end in zip(begins, [*ends, last], strict=True)]
