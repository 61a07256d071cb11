"""Output of `mmray run` and `retry` with `--log-format json`; `run_display` is for people."""

from __future__ import annotations

import logging
import time
from types import TracebackType
from typing import TYPE_CHECKING

from mmray.cli.json_lines import begin, say
from mmray.pipeline.ledger import Ledger
from mmray.pipeline.plan import Plan
from mmray.pipeline.snapshot import Snapshot
from mmray.pipeline.survey import Survey

if TYPE_CHECKING:
    from mmray.pipeline.run import Watcher
    from mmray.pipeline.summary import Result

_EVERY_S = 5.0  # between two objects of progress


class JsonDisplay:
    """As `RunDisplay`. Other events of a run (passes, lost workers) are logged by the run directory."""

    def __init__(self, output: str, *, retry: bool = False) -> None:
        self.output = output
        self._retry = retry
        self._done_before = self._expected = 0
        self._next = 0.0
        self._reported: set[str] = set()
        self._reports = False
        begin(output)

    @property
    def watcher(self) -> Watcher:
        """The callbacks of a run."""
        from mmray.pipeline.run import Watcher

        return Watcher(self.surveyed, self.planned, self.progress, say)

    def __enter__(self) -> JsonDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        pass

    def surveyed(self, found: Survey, ledger: Ledger) -> None:
        """Print the inputs."""
        self._reports = found.config.report
        done, rejected = ledger.rows, ledger.rejects.total()
        self._done_before, self._expected = (0, rejected) if self._retry else (done, found.expected_rows)
        say(
            "surveyed",
            shards=len(found.shards),
            input_bytes=found.input_bytes,
            expected_rows=found.expected_rows,
            done_rows=done,
            bundle=found.bundle.digest,
        )
        for note in found.notes:
            say(note)

    def planned(self, plan: Plan) -> None:
        """Print the plan."""
        say("planned", topology=plan.topology, actors=plan.actors, variant=plan.variant)

    def progress(self, snapshot: Snapshot) -> None:
        """The latest counts every few seconds; warnings at once, and only once."""
        if snapshot.shift and snapshot.shift not in self._reported:
            self._reported.add(snapshot.shift)
            say(snapshot.shift, logging.WARNING)
        for shard, reason in snapshot.unreadable.items():
            if shard not in self._reported:
                self._reported.add(shard)
                say("a shard cannot be read", logging.WARNING, shards=[shard], reason=reason)
        if snapshot.rows and time.monotonic() >= self._next:
            self._next = time.monotonic() + _EVERY_S
            done = self._done_before + snapshot.rows
            rate = snapshot.rows_per_s
            left = max(0, self._expected - done)
            say(
                "progress",
                rows=int(done),
                expected_rows=int(max(self._expected, done)),
                rejects=int(snapshot.rejects),
                rows_per_s=round(rate, 2),
                left_s=round(left / rate, 1) if rate else None,
                stage_seconds={stage: round(s, 3) for stage, s in snapshot.seconds.items() if s},
                shards=sorted({place.shard for doing in snapshot.doing.values() for place in doing.places}),
            )

    def conclude(self, result: Result) -> None:
        """The figures of summary.json, and an object for each fault."""
        for message in (*result.audit.problems, *result.audit.faults):
            say(message, logging.ERROR)
        say("done", **result.summary)

    def report(self, result: Result) -> None:
        """Write report.html if something changed; a finished run does not fail because of it."""
        if not (self._reports and result.summary["this_run"]):
            return
        from mmray.report.page import try_report

        if problem := try_report(self.output):
            say(problem, logging.WARNING)
