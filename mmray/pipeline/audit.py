"""Audit: do input, predictions and rejects add up? Reads all rows, not only the footers.

Every page of every column is read and its checksum verified; values that no model gives are reported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from mmray.config import RunConfig
from mmray.coverage import Missing
from mmray.errors import OutputError
from mmray.page.table import number
from mmray.pipeline.contents import Expected, check_part
from mmray.pipeline.ledger import Ledger
from mmray.pipeline.rundir import RunDirectory
from mmray.pipeline.survey import read_options
from mmray.schema import record_count
from mmray.sources import ReadOptions, Shard, changes, read

_READERS = 8


@dataclass
class ShardAudit:
    """One shard: input = predicted + rejected."""

    shard: str
    total: int | None = None  # None: the end of the shard was not reached
    predicted: int = 0
    rejected: int = 0
    faults: int = 0  # rows at places where the shard is damaged
    missing: list[Missing] = field(default_factory=list)


@dataclass
class Audit:
    """The verdict by shard, and all problems in words."""

    shards: list[ShardAudit]
    problems: list[str]
    faults: list[str] = field(default_factory=list)  # damage in shards that hides records
    broken: list[str] = field(default_factory=list)  # names of parts that a run must do again

    @property
    def ok(self) -> bool:
        return not self.problems and not self.faults

    @property
    def predicted(self) -> int:
        return sum(shard.predicted for shard in self.shards)

    @property
    def rejected(self) -> int:
        return sum(shard.rejected for shard in self.shards)

    @property
    def total(self) -> int:
        """Input rows of the shards whose end was reached."""
        return sum(shard.total or 0 for shard in self.shards)

    def to_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "input": self.total,
            "predicted": self.predicted,
            "rejected": self.rejected,
            "shard_faults": self.faults,
            "problems": self.problems,
            "shards": [
                {
                    "shard": shard.shard,
                    "input": shard.total,
                    "predicted": shard.predicted,
                    "rejected": shard.rejected,
                    "faults": shard.faults,
                    "missing": [[gap.first, gap.last] for gap in shard.missing],
                }
                for shard in self.shards
            ],
        }


def audit(out: RunDirectory, *, recount: bool = False) -> Audit:
    """Check a run directory, and that its shards are those that it was planned with. Changes nothing.

    Args:
        out: the run directory.
        recount: also walk every input shard again and count its records.

    Raises:
        OutputError: not a run directory.
        StoreError: a store does not answer.
    """
    plan = out.read_plan()
    if plan is None:
        raise OutputError(f"{out}: not a run directory (no plan.json); check the path")
    shards = [Shard.from_list(values) for values in plan["shards"]]
    ledger = Ledger.load(out, uncached=True)
    problems = [f"parts/{name}: not a readable part of a run" for name in ledger.foreign]
    problems += [f"parts/{name}: has rows that another part has, too" for name in ledger.superseded]
    problems += [f"{name}: rejects without a part" for name in ledger.orphans]
    rows: dict[str, Counter[str]] = {}
    faults: list[str] = []
    broken = list(ledger.foreign)
    variant = plan.get("variant", "auto")
    expected = Expected(None if variant == "auto" else variant, plan["identity"].get("bundle"))
    with ThreadPoolExecutor(_READERS) as pool:
        checks = pool.map(partial(check_part, out, expected), ledger.parts)
        for part, check in zip(ledger.parts, checks, strict=True):
            problems += check.problems
            faults += check.faults
            broken += [part.name] if check.problems else []
            for shard_id, counted in check.counts.items():
                rows.setdefault(shard_id, Counter()).update(counted)
    gaps = {shard.id: missing for shard, missing in ledger.missing(shards)}
    audits = [
        ShardAudit(
            shard.id,
            ledger.totals.get(shard.id),
            predicted=rows.get(shard.id, Counter())["predicted"],
            rejected=rows.get(shard.id, Counter())["rejected"],
            faults=rows.get(shard.id, Counter())["fault"],
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
        f"{id}: changed since the run was planned: {why}; process it again with --accept-changes"
        for id, why in changed.items()
    ]
    if recount:
        options = read_options(RunConfig.model_validate(plan["config"]))
        problems += _recount([shard for shard in shards if shard.id not in changed], audits, options)
    return Audit(audits, problems, sorted(faults), broken)


def _check_shard(shard: ShardAudit) -> Iterable[str]:
    for gap in shard.missing:
        upto = f"{gap.last}" if gap.last is not None else "its end"
        yield f"{shard.shard}: rows {gap.first} to {upto} are not done; run again to resume"
    out_rows = shard.predicted + shard.rejected + shard.faults
    if shard.total is not None and not shard.missing and shard.total != out_rows:
        out = f"{shard.predicted} predicted + {shard.rejected} rejected"
        yield f"{shard.shard}: {shard.total} rows in, but {out} out"


def _recount(shards: Iterable[Shard], audits: Iterable[ShardAudit], options: ReadOptions) -> Iterable[str]:
    totals = {verdict.shard: verdict.total for verdict in audits}
    for shard in shards:
        rows = sum(map(record_count, read(shard, replace(options, payload=False))))
        if rows != totals[shard.id]:
            yield f"{shard.id}: has {number(rows, 'record')}, but the run saw {totals[shard.id]}"
