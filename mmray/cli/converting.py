"""`mmray convert`: converts shards in parallel, and prints the results."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from rich.markup import escape
from rich.table import Table

from mmray.cli.display import console, print_line
from mmray.errors import AuditError
from mmray.page.table import number
from mmray.sources.convert import JOURNAL, Conversion, Target, convert
from mmray.sources.layouts import LayoutName
from mmray.unread import Tally

_NAMED = 20  # lost records that are printed; the journal lists more


def convert_shards(
    inputs: Sequence[str], output: str, to: Target, layout: LayoutName, workers: int | None
) -> None:
    """Convert every shard that the inputs name, and print a table.

    Raises:
        UsageError: the conversion is not possible as requested.
        RunError: some shards could not be read or written; the others are converted.
        AuditError: some records could not be converted; the others are.
    """
    done: list[Conversion] = []
    with console.status("converting") as status:
        for conversion in convert(inputs, output, to, layout, workers):
            done.append(conversion)
            status.update(f"converted {number(len(done), 'shard')}: {escape(conversion.output)}")
    done.sort(key=attrgetter("output"))
    console.print(_table(done))
    unread = Tally()
    for one in done:
        unread.add_all({kind: (n, f"{one.source}: {example}") for kind, (n, example) in one.unread.items()})
    for kind, count in unread.most_common():
        print_line(f"not converted, {kind}: {count.number:,}, as {count.example}")
    named = [(one, key, reason) for one in done for key, reason in one.reasons.items()]
    for one, key, reason in named[:_NAMED]:
        console.print(f"[red]✗[/] {escape(f'{one.source}: record {key!r}: {reason}')}", soft_wrap=True)
    if lost := sum(one.lost for one in done):
        raise AuditError(
            f"{number(lost, 'record')} not converted ({output}/{JOURNAL} names them); all others are"
        )


def _table(done: list[Conversion]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("shard")
    for name in ("records", "lost", "MB", "s"):
        table.add_column(name, justify="right")
    for one in done:
        table.add_row(escape(one.output), *_figures([one]))
    table.add_section()
    table.add_row(f"all {len(done):,}", *_figures(done), style="bold")
    return table


def _figures(done: list[Conversion]) -> tuple[str, ...]:
    return (
        f"{sum(one.records for one in done):,}",
        f"{sum(one.lost for one in done):,}",
        f"{sum(one.size for one in done) / 1e6:,.1f}",
        f"{sum(one.seconds for one in done):,.1f}",
    )
