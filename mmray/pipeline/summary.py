"""The result of a run: the figures of summary.json."""

from __future__ import annotations

from dataclasses import dataclass
from time import time
from typing import Any

from mmray.canary import describe as describe_canary
from mmray.pipeline.advice import advise
from mmray.pipeline.audit import Audit
from mmray.pipeline.ledger import Ledger
from mmray.pipeline.plan import Plan
from mmray.pipeline.rundir import RunDirectory
from mmray.pipeline.snapshot import Snapshot
from mmray.pipeline.survey import Survey


@dataclass(frozen=True)
class Result:
    """What a run came to."""

    summary: dict[str, Any]  # contents of summary.json
    audit: Audit
    max_reject_rate: float  # that the config allows


def describe(plan: Plan, counted: Snapshot, started: float) -> dict[str, Any]:
    """Figures of one call.

    Args:
        plan: that it followed.
        counted: by the meter, at its end.
        started: Unix time.
    """
    return {
        "rows": counted.rows,
        "topology": plan.topology,
        "actors": plan.actors,
        "elapsed_s": round(time() - started, 3),
        "startup_s": round(counted.first - started, 3),
        "rows_per_s": round(counted.rows_per_s, 2),
        "stage_seconds": {stage: round(seconds, 3) for stage, seconds in counted.seconds.items()},
        **(_describe_split(plan, counted) if plan.topology == "split" else {}),
        **({"cascade": _describe_cascade(counted)} if plan.cascade else {}),
        **({"canary": describe_canary(counted.canary)} if counted.canary else {}),
        **({"drift": counted.drift.to_json()} if counted.drift else {}),
    }


def _describe_split(plan: Plan, counted: Snapshot) -> dict[str, Any]:
    """Use of the devices, time of a record in tasks and on devices, and what bounds the run."""
    rows = max(1, counted.rows)
    task_s, device_s = counted.task_s / rows, counted.device_s / rows
    advice = advise(task_s, device_s, plan.task_cpus, plan.actors)
    return {
        "device_busy": round(counted.device_busy, 4),
        "devices": {name: use.to_json() for name, use in counted.devices.items()},
        "task_ms": round(1e3 * task_s, 3),
        "device_ms": round(1e3 * device_s, 3),
        "task_cpus": plan.task_cpus,
        "cpu_rows_per_s": advice and round(advice.cpu_rows_per_s, 1),
        "device_rows_per_s": advice and round(advice.device_rows_per_s, 1),
        "cpus_per_device": advice and advice.cpus_per_device,
        "advice": str(advice or ""),
    }


def _describe_cascade(counted: Snapshot) -> dict[str, Any]:
    """Early exits by stage, their agreement with the full model, and the time that they saved.

    The saving is the time that early exits would have taken to the end, as measured on the shadowed records.
    """
    rows = sum(counted.left.values())
    early = rows - counted.left.get(max(counted.left, default=0), 0)
    in_full = counted.seconds["shadow"] / counted.shadowed if counted.shadowed else None
    return {
        "left": {str(stage): round(n / rows, 4) for stage, n in counted.left.items()},
        "shadowed": counted.shadowed,
        "agreed": counted.agreed,
        "saved_s": None if in_full is None else round(in_full * early, 3),
        "shift": counted.shift,
    }


def conclude(
    out: RunDirectory, found: Survey, ledger: Ledger, verdict: Audit, this_run: dict[str, Any]
) -> Result:
    """Write the summary.

    Args:
        out: the run directory.
        found: the survey.
        ledger: the finished rows.
        verdict: of the audit.
        this_run: from `describe`; empty if nothing was left to do.
    """
    plan = out.read_plan() or {}
    rejects, modalities, faults = ledger.rejects, ledger.modalities, ledger.faults
    records = ledger.predicted + rejects.total()
    summary = {
        "ok": verdict.ok,
        "rows": ledger.rows,
        "predicted": ledger.predicted,
        "rejected": rejects.total(),
        "reject_rate": round(rejects.total() / records, 6) if records else 0.0,
        "rejects": dict(rejects.most_common()),  # by stage/type
        # Predicted rows without a label because of a low score; null if each row has one.
        "abstained": ledger.abstained if plan.get("least_score") is not None else None,
        "modalities": dict(modalities.most_common()),  # predicted rows by modalities
        # Rows at damaged places of shards: the number of records lost there is unknown.
        "shard_faults": dict(faults.most_common()),
        "faulty_shards": len(ledger.faulty),
        # Unused input by kind: contents of records, and files of no record.
        "unread": ledger.unread.to_json(),
        "unread_files": found.unread_files.to_json(),
        "empty_shards": sum(total == 0 for total in ledger.totals.values()),
        # Columns of `carry` in which no row has a value.
        "null_columns": sorted(name for name, rows in ledger.carried.items() if not rows),
        "shards": len(found.shards),
        "parts": len(ledger.parts),
        "variant": plan.get("variant", found.config.variant),
        "bundle": found.bundle.digest,
        # Of this call only; empty if an earlier one had left nothing to do.
        "this_run": this_run,
    }
    if this_run or not out.summary.exists():
        out.write_summary(summary)
        out.log("finished", ok=verdict.ok, rows=ledger.rows)
    return Result(summary, verdict, found.config.max_reject_rate)
