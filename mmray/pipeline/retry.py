"""Process the rejects of a run again, and damaged shards once they are repaired."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from time import time
from typing import Any

from mmray.config import RunConfig
from mmray.errors import OutputError
from mmray.pipeline.audit import audit
from mmray.pipeline.cluster import connected
from mmray.pipeline.execute import execute_retry, with_variant
from mmray.pipeline.lease import held
from mmray.pipeline.ledger import Ledger
from mmray.pipeline.plan import make_plan
from mmray.pipeline.progress import Progress
from mmray.pipeline.prune import prune
from mmray.pipeline.run import Watcher, process
from mmray.pipeline.rundir import RunDirectory
from mmray.pipeline.summary import Result, conclude, describe
from mmray.pipeline.survey import survey
from mmray.pipeline.watchdog import metered

#: Settings that may fix a reject: they change neither the rows of the input nor predictions.
_CURES = (
    *("limits", "on_damaged", "on_unread", "foreign_text", "extensions", "columns", "files"),
    *("verify_all", "on_shift"),
)


def retry(output: str, overrides: Callable[[Mapping[str, Any]], RunConfig], watcher: Watcher) -> Result:
    """Process the rejects of a run again; those that succeed now become predictions.

    A shard with faults that hide records is run again completely if it has changed since. Missing rows of the
    run are processed, too, for example after an interrupted retry.

    Args:
        output: the run directory.
        overrides: makes the config of the retry from that of the run.
        watcher: gets progress.

    Raises:
        OutputError: no run there, or bundle, settings or shards differ from those of the run.
        RunError: the retry was interrupted; the same call resumes it.
    """
    started = time()
    out = RunDirectory.at(output)
    earlier = out.read_plan()
    if earlier is None:
        raise OutputError(f"{output}: not a run directory (no plan.json); check the path")
    found = survey(overrides(earlier["config"]), earlier)
    ledger = Ledger.load(out)
    whole = found.check_resumable(earlier, cures=_CURES, mended=ledger.faulty)
    with held(out, watcher.said) as out:
        if whole:
            prune(out, found.unchanged(earlier))
            out.begin({**earlier, "shards": [shard.to_list() for shard in found.shards]})
        ledger = Ledger.load(out)
        ledger.clean_up(out)
        watcher.surveyed(found, ledger)
        parts = [part.name for part in ledger.parts if part.rejected]
        missing = ledger.missing(found.shards)
        if not parts and not missing:
            return conclude(out, found, ledger, audit(out), {})
        with connected() as machines:
            plan = with_variant(replace(make_plan(found, machines), lease=str(out.lease)), earlier)
            watcher.planned(plan)
            names = [shard.name for shard, _ in missing]
            rejects = ledger.rejects.total()
            out.log("retry", rejects=rejects, parts=len(parts), shards=names, done=ledger.rows - rejects)
            progress = Progress(out, watcher.progress)
            with metered(progress, plan) as meter:
                process(plan, out, ledger, meter)
                if parts:
                    execute_retry(plan, parts, found.shards, meter)
                counted = meter.read()
            progress.write(counted)
            ledger = Ledger.load(out)
            ledger.clean_up(out)
        return conclude(out, found, ledger, audit(out), describe(plan, counted, started))
