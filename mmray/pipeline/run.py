"""One run: survey, plan, process what is missing, audit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import time
from typing import Any

from mmray import __version__
from mmray.config import RunConfig
from mmray.errors import RunError
from mmray.pipeline.audit import Audit, audit
from mmray.pipeline.cluster import connected
from mmray.pipeline.execute import RunningMeter, execute, metered
from mmray.pipeline.ledger import Ledger
from mmray.pipeline.meter import Snapshot
from mmray.pipeline.plan import Plan, make_plan
from mmray.pipeline.rundir import RunDirectory
from mmray.pipeline.survey import Survey, survey

_PASSES = 3  # after a pass, what crashed tasks left out or wrote twice is done once more


@dataclass(frozen=True)
class Watcher:
    """Who is told how the run goes."""

    surveyed: Callable[[Survey, Ledger], None]  # before the cluster starts
    planned: Callable[[Plan], None]
    progress: Callable[[Snapshot], None]  # twice a second, from a thread of its own


@dataclass(frozen=True)
class Result:
    """What a run came to."""

    summary: dict[str, Any]  # what summary.json holds
    audit: Audit


def preview(config: RunConfig) -> tuple[Plan, Ledger]:
    """What `run` would do on this cluster, and what is done already. Writes nothing.

    Raises:
        UsageError: as `run` would.
    """
    found = survey(config)
    out = RunDirectory.at(found.config.output)
    earlier = out.read_plan()
    if earlier is not None:
        found.check_resumable(earlier)
    with connected() as machines:
        return make_plan(found, machines), Ledger.load(out) if earlier else Ledger()


def run(config: RunConfig, watcher: Watcher) -> Result:
    """Run a config to its end, or continue it where an earlier run broke off.

    Raises:
        UsageError: nothing was run: config, input, bundle or output directory are not as they must be.
        RunError: the run broke off; the same call resumes it.
    """
    started = time()
    found = survey(config)
    out = RunDirectory.at(found.config.output)
    ledger = _resumed(out, found)
    watcher.surveyed(found, ledger)
    if not ledger.missing(found.shards):
        return _conclude(out, found, ledger, {})
    with connected() as machines:
        plan = make_plan(found, machines)
        watcher.planned(plan)
        out.begin(plan.to_json())
        out.log("started", mmray=__version__, topology=plan.topology, actors=plan.actors)
        with metered(watcher.progress) as meter:
            ledger = _process(plan, out, ledger, meter)
            counted = meter.read()
    this_run = {
        "rows": counted.rows,
        "topology": plan.topology,
        "actors": plan.actors,
        "elapsed_s": round(time() - started, 3),
        "startup_s": round(counted.first - started, 3),
        "rows_per_s": round(counted.rows_per_s, 2),
        "stage_seconds": {stage: round(seconds, 3) for stage, seconds in counted.seconds.items()},
    }
    return _conclude(out, found, ledger, this_run)


def _resumed(out: RunDirectory, found: Survey) -> Ledger:
    """What an earlier run in this directory has done, tidied up, if this survey may continue it."""
    earlier = out.read_plan()
    if earlier is None:
        return Ledger()
    found.check_resumable(earlier)
    ledger = Ledger.load(out)
    ledger.settle(out)
    return ledger


def _process(plan: Plan, out: RunDirectory, ledger: Ledger, meter: RunningMeter) -> Ledger:
    """Do what is missing until nothing is."""
    for number in range(1, _PASSES + 1):
        units = plan.units(ledger.missing(plan.survey.shards))
        if not units:
            return ledger
        out.log("pass", number=number, units=len(units))
        try:
            execute(plan, units, meter)
        except RunError as e:
            out.log("broke off", reason=str(e))
            raise
        ledger = Ledger.load(out)
        ledger.settle(out)
    if ledger.missing(plan.survey.shards):
        raise RunError(f"{out}: still incomplete after {_PASSES} passes; see `mmray audit {out}`")
    return ledger


def _conclude(out: RunDirectory, found: Survey, ledger: Ledger, this_run: dict[str, Any]) -> Result:
    """Audit, and write the summary."""
    verdict = audit(out)
    rejects, modalities = ledger.rejects, ledger.modalities
    total = ledger.predicted + rejects.total()
    summary = {
        "ok": verdict.ok,
        "rows": total,
        "predicted": ledger.predicted,
        "rejected": rejects.total(),
        "reject_rate": round(rejects.total() / total, 6) if total else 0.0,
        "rejects": dict(rejects.most_common()),  # by stage/type
        "modalities": dict(modalities.most_common()),  # predicted rows by what they were predicted from
        "shards": len(found.shards),
        "parts": len(ledger.parts),
        "variant": found.config.variant,
        "bundle": found.bundle.digest,
        # Of this call alone; empty where an earlier one had left nothing to do.
        "this_run": this_run,
    }
    if this_run or not out.summary.exists():
        out.write_summary(summary)
        out.log("finished", ok=verdict.ok, rows=total)
    return Result(summary, verdict)
