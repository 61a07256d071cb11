"""One run: survey, plan, process what is missing, audit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import time
from typing import Any

from mmray import __version__
from mmray.config import RunConfig
from mmray.errors import OutputError, RunError
from mmray.pipeline.advice import advise
from mmray.pipeline.audit import Audit, audit
from mmray.pipeline.cluster import connected
from mmray.pipeline.execute import RunningMeter, balanced, execute, execute_retry, locate, metered, settled
from mmray.pipeline.isolate import Gaps, Suspects, names, reject
from mmray.pipeline.ledger import Ledger
from mmray.pipeline.meter import Doing, Snapshot
from mmray.pipeline.plan import Plan, make_plan
from mmray.pipeline.prune import prune
from mmray.pipeline.rundir import RunDirectory
from mmray.pipeline.survey import Survey, output_columns, survey
from mmray.sources import Shard

# Passes in a row in which workers died and nothing was done. Where several died it is no record's fault;
# where one did, the third pass has its rows in pieces.
_IDLE_PASSES = {"several": 1, "one": 2}
_MEND = "mend that, and run the same command again"


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


def preview(config: RunConfig, *, moved: bool = False) -> tuple[Plan, Ledger]:
    """What `run` would do on this cluster, and what is done already. Writes nothing.

    Raises:
        UsageError: as `run` would.
    """
    out = RunDirectory.at(config.output)
    earlier = out.read_plan()
    found = survey(config, earlier)
    if earlier is not None:
        found.check_resumable(earlier, moved=moved)
    with connected() as machines:
        plan = balanced(settled(make_plan(found, machines), earlier))
        return plan, Ledger.load(out) if earlier else Ledger()


def run(config: RunConfig, watcher: Watcher, *, accept_changes: bool = False, moved: bool = False) -> Result:
    """Run a config to its end, or continue it where an earlier run broke off.

    Args:
        config: what to run.
        watcher: told how it goes.
        accept_changes: continue although shards came or changed since; those are run (anew).
        moved: continue with files that were copied in a way that keeps neither times nor versions.

    Raises:
        UsageError: nothing was run: config, input, bundle or output directory are not as they must be.
        RunError: the run broke off; the same call resumes it.
    """
    started = time()
    out = RunDirectory.at(config.output)
    earlier = out.read_plan()
    found = survey(config, earlier)
    ledger = Ledger()
    if earlier is not None:
        found.check_resumable(earlier, accept_changes=accept_changes, moved=moved)
        ledger = Ledger.load(out)
        ledger.settle(out)
        if accept_changes:
            ledger = prune(out, found.unchanged(earlier, moved=moved))
    watcher.surveyed(found, ledger)
    if not ledger.missing(found.shards):
        if moved and earlier is not None:  # from now on the files are compared with what they are here
            out.begin({**earlier, "shards": [shard.to_list() for shard in found.shards]})
        return _conclude(out, found, ledger, {})
    with connected() as machines:
        plan = settled(make_plan(found, machines), earlier)
        watcher.planned(plan)
        out.begin(plan.to_json())
        out.log("started", mmray=__version__, topology=plan.topology, actors=plan.actors)
        with metered(watcher.progress, plan) as meter:
            ledger = _process(plan, out, ledger, meter)
            counted = meter.read()
    return _conclude(out, found, ledger, _describe(plan, counted, started))


def retry(output: str, overrides: Callable[[Mapping[str, Any]], RunConfig], watcher: Watcher) -> Result:
    """Process the rejects of a run anew; those that succeed now become predictions.

    Args:
        output: the run directory.
        overrides: makes the config of the retry from that of the run.
        watcher: told how it goes.

    Raises:
        OutputError: no finished run there.
        RunError: the retry broke off; the same call goes on from there.
    """
    started = time()
    out = RunDirectory.at(output)
    earlier = out.read_plan()
    if earlier is None:
        raise OutputError(f"{output}: no run there (no plan.json); check the path")
    found = survey(overrides(earlier["config"]))
    shards = [Shard.from_list(values) for values in earlier["shards"]]
    ledger = Ledger.load(out)
    ledger.settle(out)
    watcher.surveyed(found, ledger)
    parts = [part.name for part in ledger.parts if part.rejected]
    if not parts:
        return _conclude(out, found, ledger, {})
    with connected() as machines:
        plan = settled(make_plan(found, machines), earlier)
        watcher.planned(plan)
        out.log("retry", rejects=ledger.rejects.total(), parts=len(parts), identity=found.identity())
        with metered(watcher.progress, plan) as meter:
            execute_retry(plan, parts, shards, meter)
            counted = meter.read()
        ledger = Ledger.load(out)
        ledger.settle(out)
    return _conclude(out, found, ledger, _describe(plan, counted, started))


def _process(plan: Plan, out: RunDirectory, ledger: Ledger, meter: RunningMeter) -> Ledger:
    """Do what is missing, in passes, until nothing is or they get nowhere."""
    suspects = Suspects(partial(locate, plan))
    config = plan.survey.config.model_copy(update={"variant": plan.variant})
    columns = output_columns(config, plan.survey.bundle)
    missing, alone = ledger.missing(plan.survey.shards), Gaps()
    number = idle = 0
    while missing or alone:
        number += 1
        units = [*plan.units(missing), *plan.alone(alone)]
        out.log("pass", number=number, units=len(units))
        try:
            execute(plan, units, meter)
        except RunError as e:
            out.log("broke off", reason=str(e))
            raise
        before, ledger = ledger.rows, Ledger.load(out)
        ledger.settle(out)
        missing, lost = ledger.missing(plan.survey.shards), meter.take_lost()
        idle = idle + 1 if ledger.rows == before else 0
        if lost:
            out.log("lost", workers=len(lost), at=names(lost))
        if missing and idle:
            _check_hope(idle, missing, lost, meter.read().unreadable)
        missing, alone, guilty = suspects.judge(lost, missing)
        for culprit in guilty:
            reject(out, culprit, columns)
        if guilty:
            ledger = Ledger.load(out)
    return ledger


def _check_hope(idle: int, missing: Gaps, lost: Sequence[Doing], unreadable: Mapping[str, str]) -> None:
    """Raise a RunError after passes in which nothing was done, if another would not help.

    Args:
        idle: how many such passes there were.
        missing: what is missing.
        lost: what the workers were at that died.
        unreadable: why shards cannot be read, by name.
    """
    name, count = missing[0][0].name, f"{len(missing)} shards are incomplete"
    if all(shard.name in unreadable for shard, _ in missing):
        raise RunError(f"{count}, all others are done; {name}: {unreadable[name]}; {_MEND}")
    if idle > _IDLE_PASSES["several" if len(lost) > 1 else "one"]:
        at = names(lost) or f"died before it began with {name}"
        raise RunError(f"no progress: each worker {at}; {count}; Ray's logs say more; {_MEND}")


def _describe(plan: Plan, counted: Snapshot, started: float) -> dict[str, Any]:
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
    }


def _describe_split(plan: Plan, counted: Snapshot) -> dict[str, Any]:
    """What the devices did, what a record takes of tasks and devices, and what bounds the run."""
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
    """Who left where, whether early answers were right, and what they saved.

    The saving is what the records that left early would have cost in full, as measured on the shadow.
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
        "variant": (out.read_plan() or {}).get("variant", found.config.variant),
        "bundle": found.bundle.digest,
        # Of this call alone; empty where an earlier one had left nothing to do.
        "this_run": this_run,
    }
    if this_run or not out.summary.exists():
        out.write_summary(summary)
        out.log("finished", ok=verdict.ok, rows=total)
    return Result(summary, verdict)
