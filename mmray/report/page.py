"""The report of a run as one HTML page, without scripts or anything to load."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from html import escape

from mmray.errors import UsageError, one_line
from mmray.page.document import document
from mmray.pipeline.rundir import RunDirectory
from mmray.report.facts import Run, load
from mmray.report.verdict import verdict

STYLE = """
.verdict { font-size: 1.1rem; border-left: .3rem solid var(--blue); padding-left: .7rem; }
.verdict.bad { border-color: var(--orange); } .verdict.bad strong { color: var(--orange); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; } dt { color: var(--faint); }
dd { margin: 0; min-width: 0; overflow-wrap: anywhere; } .bar { display: inline-block; height: .7em; }
.bars { white-space: nowrap; } .scroll { margin-bottom: .8rem; }
b.blue { color: var(--blue); } b.orange { color: var(--orange); }
.matrix td, .matrix th { padding: .25rem .5rem; } .matrix td { text-align: center; }
.matrix th[scope=col] span { writing-mode: vertical-rl; transform: rotate(180deg); }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(6.5rem, 1fr)); gap: .8rem; }
.gallery img { display: block; } td { max-width: 30rem; vertical-align: top; }
td.text { white-space: normal; } @media (max-width: 34rem) { td.text { min-width: 8rem; } }
@media print { .matrix { font-size: .7em; } .matrix td, .matrix th { padding: .1rem .2rem; } }
figure { max-width: 45rem; margin-bottom: .8rem; } figure.small { max-width: 27rem; }
"""


def write_report(
    output: str, *, labels: str | None = None, gallery: int = 0, to: Callable[[str], object] | None = None
) -> str:
    """Read a run and write its page; returns where it was written.

    Args:
        output: the run directory.
        labels: field with true labels, as of `mmray.report.rows.read_rows`.
        gallery: number of pictures, at most 60.
        to: takes the page; None: report.html of the run directory.

    Raises:
        OutputError: not a run directory.
        UsageError: the run did not carry that field, or matplotlib is missing.
        OSError: something cannot be read or written.
    """
    out = RunDirectory.at(output)
    page = to_html(load(out, labels, kept=max(30, 3 * gallery)), gallery=gallery)
    if to:
        to(page)
    else:
        out.report.write_atomically(page.encode())
    return str(out.report)


def try_report(output: str) -> str:
    """Write the report at the end of a run; returns why there is none, or an empty string.

    Never raises: the run is complete without its report.
    """
    try:
        write_report(output)
    except UsageError as e:
        return f"no report.html: {e}"
    except Exception as e:  # the run must not fail because of its report; the caller shows the message
        return f"no report.html: {one_line(e)}; `mmray report {output}` tries again"
    return ""


def to_html(run: Run, *, gallery: int = 0) -> str:
    """The page of a run.

    Raises:
        UsageError: matplotlib is missing.
    """
    state, line = verdict(run)
    head = f'<p class="verdict {state}"><strong>{escape(line)}</strong></p>'
    return document(f"Run {run.name}", head + "".join(_sections(run, gallery)), style=STYLE)


def _sections(run: Run, gallery: int) -> Iterator[str]:
    try:
        from mmray.report import sections
    except ModuleNotFoundError as e:
        raise UsageError(f"drawing the report needs the package {e.name}: pip install 'mmray[plots]'") from e
    yield from sections.overview(run)
    yield from sections.time_sections(run)
    yield from sections.record_sections(run)
    yield from sections.answer_sections(run)
    yield from sections.truth_sections(run)
    if gallery:
        from mmray.report.gallery import gallery_html

        yield from gallery_html(run, gallery)
    yield from sections.history_sections(run)
