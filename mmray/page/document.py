"""The frame of a page: head, style, sections, tables. No scripts, no external files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from html import escape

from mmray.page.table import Markup, Table

WIDE, NARROW = "wide", "narrow"  # classes of the two drawings of a figure: screens, and phones

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2129; --faint: #5f6776; --line: #d9dde4; --page: #fff;
        --grey: #5b6271; --blue: #0a64b0; --orange: #b84f06; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8ec; --faint: #98a1b0; --line: #3a404b; --page: #16181d;
          --grey: #b3bac6; --blue: #6db3f8; --orange: #f79a55; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
       max-width: 60rem; margin: 2rem auto; padding: 0 1rem; overflow-wrap: break-word; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; } figure { margin: 0; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem .25rem 0; text-align: right; border-bottom: 1px solid var(--line); }
th { color: var(--faint); font-weight: normal; vertical-align: bottom; } td { white-space: nowrap; }
.text { text-align: left; } .faint, figcaption { color: var(--faint); } summary { margin-top: .7rem; }
figcaption { font-size: .9em; } svg { width: 100%; height: auto; }
svg text { font-family: system-ui, sans-serif !important;
           paint-order: stroke; stroke: var(--page); stroke-width: 3px; } /* readable over lines */
.narrow { display: none; }
@media (max-width: 34rem) { .wide { display: none; } .narrow { display: block; } th { white-space: nowrap; } }
@media print { details > * { display: block; } h2, tr, figure { break-inside: avoid; }
               h2 { break-after: avoid; } .scroll { overflow: visible; }
               td { white-space: normal; overflow-wrap: anywhere; }
               .bar, .shade { print-color-adjust: exact; } }
"""


def document(title: str, body: str, *, style: str = "") -> str:
    """A whole page.

    Args:
        title: as text.
        body: as HTML.
        style: CSS in addition to that of all pages.
    """
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}{style}</style></head><body><main>"
        f"<h1>{escape(title)}</h1>{body}</main></body></html>\n"
    )


def section(title: str, table: Table) -> Iterator[str]:
    """A heading and a table, if it has rows."""
    if table.rows:
        yield f"<h2>{escape(title)}</h2>{table_html(title, table)}"


def table_html(title: str, table: Table) -> str:
    """A table that scrolls if it is too wide, also by keyboard."""

    def line(tag: str, cells: tuple[str, ...]) -> str:
        classes = [' class="text"' if name in table.text else "" for name in table.header]
        tags = [tag if cell else "td" for cell in cells]  # for screen readers an empty header is not a header
        return "".join(
            f"<{tag}{kind}>{cell if isinstance(cell, Markup) else escape(cell)}</{tag}>"
            for tag, kind, cell in zip(tags, classes, cells, strict=True)
        )

    rows = "".join(f"<tr>{line('td', row)}</tr>" for row in table.rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(title)}">'
        f"<table><tr>{line('th', table.header)}</tr>{rows}</table></div>"
    )


def figure_html(
    draw: Callable[[tuple[float, float]], str],
    caption: str,
    sizes: tuple[tuple[float, float], tuple[float, float]],
    kind: str = "",
) -> str:
    """A drawing, made twice: for screens and for phones.

    Args:
        draw: gives the `<svg>` of a size in points.
        caption: as HTML.
        sizes: width and height, wide and narrow.
        kind: a class of the figure.
    """
    drawings = "".join(
        f'<div class="{name}">{draw(size)}</div>' for name, size in zip((WIDE, NARROW), sizes, strict=True)
    )
    named = f' class="{kind}"' if kind else ""
    return f"<figure{named}>{drawings}<figcaption>{caption}</figcaption></figure>"
