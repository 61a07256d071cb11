"""Output of `mmray run` and `retry` in progress: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mmray.cli.display import (
    console,
    describe_machines,
    print_faults,
    print_field,
    print_line,
    print_survey,
)
from mmray.page.table import number
from mmray.pipeline.ledger import Ledger
from mmray.pipeline.plan import Plan
from mmray.pipeline.snapshot import Snapshot
from mmray.pipeline.survey import Survey

if TYPE_CHECKING:  # it imports Ray, which audits and inspections do not need
    from mmray.pipeline.run import Watcher
    from mmray.pipeline.summary import Result

_LINE_S = 5.0  # between plain lines
_KINDS = 6  # of what is not read, in one line


class RunDisplay:
    """Shows a run in progress: use it as a context manager, then call `conclude`."""

    def __init__(self, output: str, *, retry: bool = False) -> None:
        self.output = output
        self._retry = retry
        self._done_before = 0
        self._expected = 0
        self._actors = 1
        self._live: Live | None = None
        self._started = time.time()
        self._next_line = 0.0
        self._warned: set[str] = set()  # of what
        self._reports = False

    @property
    def watcher(self) -> Watcher:
        """The callbacks of a run."""
        from mmray.pipeline.run import Watcher

        return Watcher(self.surveyed, self.planned, self.progress, print_line)

    def __enter__(self) -> RunDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def surveyed(self, found: Survey, ledger: Ledger) -> None:
        """Print the inputs."""
        self._reports = found.config.report
        done, rejected = ledger.rows, ledger.rejects.total()
        self._done_before, self._expected = (0, rejected) if self._retry else (done, found.expected_rows)
        print_survey(found, done)

    def planned(self, plan: Plan) -> None:
        """Print the plan, and start the display."""
        self._actors = plan.actors
        print_field("cluster", describe_machines(plan))
        if console.is_terminal:
            self._live = Live(self._render(Snapshot()), console=console, refresh_per_second=4, transient=True)
            self._live.start()

    def progress(self, snapshot: Snapshot) -> None:
        """Show the latest counts, and warnings on early answers and drift once each."""
        drift = snapshot.drift.warning if snapshot.drift else ""
        for about, warning in (("shift", snapshot.shift), ("drift", drift)):
            if warning and about not in self._warned:
                self._warned.add(about)
                console.print(f"[bold yellow]warning:[/] {escape(warning)}", soft_wrap=True)
        if self._live:
            self._live.update(self._render(snapshot))
        elif snapshot.rows and time.time() >= self._next_line:
            self._next_line = time.time() + _LINE_S
            print_line("  ".join([self._counts(snapshot), _shares(snapshot.seconds)]))

    def conclude(self, result: Result) -> None:
        """The closing table."""
        summary, this_run = result.summary, result.summary["this_run"]
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        verdict = result.audit
        balance = f"{verdict.predicted:,} predicted + {verdict.rejected:,} rejected"
        balance += f" + {number(len(verdict.faults), 'shard fault')}" if verdict.faults else ""
        mark = "[bold red]audit failed[/]" if verdict.problems else "[green]audit clean[/]"
        table.add_row(
            "rows", f"{verdict.total:,} = {balance} in {number(summary['shards'], 'shard')}, {mark}"
        )
        for kind, rows in summary["rejects"].items():
            table.add_row("", f"{rows:,} rejected: {escape(kind)}")
        sets = ", ".join(f"{rows:,} {s}" for s, rows in summary["modalities"].items())
        table.add_row("from", sets)
        if (abstained := summary["abstained"]) is not None:
            share = abstained / max(1, summary["predicted"])
            table.add_row(
                "abstained", f"{abstained:,} of {summary['predicted']:,} ({share:.1%}) have no label"
            )
        if summary["unread"] or summary["unread_files"]:
            table.add_row("unread", escape(_describe_unread(summary)))
        if summary["empty_shards"]:
            table.add_row("empty", f"{number(summary['empty_shards'], 'shard')} without records")
        for name in summary["null_columns"]:
            table.add_row("warning", f"{escape(name)} is null in all rows")
        if this_run:
            rate = this_run["rows_per_s"]
            speed = f"{rate:.1f} rows/s" if rate else f"{this_run['rows']:,} rows, too few for a rate"
            table.add_row("speed", f"{speed}, after {this_run['startup_s']:.1f} s to start")
            table.add_row("stages", _shares(this_run["stage_seconds"]))
            if devices := this_run.get("devices"):
                table.add_row("devices", _describe_devices(devices, this_run["device_busy"]))
                table.add_row("", this_run["advice"])
            if cascade := this_run.get("cascade"):
                table.add_row("cascade", _describe_cascade(cascade))
            if canary := this_run.get("canary"):
                found = canary["slices"]["all"]
                table.add_row("canary", f"{found['same']:,} of {found['compared']:,} labels are the same")
            if drift := this_run.get("drift"):
                table.add_row("drift", _describe_drift(drift))
        else:
            table.add_row("speed", "nothing was left to do")
        table.add_row("output", f"{escape(self.output)}/parts ({number(summary['parts'], 'file')})")
        console.print(table)
        for problem in verdict.problems:
            print_line(f"  {problem}")
        print_faults(verdict.faults)

    def report(self, result: Result) -> None:
        """Write report.html if something changed; a finished run does not fail because of it."""
        if not (self._reports and result.summary["this_run"]):
            return
        from mmray.report.page import try_report  # with matplotlib and scipy it takes a second to import

        if problem := try_report(self.output):
            console.print(f"[bold yellow]warning:[/] {escape(problem)}", soft_wrap=True)
        else:
            print_line(f"report  {self.output}/report.html")

    def _render(self, snapshot: Snapshot) -> Group:
        done = self._done_before + snapshot.rows
        bar = ProgressBar(total=max(self._expected, done, 1), completed=done, width=40)
        waiting = "" if snapshot.rows else f"starting workers, {time.time() - self._started:.0f} s"
        row = Table.grid(padding=(0, 2))
        row.add_row(bar, Text(waiting or self._counts(snapshot)))
        return Group(row, Text(_shares(snapshot.seconds), style="dim"))

    def _counts(self, snapshot: Snapshot) -> str:
        done = self._done_before + snapshot.rows
        parts = [f"{done:,} of about {max(self._expected, done):,} rows"]
        if rate := snapshot.rows_per_s:
            left = max(0, self._expected - done) / rate
            parts += [f"{rate:.1f} rows/s", f"{int(left // 60)}:{int(left % 60):02d} left"]
        parts.append(f"{snapshot.rejects:,} rejects")
        return ", ".join(parts)


def _describe_unread(summary: Mapping[str, Any]) -> str:
    """Unused input in one line, after a run."""
    kinds: Counter[str] = Counter()
    for counts in (summary["unread"], summary["unread_files"]):
        kinds.update({kind: count["number"] for kind, count in counts.items()})
    said = ", ".join(f"{kind}: {count:,}" for kind, count in kinds.most_common(_KINDS))
    more = f" and {len(kinds) - _KINDS} kinds more" if len(kinds) > _KINDS else ""
    return f"{said}{more}; `mmray plan` and summary.json say where, and what to do"


def _describe_devices(devices: Mapping[str, Any], busy: float) -> str:
    parts = [f"{number(len(devices), 'device')} busy {busy:.0%}"]
    if any(device["shapes"] for device in devices.values()):
        shapes = {shape for device in devices.values() for shape in device["shapes"]}
        changes = sum(device["changes"] for device in devices.values())
        planned_s = sum(device["planned_s"] for device in devices.values())
        parts.append(f"{number(len(shapes), 'shape')}, {number(changes, 'change')}")
        parts.append(f"{planned_s:.1f} s of planning")
    return ", ".join(parts)


def _describe_cascade(found: dict[str, Any]) -> str:
    parts = [", ".join(f"{share:.1%} after stage {stage}" for stage, share in found["left"].items())]
    if found["shadowed"]:
        parts.append(f"{found['agreed']} of {found['shadowed']} early answers agree with the full model")
    if found["saved_s"] is not None:
        parts.append(f"{found['saved_s']:.1f} s of work saved")
    return "; ".join(parts) + ("; [bold yellow]shifted[/]" if found["shift"] else "")


def _describe_drift(found: dict[str, Any]) -> str:
    if alarm := found["alarm"]:
        return f"[bold yellow]unlike the tune split[/]: {escape(alarm['sketch'])} {escape(alarm['event'])}"
    return f"no difference found in {number(found['tests'], 'look')} at {number(found['records'], 'record')}"


def _shares(seconds: Mapping[str, float]) -> str:
    """The workers' busy time by stage: "image 11 %, audio 24 %, model 58 %"."""
    total = sum(seconds.values())
    if not total:
        return ""
    return ", ".join(f"{stage} {s / total:.0%}" for stage, s in seconds.items() if s)
