"""`mmray profile`: the time of some records, by stage and operator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from mmray.bundle import Bundle
from mmray.cli.display import console, print_line
from mmray.cli.outgoing import check_file
from mmray.engine import Provider
from mmray.page.table import number
from mmray.report.bottleneck import bottleneck, stages
from mmray.sources import list_shards
from mmray.tracing.profile import profile, write_trace

_SHOWN = 8  # kinds of nodes


def profile_records(
    directory: str, inputs: Sequence[str], variant: str, provider: Provider, rows: int, trace: Path
) -> None:
    """Run some records, print times, and write the trace.

    Args:
        directory: of the bundle.
        inputs: shards.
        variant: of the bundle.
        provider: where to run.
        rows: records, at most.
        trace: file that is written.
    """
    bundle = Bundle.open(directory)
    check_file("--trace", trace)
    found = profile(bundle, list_shards(list(inputs)), variant=variant, provider=provider, rows=rows)
    print_line(
        f"{number(found.rows, 'record')} by one worker, variant {found.variant}, in batches as in a job"
    )
    told = {"stage_seconds": dict(found.seconds)}
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("stage", "ms a record", "share", "without it, at most"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for stage in stages(told):
        ms = 1e3 * stage.seconds / found.rows
        table.add_row(stage.name, f"{ms:.2f}", f"{stage.share:.0%}", f"{stage.gain:.2f} times as fast")
    console.print(table)
    whole = sum(node.seconds for node in found.nodes)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("operator", "provider", "ms a record", "share of the graphs"):
        table.add_column(name, justify="left" if name in ("operator", "provider") else "right")
    for node in found.nodes[:_SHOWN]:
        ms = 1e3 * node.seconds / found.rows
        table.add_row(node.operator, node.provider, f"{ms:.2f}", f"{node.seconds / whole:.0%}")
    console.print()
    console.print(table)
    console.print()
    print_line(bottleneck(told))
    write_trace(found, trace)
    print_line(f"wrote {trace}: open it at ui.perfetto.dev, or in chrome://tracing")
