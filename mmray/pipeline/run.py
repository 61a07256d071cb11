"""One run: survey, plan, process missing rows, audit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import time

from mmray import __version__
from mmray.config import RunConfig
from mmray.errors import RunError, SignalError
from mmray.page.table import number
from mmray.pipeline.audit import Audit, audit
from mmray.pipeline.cluster import connected
from mmray.pipeline.execute import balanced, execute, locate, with_variant
from mmray.pipeline.isolate import Gaps, Suspects, names, reject
from mmray.pipeline.lease import held
from mmray.pipeline.ledger import Ledger
from mmray.pipeline.plan import Plan, make_plan
from mmray.pipeline.progress import Progress
from mmray.pipeline.prune import prune
from mmray.pipeline.rundir import RunDirectory
from mmray.pipeline.snapshot import Doing, Snapshot
from mmray.pipeline.summary import Result, conclude, describe
from mmray.pipeline.survey import Survey, output_columns, survey
from mmray.pipeline.watchdog import RunningMeter, metered

# Consecutive passes in which workers died and nothing was done. If several died it is not a record's fault;
# if one did, the third pass has its rows in pieces.
_IDLE_PASSES = {"several": 1, "one": 2}
_MEND = "fix the cause, and run the same command again"


@dataclass(frozen=True)
class Watcher:
    """Callbacks for the progress of a run."""

    surveyed: Callable[[Survey, Ledger], None]  # before the cluster starts
    planned: Callable[[Plan], None]
    progress: Callable[[Snapshot], None]  # twice a second, from a separate thread
    said: Callable[[str], None] = lambda _: None  # messages for the user


def preview(config: RunConfig, *, moved: bool = False) -> tuple[Plan, Ledger]:
    """The plan of `run` on this cluster, and the finished part. Writes nothing.

    Raises:
        UsageError: as `run` would.
    """
    out = RunDirectory.at(config.output)
    earlier = out.read_plan()
    found = survey(config, earlier)
    if earlier is not None:
        found.check_resumable(earlier, moved=moved)
    with connected() as machines:
        plan = balanced(with_variant(make_plan(found, machines), earlier))
        return plan, Ledger.load(out) if earlier else Ledger()


def run(config: RunConfig, watcher: Watcher, *, accept_changes: bool = False, moved: bool = False) -> Result:
    """Run a config, or resume an earlier run of it.

    Args:
        config: what to run.
        watcher: gets progress.
        accept_changes: resume although shards were added or changed; those are run (again).
        moved: resume with files that were copied without keeping times or versions.

    Raises:
        UsageError: nothing was run: config, input, bundle or output directory are invalid.
        RunError: the run was interrupted; the same call resumes it.
    """
    started = time()
    out = RunDirectory.at(config.output)
    earlier = out.read_plan()
    found = survey(config, earlier)
    found.check_resumable(earlier, accept_changes=accept_changes, moved=moved)  # before anything is changed
    with held(out, watcher.said, config.lease_wait_s) as out:
        earlier = out.read_plan()
        ledger = Ledger()
        if earlier is not None:
            found.check_resumable(earlier, accept_changes=accept_changes, moved=moved)
            ledger = Ledger.load(out)
            ledger.clean_up(out)
            if accept_changes:
                ledger = prune(out, found.unchanged(earlier, moved=moved))
            ledger = _without_broken(out, ledger.incomplete, ledger, watcher)
            if moved:  # from now on files are compared with this state
                out.begin({**earlier, "shards": [shard.to_list() for shard in found.shards]})
        watcher.surveyed(found, ledger)
        if not ledger.missing(found.shards):
            ledger, verdict = _audited(out, ledger, watcher)
            if not ledger.missing(found.shards):
                return conclude(out, found, ledger, verdict, {})
        with connected() as machines:
            plan = with_variant(replace(make_plan(found, machines), lease=str(out.lease)), earlier)
            watcher.planned(plan)
            out.begin(plan.to_json())
            out.log(
                "started", mmray=__version__, topology=plan.topology, actors=plan.actors, done=ledger.rows
            )
            progress = Progress(out, watcher.progress)
            with metered(progress, plan, plan.reference) as meter:
                ledger = process(plan, out, ledger, meter)
                ledger, verdict = _audited(out, ledger, watcher)
                if ledger.missing(found.shards):
                    ledger = process(plan, out, ledger, meter)
                    verdict = audit(out)
                counted = meter.read(is_last=True)
            progress.write(counted)
        return conclude(out, found, ledger, verdict, describe(plan, counted, started))


def _audited(out: RunDirectory, ledger: Ledger, watcher: Watcher) -> tuple[Ledger, Audit]:
    """The audit, and the ledger without the parts that it found broken."""
    verdict = audit(out)
    if not verdict.broken:
        return ledger, verdict
    return _without_broken(out, verdict.broken, ledger, watcher), audit(out)


def _without_broken(out: RunDirectory, broken: Sequence[str], ledger: Ledger, watcher: Watcher) -> Ledger:
    """The ledger without broken parts; their rows are then missing."""
    if not broken:
        return ledger
    watcher.said(
        f"moved {number(len(broken), 'damaged file')} to {out}/broken; the rows in them are processed again"
    )
    out.log("set aside", files=broken)
    for name in broken:
        out.move_to_broken(name)
    return Ledger.load(out)


def process(plan: Plan, out: RunDirectory, ledger: Ledger, meter: RunningMeter) -> Ledger:
    """Process missing rows in passes, until none is missing or passes make no progress."""
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
        except (RunError, SignalError) as e:
            out.log("broke off", reason=str(e))
            raise
        before, ledger = ledger.rows, Ledger.load(out)
        ledger.clean_up(out)
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
    """Raise a RunError after passes without progress, if another pass would not help.

    Args:
        idle: number of such passes.
        missing: the missing rows.
        lost: what the workers that died were doing.
        unreadable: why shards cannot be read, by name.
    """
    name, count = missing[0][0].name, f"{number(len(missing), 'shard')} incomplete"
    if all(shard.name in unreadable for shard, _ in missing):
        raise RunError(f"{count}, all others are done; {name}: {unreadable[name]}; {_MEND}")
    if idle > _IDLE_PASSES["several" if len(lost) > 1 else "one"]:
        at = names(lost) or f"died before it began with {name}"
        raise RunError(f"no progress: each worker {at}; {count}; see Ray's logs; {_MEND}")
