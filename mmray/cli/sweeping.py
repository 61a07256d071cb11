"""`mmray bench-serve`: finds settings of `mmray serve` within a latency target, and their highest rates."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from mmray.bundle import Bundle
from mmray.cli.display import console, print_line
from mmray.cli.outgoing import check_file
from mmray.errors import AuditError, UsageError
from mmray.load.bodies import bodies
from mmray.load.latency import Step
from mmray.load.served import Setting, command_of, settings_of
from mmray.load.sweep import Asked, Found, best_of, measure
from mmray.page.table import number

_CLIENT_BUSY = 0.7  # of a core: beyond that the client affects the measurement
_CLIENT_LATE = 0.2  # of the target: the same


@dataclass(frozen=True)
class Grid:
    """The settings that are tried: all combinations."""

    replicas: Sequence[int]
    batch_rows: Sequence[int]
    waits_ms: Sequence[float]


def sweep(asked: Asked, grid: Grid, inputs: Sequence[str], records: int, plot: Path | None) -> None:
    """Try the settings, print a table and the result, then one JSON line.

    Args:
        asked: the target.
        grid: the settings.
        inputs: shards.
        records: number of different records.
        plot: file of the plot; None: no plot.

    Raises:
        UsageError: more replicas than CPUs, no bundle or no records; no server was started.
        EngineError: a server does not start.
        AuditError: no setting holds the target.
    """
    cpus = os.cpu_count() or 1
    most = max(grid.replicas)
    if most > cpus and not any(option.startswith("cpus=") for option in asked.options):
        raise UsageError(
            f"--replicas {most}: each takes a CPU, and there are {cpus}; ask for fewer, or --set cpus=0.5"
        )
    if plot:
        check_file("--plot", plot)
        try:
            from mmray.load.plot import draw_sweep
        except ModuleNotFoundError as e:
            raise UsageError(f"--plot needs the package {e.name}: pip install 'mmray[plots]'") from e
    Bundle.open(asked.bundle)
    sent = bodies(inputs, records)
    settings = settings_of(grid.replicas, grid.batch_rows, grid.waits_ms)
    print_line(
        f"{number(len(sent), 'record')}, {asked.requests:,} requests a step, "
        f"{number(len(settings), 'setting')}; "
        f"client and server share {cpus} CPUs"
    )
    found = [_measure(setting, asked, sent) for setting in settings]
    console.print(_table(found, asked.target_ms))
    if plot:
        draw_sweep(found, asked.target_ms, plot)
        print_line(f"wrote {plot}")
    _conclude(found, asked)


def _measure(setting: Setting, asked: Asked, sent: Sequence[bytes]) -> Found:
    print_line(f"{setting}:")

    def watch(step: Step) -> None:
        word = "holds" if step.holds(asked.target_ms) else "does not hold"
        print_line(
            f"  {step.asked_per_s:6.1f}/s  p50 {_ms(step.p50_ms)}  p99 {_p99(step)} ms  {word}{_bad(step)}"
        )
        if warning := client_warning(step, asked.target_ms):
            print_line(f"          {warning}")

    found = measure(setting, asked, sent, watch)
    if found.refused:
        print_line(f"  the server rejects {found.refused} of {len(sent)} records; these were left out")
    if not found.steps:
        print_line(f"  alone a request takes {found.idle_ms:.1f} ms at the median: no rate can hold")
    return found


def client_warning(step: Step, target_ms: float) -> str:
    """A warning if the client affected the measurement, or nothing."""
    if step.client_share > _CLIENT_BUSY:
        return f"the client used {step.client_share:.0%} of a core: it may be the bottleneck"
    if step.late_ms > _CLIENT_LATE * target_ms:
        return f"the client sent up to {step.late_ms:.1f} ms late (p99): give it its own CPU"
    return ""


def _table(found: Sequence[Found], target_ms: float) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    setting_columns = ("replicas", "batch", "wait ms", "alone ms")
    for name in (*setting_columns, "holds /s", "p50 ms", "p99 ms", "fails /s", "p99 ms"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in found:
        failed = [step for step in one.steps if not step.holds(target_ms)]
        over = min(failed, key=lambda step: step.asked_per_s, default=None)
        held, setting = one.held, one.setting
        table.add_row(
            *(str(setting.replicas), str(setting.batch_rows), f"{setting.wait_ms:g}", f"{one.idle_ms:.1f}"),
            *((f"{held.asked_per_s:.1f}", _ms(held.p50_ms), _ms(held.p99_ms)) if held else ("none", "", "")),
            *((f"{over.asked_per_s:.1f}", _ms(over.p99_ms)) if over else ("", "")),
        )
    return table


def _conclude(found: Sequence[Found], asked: Asked) -> None:
    best = best_of(found)
    command = command_of(asked.bundle, [*best.setting.options, *asked.options]) if best else None
    if best and best.held:
        print_line(
            f"a p99 of {asked.target_ms:g} ms holds up to {best.held.asked_per_s:.1f} requests/s with "
            f"{best.setting}: {command}"
        )
    told = {
        "target_ms": asked.target_ms,
        "requests": asked.requests,
        "best_per_s": best and best.held and round(best.held.asked_per_s, 3),
        "command": command,
        "settings": [one.to_json() for one in found],
    }
    print(json.dumps(told), flush=True)
    if not best:
        raise AuditError(
            f"no setting holds a p99 of {asked.target_ms:g} ms; try a faster variant or more CPUs"
        )


def _ms(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else "∞"


def _p99(step: Step) -> str:
    return f"{_ms(step.p99_ms)} ({_ms(step.p99_low_ms)} to {_ms(step.p99_high_ms)})"


def _bad(step: Step) -> str:
    """Failed requests, as in ", 12 of 503"."""
    return "".join(
        f", {number} of {status or 'no answer'}" for status, number in step.statuses.items() if status != 200
    )
