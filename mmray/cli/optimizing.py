"""`mmray optimize` and `mmray bundle compare`: make, judge and compare variants."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap

from rich import table as rich_table
from rich.console import JustifyMethod
from rich.markup import escape
from rich.measure import Measurement

from mmray.bundle import Bundle
from mmray.cli.display import console, print_line
from mmray.cli.outgoing import check_file
from mmray.errors import AuditError, UsageError
from mmray.page.table import Table
from mmray.scorecards import Known, describe, know, reasons, to_html, tradeoff_table, variants_table


def optimize_bundle(directory: str, recipe_file: Path, output: Path, again: str | None = None) -> None:
    """Make the recipe's variants, and show the results.

    Raises:
        UsageError: the recipe, the bundle or the output is unusable, or a package is not installed.
        AuditError: no variant passed; the bundle is written anyway.
    """
    try:
        from mmray.variants import load_recipe, optimize
    except ModuleNotFoundError as e:
        raise UsageError(f"making variants needs the package {e.name}: pip install 'mmray[optimize]'") from e
    recipe = load_recipe(recipe_file)
    bundle = optimize(Bundle.open(directory), recipe, output, again=again, say=print_line)
    _print(know(bundle))
    if not any(step.variant in bundle.passing() for step in recipe.steps):
        raise AuditError(
            f"{output}: none of the {len(recipe.steps)} variants passed its gate; see `mmray bundle compare`"
        )


def compare_bundles(directories: Sequence[str], html: Path | None) -> None:
    """Print the scorecard of one bundle, or of two; write it with more details as a page.

    Raises:
        UsageError: a directory is not a bundle, or the page cannot be written.
    """
    bundles = [Bundle.open(directory) for directory in directories]
    if html:
        check_file("--html", html)
    known = know(*bundles)
    for line in describe(known):
        print_line(line)
    _print(known)
    if html:
        html.write_text(to_html(known), encoding="utf-8")
        print_line(f"wrote {html}")


def _print(known: Known) -> None:
    """The tables of the page that fit on a terminal."""
    tradeoff = tradeoff_table(known).without("kind", "threshold", "time")
    told = ["accuracy"] if all(c.tradeoff for c in known.scorecards.values()) else []  # with interval, above
    variants = variants_table(known).without("split", "ms, 1 record", "peak MB", *told)
    for table in (tradeoff, variants):
        if table.rows:
            console.print(_for_terminal(table), crop=False)
    for reason in reasons(known):
        print_line(f"  {reason}")


def _for_terminal(table: Table) -> rich_table.Table:
    """As wide as necessary: a terminal wraps long lines, but rich would drop figures."""
    shown = rich_table.Table(box=None, padding=(0, 1, 0, 0))
    for name in table.header:
        heading = "\n".join(wrap(name, 10))
        justify: JustifyMethod = "left" if name in table.text else "right"
        shown.add_column(heading, justify=justify, no_wrap=True)
    for row in table.rows:
        shown.add_row(*map(escape, row))
    shown.width = Measurement.get(console, console.options.update(width=1000), shown).maximum
    return shown
