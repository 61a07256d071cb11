"""`mmray report`: the page of a run, or of two side by side."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from mmray.cli.display import print_line
from mmray.cli.outgoing import check_file
from mmray.errors import UsageError
from mmray.pipeline.rundir import RunDirectory


def report_run(run: str, other: str | None, html: Path | None, labels: str | None, gallery: int) -> None:
    """Write the page of a run again, or one that compares two.

    Raises:
        OutputError: not a run directory.
        UsageError: a package is not installed, the page cannot be written, or the options exclude each other.
    """
    if html:
        check_file("--html", html)
    if other is None:
        from mmray.report.page import write_report

        place = write_report(run, labels=labels, gallery=gallery, to=partial(_write, html) if html else None)
        print_line(f"wrote {html or place}")
        return
    if html is None:
        raise UsageError("two runs have no common directory: name the page with --html FILE")
    if gallery:
        raise UsageError("--gallery is for the report of one run")
    from mmray.report.between import compare_html
    from mmray.report.facts import load

    first, second = (load(RunDirectory.at(place), labels) for place in (run, other))
    _write(html, compare_html(first, second))
    print_line(f"wrote {html}")


def _write(file: Path, page: str) -> None:
    file.write_text(page, encoding="utf-8")
