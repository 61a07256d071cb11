"""`mmray optimize` and `mmray bundle compare`: variants made, judged, and side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from mmray.bundle import Bundle
from mmray.cli.display import console, print_line
from mmray.errors import AuditError, UsageError
from mmray.optimize.compare import COLUMNS, Entry, cells, describe, entries, subset_rows, to_html


def optimize_bundle(directory: str, recipe_file: Path, output: Path, again: str | None = None) -> None:
    """Make the recipe's variants; show what became of them.

    Raises:
        UsageError: the recipe, the bundle or the place is not fit, or a package is not installed.
        AuditError: no variant passed; the bundle is written all the same.
    """
    try:
        from mmray.optimize.steps import load_recipe
        from mmray.optimize.variants import optimize
    except ModuleNotFoundError as e:
        raise UsageError(f"making variants needs the package {e.name}: pip install 'mmray[optimize]'") from e
    recipe = load_recipe(recipe_file)
    bundle = optimize(Bundle.open(directory), recipe, output, again=again, say=print_line)
    _print_variants(entries({"": bundle}))
    if not any(step.variant in bundle.passing() for step in recipe.steps):
        raise AuditError(f"{output}: none of the {len(recipe.steps)} variants passed its gate")


def compare_bundles(first: str, second: str, html: Path | None) -> None:
    """Print two bundles side by side; write the same as a page."""
    a, b = Bundle.open(first), Bundle.open(second)
    for side, bundle, other in (("A", a, b), ("B", b, a)):
        print_line(describe(side, bundle, other))
    found = entries({"A": a, "B": b})
    _print_variants(found)
    header, rows = subset_rows(found)
    if rows:
        console.print(_table(header, rows))
    if html:
        html.write_text(to_html(a, b), encoding="utf-8")
        print_line(f"wrote {html}")


def _print_variants(found: Sequence[Entry]) -> None:
    console.print(_table(COLUMNS, [cells(entry) for entry in found]))
    for entry in found:
        if not entry.passed:
            print_line(" ".join(filter(None, [" ", entry.side, entry.variant, f"failed: {entry.reason}"])))


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """The first two columns are variant and side."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i < 2 else "right", no_wrap=i < 2)
    for row in rows:
        table.add_row(*map(escape, row))
    return table
