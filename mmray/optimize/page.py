"""What one or two bundles are worth, as one HTML page without scripts or anything to load."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from mmray.errors import UsageError
from mmray.optimize.cards import Point
from mmray.optimize.compare import (
    Known,
    Table,
    describe,
    modalities_table,
    reasons,
    splits_table,
    tradeoff_table,
    uses_table,
    variants_table,
)

_WIDE, _NARROW = (720.0, 400.0), (345.0, 440.0)  # points: screens, and phones, where 720 would be unreadable

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2129; --faint: #5f6776; --line: #d9dde4; --page: #fff;
        --modality: #5b6271; --variant: #0a64b0; --cascade: #b84f06; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8ec; --faint: #98a1b0; --line: #3a404b; --page: #16181d;
          --modality: #b3bac6; --variant: #6db3f8; --cascade: #f79a55; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
       max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
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
@media print { details > * { display: block; } }
"""
_CAPTION = (
    "Milliseconds of one record, decoding included, one thread, on the machine that made the bundle. "
    "●&nbsp;given only these modalities, ■&nbsp;variant, ◆&nbsp;cascade as chosen, on the curve of "
    "its settings. Filled: on {split}; hollow, beside it: on test. Bars and band: 95 % intervals, "
    "clustered by group."
)
_NOTE = (
    "Difference: of the accuracy, from the parent's; agrees: with the parent's decisions. "
    "≥: one-sided 95 % bound. n / groups: records, and the groups that they are in."
)
_NO_TRADEOFF = (
    "Its scorecard.json has no trade-off of accuracy and time: <code>mmray optimize</code> makes one."
)


def to_html(known: Known) -> str:
    """One page: plots of accuracy against time, the numbers under them, and the tables of the variants.

    Raises:
        UsageError: there is something to draw and no matplotlib.
    """
    title = f"Variants of {' and '.join(bundle.manifest.name for bundle in known.bundles.values())}"
    about = "".join(f"<p>{escape(line)}</p>" for line in describe(known))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>"
        f"<h1>{escape(title)}</h1>{about}{''.join(_sections(known))}</main></body></html>\n"
    )


def _sections(known: Known) -> Iterator[str]:
    plots = _plots(known)
    for side in known.bundles:
        yield f"<h2>Accuracy against time{f', {side}' if side else ''}</h2>{plots[side]}"
    yield from _section("The numbers", tradeoff_table(known))
    settings = tradeoff_table(known, settings=True)
    if settings.rows:
        told = f"Settings of a cascade that were not chosen: {len(settings.rows)}"
        yield f"<details><summary>{told}</summary>{_table(told, settings)}</details>"
    yield from _section("Variants", variants_table(known))
    refused = "".join(f"<li>{escape(reason)}</li>" for reason in reasons(known))
    yield f"<ul>{refused}</ul>" if refused else ""
    yield f'<p class="faint">{_NOTE}</p>'
    yield from _section("Variants by modalities", modalities_table(known))
    yield from _section("Splits", splits_table(known))
    yield from _section("Uses of the test split", uses_table(known))


def _plots(known: Known) -> dict[str, str]:
    """A figure for each side, all in the same frame, or a sentence where it has nothing to draw."""
    every = [point for _, point in known.points()]
    if not every:
        return dict.fromkeys(known.bundles, f"<p>{_NO_TRADEOFF}</p>")
    try:
        from mmray.optimize.plot import Frame, draw
    except ModuleNotFoundError as e:
        raise UsageError(f"drawing the page needs the package {e.name}: pip install 'mmray[plots]'") from e
    frame = Frame.around(every)

    def figure(side: str, points: list[Point]) -> str:
        labels = [known.label(side, point) for point in points]
        drawings = "".join(
            f'<div class="{name}">{draw(points, labels, frame, size)}</div>'
            for name, size in (("wide", _WIDE), ("narrow", _NARROW))
        )
        split = " or ".join(dict.fromkeys(point.split for point in points))
        caption = _CAPTION.format(split=escape(split))
        if not all(point.measured for point in points):
            caption += " Small dots, and what the table calls expected, follow from measured parts."
        return f"<figure>{drawings}<figcaption>{caption}</figcaption></figure>"

    return {
        side: figure(side, card.tradeoff) if card.tradeoff else f"<p>{_NO_TRADEOFF}</p>"
        for side, card in known.scorecards.items()
    }


def _section(title: str, table: Table) -> Iterator[str]:
    if table.rows:
        yield f"<h2>{title}</h2>{_table(title, table)}"


def _table(title: str, table: Table) -> str:
    """Scrolls by itself where it is too wide, by keyboard as well."""

    def line(tag: str, cells: tuple[str, ...]) -> str:
        classes = [' class="text"' if name in table.text else "" for name in table.header]
        return "".join(
            f"<{tag}{kind}>{escape(cell)}</{tag}>" for kind, cell in zip(classes, cells, strict=True)
        )

    rows = "".join(f"<tr>{line('td', row)}</tr>" for row in table.rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{title}">'
        f"<table><tr>{line('th', table.header)}</tr>{rows}</table></div>"
    )
