"""The verdict on a run, in one line."""

from __future__ import annotations

from mmray.config import RunConfig
from mmray.page.table import number
from mmray.report.facts import Run

GOOD, BAD = "good", "bad"


def verdict(run: Run) -> tuple[str, str]:
    """Whether all is well, and the line.

    A run is clean if its audit is, no shard fault hides records, and no more records were rejected than
    allowed.
    """
    ledger, rejected = run.ledger, run.ledger.rejects.total()
    counts = f"{ledger.rows:,} rows = {ledger.predicted:,} predicted + {rejected:,} rejected"
    if faults := ledger.faults.total():
        counts += f" + {number(faults, 'shard fault')}"
    if not run.finished:
        return BAD, f"Unfinished: {counts} so far; the same `mmray run` continues"
    if faults:
        return (
            BAD,
            f"Records are lost: {counts}; replace the damaged shards with intact copies, then `mmray retry`",
        )
    if not run.summary.get("ok"):
        return BAD, f"The audit is not clean: {counts}; `mmray audit` says what is wrong"
    most = float(run.plan["config"].get("max_reject_rate", RunConfig.model_fields["max_reject_rate"].default))
    rate = float(run.summary.get("reject_rate", 0.0))
    if rate > most:
        return BAD, f"Too many rejects: {counts}; {rate:.1%} is more than max_reject_rate, {most:g}"
    rate_now = float(run.this_run.get("rows_per_s") or 0.0)
    return GOOD, f"Clean: {counts}" + (f", {rate_now:,.1f} rows/s" if rate_now else "")
