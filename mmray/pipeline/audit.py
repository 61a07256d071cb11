"""Do input, predictions and rejects add up? Reads the rows that are really there, not only the footers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmray.config import RunConfig
from mmray.coverage import Missing
from mmray.errors import OutputError
from mmray.pipeline.ledger import Ledger, Part
from mmray.pipeline.rundir import RunDirectory
from mmray.pipeline.survey import read_options
from mmray.remote import StoreError
from mmray.sources import ReadOptions, Shard, changes, read
from mmray.storage import Location

_READERS = 8


@dataclass
class ShardAudit:
    """One shard: input = predicted + rejected."""

    shard: str
    total: int | None = None  # None: its end was not reached
    predicted: int = 0
    rejected: int = 0
    missing: list[Missing] = field(default_factory=list)


@dataclass
class Audit:
    """The verdict, shard by shard, and everything that is wrong, in words."""

    shards: list[ShardAudit]
    problems: list[str]

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def predicted(self) -> int:
        return sum(shard.predicted for shard in self.shards)

    @property
    def rejected(self) -> int:
        return sum(shard.rejected for shard in self.shards)

    @property
    def total(self) -> int:
        """Input rows, of the shards whose end was reached."""
        return sum(shard.total or 0 for shard in self.shards)

    def to_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "input": self.total,
            "predicted": self.predicted,
            "rejected": self.rejected,
            "problems": self.problems,
            "shards": [
                {
                    "shard": shard.shard,
                    "input": shard.total,
                    "predicted": shard.predicted,
                    "rejected": shard.rejected,
                    "missing": [[gap.first, gap.last] for gap in shard.missing],
                }
                for shard in self.shards
            ],
        }


def audit(out: RunDirectory, *, recount: bool = False) -> Audit:
    """Check a run directory without changing it, and that its shards are those that it was planned with.

    Args:
        out: the run directory.
        recount: also walk every input shard again and count its records.

    Raises:
        OutputError: not a run directory.
        StoreError: a store does not answer.
    """
    plan = out.read_plan()
    if plan is None:
        raise OutputError(f"{out}: no run there (no plan.json); check the path")
    shards = [Shard.from_list(values) for values in plan["shards"]]
    ledger = Ledger.load(out)
    problems = [f"parts/{name}: not a readable part of a run" for name in ledger.foreign]
    problems += [f"parts/{name}: holds rows that another part holds, too" for name in ledger.superseded]
    problems += [f"rejects/{name}: rejects without their part" for name in ledger.orphans]
    rows: dict[str, Counter[str]] = {}
    with ThreadPoolExecutor(_READERS) as pool:
        for counts, faults in pool.map(lambda part: _check_part(out, part), ledger.parts):
            problems += faults
            for shard_id, counted in counts.items():
                rows.setdefault(shard_id, Counter()).update(counted)
    gaps = {shard.id: missing for shard, missing in ledger.missing(shards)}
    audits = [
        ShardAudit(
            shard.id,
            ledger.totals.get(shard.id),
            predicted=rows.get(shard.id, Counter())["predicted"],
            rejected=rows.get(shard.id, Counter())["rejected"],
            missing=gaps.get(shard.id, []),
        )
        for shard in shards
    ]
    planned = {shard.id for shard in shards}
    problems += [f"{id}: rows of a shard that is not in the plan" for id in rows if id not in planned]
    for verdict in audits:
        problems += _check_shard(verdict)
    changed = changes(shards)
    problems += [
        f"{id}: changed since the run was planned: {why}; run it anew with --accept-changes"
        for id, why in changed.items()
    ]
    if recount:
        options = read_options(RunConfig.model_validate(plan["config"]))
        problems += _recount([shard for shard in shards if shard.id not in changed], audits, options)
    return Audit(audits, problems)


def _check_part(out: RunDirectory, part: Part) -> tuple[dict[str, Counter[str]], list[str]]:
    """Rows of one part by shard, and what its files say that its footer does not."""
    counts: dict[str, Counter[str]] = {shard: Counter() for shard in part.coverage}
    found: dict[str, list[npt.NDArray[np.int64]]] = {shard: [] for shard in part.coverage}
    faults = []
    files = [("predicted", out.parts / part.name, part.predicted)]
    if part.rejected:
        files.append(("rejected", out.rejects / part.name, part.rejected))
    for kind, place, expected in files:
        try:
            table = _read_addresses(place)
        except StoreError:
            raise  # an outage says nothing about the file
        except (OSError, pa.ArrowException) as e:
            faults.append(f"{_short(place)}: cannot be read: {e}")
            continue
        if table.num_rows != expected:
            faults.append(f"{_short(place)}: {table.num_rows} rows, its footer says {expected}")
        for shard in table["shard"].unique().to_pylist():
            if shard not in found:
                faults.append(f"{_short(place)}: rows of {shard}, which its footer does not name")
                continue
            rows = table.filter(pc.equal(table["shard"], shard))["row"].to_numpy()
            counts[shard][kind] += len(rows)
            found[shard].append(rows)
    for shard, intervals in part.coverage.items():
        expected_rows = np.concatenate([np.arange(i.first, i.last + 1) for i in intervals])
        actual = np.sort(np.concatenate(found[shard])) if found[shard] else np.zeros(0, np.int64)
        if not np.array_equal(actual, expected_rows):
            faults.append(f"parts/{part.name}: rows of {shard} are not those that its footer says")
    return counts, faults


def _read_addresses(place: Location) -> pa.Table:
    with place.open_input() as file:
        return pq.read_table(file, columns=["shard", "row"])


def _short(place: Location) -> str:
    return "/".join(place.path.split("/")[-2:])


def _check_shard(shard: ShardAudit) -> Iterable[str]:
    for gap in shard.missing:
        upto = f"{gap.last}" if gap.last is not None else "its end"
        yield f"{shard.shard}: rows {gap.first} to {upto} are not done; run again to resume"
    if shard.total is not None and not shard.missing and shard.total != shard.predicted + shard.rejected:
        out = f"{shard.predicted} predicted + {shard.rejected} rejected"
        yield f"{shard.shard}: {shard.total} rows in, but {out} out"


def _recount(shards: Iterable[Shard], audits: Iterable[ShardAudit], options: ReadOptions) -> Iterable[str]:
    totals = {verdict.shard: verdict.total for verdict in audits}
    for shard in shards:
        rows = sum(block.num_rows for block in read(shard, replace(options, payload=False)))
        if rows != totals[shard.id]:
            yield f"{shard.id}: holds {rows} records, the run saw {totals[shard.id]}"
