"""What the commands print: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mmray.bundle import Bundle
from mmray.pipeline.audit import Audit
from mmray.pipeline.ledger import Ledger
from mmray.pipeline.meter import Snapshot
from mmray.pipeline.plan import Plan
from mmray.pipeline.survey import Survey

if TYPE_CHECKING:  # it imports Ray, which audits and inspections can do without
    from mmray.pipeline.run import Watcher
    from mmray.pipeline.summary import Result

console = Console(highlight=False)
_LINE_S = 5.0  # between plain lines
_SHOWN = 20  # shard faults


def print_error(message: str, trace: str = "") -> None:
    """One line on standard error, after a trace if there is one."""
    sys.stderr.write(trace)
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"[bold red]error:[/] {escape(message)}")


def print_line(message: str) -> None:
    """One plain line."""
    console.print(escape(message), soft_wrap=True)


def print_json(value: object) -> None:
    """Plain JSON, for pipes."""
    sys.stdout.write(json.dumps(value, indent=1) + "\n")


class RunDisplay:
    """Shows a run while it goes: use as a context manager, then call `conclude`."""

    def __init__(self, output: str, *, retry: bool = False) -> None:
        self.output = output
        self._retry = retry
        self._done_before = 0
        self._expected = 0
        self._actors = 1
        self._live: Live | None = None
        self._started = time.time()
        self._next_line = 0.0
        self._warned = False

    @property
    def watcher(self) -> Watcher:
        """What a run is to tell this display."""
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
        """Say what there is."""
        done, rejected = ledger.rows, ledger.rejects.total()
        self._done_before, self._expected = (0, rejected) if self._retry else (done, found.expected_rows)
        _print_survey(found, done)

    def planned(self, plan: Plan) -> None:
        """Say how it will run, and start the display."""
        self._actors = plan.actors
        _print_field("cluster", _describe_machines(plan))
        if console.is_terminal:
            self._live = Live(self._render(Snapshot()), console=console, refresh_per_second=4, transient=True)
            self._live.start()

    def progress(self, snapshot: Snapshot) -> None:
        """Show the latest counts, and once that early answers went wrong."""
        if snapshot.shift and not self._warned:
            self._warned = True
            console.print(f"[bold yellow]warning:[/] {escape(snapshot.shift)}", soft_wrap=True)
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
        else:
            table.add_row("speed", "nothing was left to do")
        table.add_row("output", f"{escape(self.output)}/parts ({number(summary['parts'], 'file')})")
        console.print(table)
        for problem in verdict.problems:
            print_line(f"  {problem}")
        print_faults(verdict.faults)

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


def print_plan(preview: tuple[Plan, Ledger], *, as_json: bool) -> None:
    """What `mmray plan` shows."""
    plan, ledger = preview
    found = plan.survey
    done = ledger.rows
    missing = ledger.missing(found.shards)
    units = plan.units(missing)
    if as_json:
        print_json(
            {
                **{k: v for k, v in plan.to_json().items() if k != "shards"},
                "shards": len(found.shards),
                "shards_to_do": len(missing),
                "input_bytes": found.input_bytes,
                "expected_rows": found.expected_rows,
                "done_rows": done,
                "units": len(units),
                "formats": found.census.kinds,
                "census": found.census.sets,
                "balance": asdict(plan.advice) if plan.advice else None,
            }
        )
        return
    _print_survey(found, done)
    _print_field("cluster", _describe_machines(plan))
    sets = ", ".join(f"{rows} {s}" for s, rows in found.census.sets.items())
    _print_field("sample", f"{found.census.records} records: {sets}")
    _print_field(
        "work", f"{len(units)} units over {len(missing)} shards, parts of up to {plan.part_rows:,} rows"
    )
    if plan.advice:
        _print_field("balance", str(plan.advice))
    if done:
        _print_field(
            "resume", f"skips {done:,} rows; {len(found.shards) - len(missing)} shards are not opened"
        )


def print_audit(verdict: Audit, *, as_json: bool) -> None:
    """What `mmray audit` shows."""
    if as_json:
        print_json(verdict.to_json())
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("shard")
    for name in ("input", "predicted", "rejected", "faults"):
        table.add_column(name, justify="right")
    for shard in verdict.shards:
        total = "?" if shard.total is None else f"{shard.total:,}"
        table.add_row(
            escape(shard.shard), total, f"{shard.predicted:,}", f"{shard.rejected:,}", f"{shard.faults:,}"
        )
    table.add_section()
    table.add_row(
        "all",
        f"{verdict.total:,}",
        f"{verdict.predicted:,}",
        f"{verdict.rejected:,}",
        f"{len(verdict.faults):,}",
        style="bold",
    )
    console.print(table)
    for problem in verdict.problems:
        console.print(f"[red]✗[/] {escape(problem)}", soft_wrap=True)
    print_faults(verdict.faults)
    if verdict.ok:
        console.print("[green]✓[/] input = predicted + rejected, each (shard, row) once")


def print_faults(faults: Sequence[str]) -> None:
    """What is damaged of shards, so that nobody knows how many records are lost."""
    for fault in faults[:_SHOWN]:
        console.print(f"[bold red]shard fault:[/] {escape(fault)}", soft_wrap=True)
    if len(faults) > _SHOWN:
        print_line(f"and {len(faults) - _SHOWN} more: faults/ has all")


def print_bundle(bundle: Bundle, *, as_json: bool) -> None:
    """What `mmray bundle inspect` shows."""
    manifest, scorecard = bundle.manifest, bundle.scorecard
    if as_json:
        print_json({"digest": bundle.digest, "manifest": manifest.model_dump(), "scorecard": scorecard})
        return
    _print_field("bundle", _describe_bundle(bundle))
    _print_field("labels", ", ".join(manifest.labels) or "none: the model only gives features")
    for name, variant in manifest.variants.items():
        size = bundle.graph(name).stat().st_size
        _print_field("variant", f"{name}: {variant.precision}, {size / 1e6:.1f} MB")
    records = bundle.golden_records()
    raw = "tensors alone, of an older mmray" if records is None else f"{records.num_rows} raw records"
    _print_field("golden", raw)
    for source in manifest.sources:
        _print_field("weights", f"{source.name} {source.version}, {source.licence}")
    if "cross_validation" in scorecard:
        console.print(scorecard_table(scorecard))


def scorecard_table(scorecard: Mapping[str, Any]) -> Table:
    """Quality by what is there of a record: grouped cross-validation, and records held out of training."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("modalities")
    for name in ("records", "accuracy", "balanced", "held out"):
        table.add_column(name, justify="right")
    for name, score in scorecard["cross_validation"]["subsets"].items():
        held_out = scorecard["held_out"].get(name)
        cells = [f"{s['accuracy']:.3f} ± {s['standard_error']:.3f}" if s else "" for s in (score, held_out)]
        table.add_row(name, f"{score['records']:,}", cells[0], f"{score['balanced_accuracy']:.3f}", cells[1])
    return table


def _print_survey(found: Survey, done: int) -> None:
    shares = ", ".join(f"{m} {share:.0%}" for m, share in found.census.modalities.items())
    kinds = " and ".join(found.census.kinds)
    size = f"{number(len(found.shards), 'shard')} of {kinds}, {found.input_bytes / 1e6:,.1f} MB"
    inputs = " ".join(found.config.input)
    _print_field("input", f"{inputs}: {size}, about {found.expected_rows:,} records ({shares})")
    for note in found.notes:
        _print_field("", note)
    _print_field("bundle", f"{_describe_bundle(found.bundle)}")
    _print_field("output", f"{found.config.output}" + (f" ({done:,} rows are done)" if done else ""))


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
        parts.append(f"{found['agreed']} of {found['shadowed']} early answers as in full")
    if found["saved_s"] is not None:
        parts.append(f"{found['saved_s']:.1f} s of work saved")
    return "; ".join(parts) + ("; [bold yellow]shifted[/]" if found["shift"] else "")


def _describe_bundle(bundle: Bundle) -> str:
    takes = " + ".join(bundle.spec.modalities)
    gives = f"{len(bundle.labels)} labels" if bundle.labels else f"{bundle.manifest.features} features"
    return f"{bundle.manifest.name} {bundle.digest[:12]}: {takes} → {gives}"


def _describe_machines(plan: Plan) -> str:
    machines = plan.machines
    where = (
        f"{number(machines.nodes, 'node')}, {number(machines.cpus, 'CPU')}, {number(machines.gpus, 'GPU')}"
    )
    return f"{where}: {plan.topology} topology, {number(plan.actors, 'actor')} of {plan.variant}"


def number(count: int, noun: str) -> str:
    """As in "1 shard", "2 shards"."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _print_field(name: str, value: str) -> None:
    console.print(f"[bold]{name:<8}[/] {escape(value)}", soft_wrap=True)


def _shares(seconds: Mapping[str, float]) -> str:
    """Where the workers' busy time goes: "image 11 %, audio 24 %, model 58 %"."""
    total = sum(seconds.values())
    if not total:
        return ""
    return ", ".join(f"{stage} {s / total:.0%}" for stage, s in seconds.items() if s)
