"""Which labels are confused: a matrix of up to 30 labels, or else the pairs that are confused most."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from mmray.page.document import table_html
from mmray.report.judged import Judged
from mmray.report.tables import cut, pairs_table

_CLASSES = 30
_PAIRS = 30
_TINT = 45  # percent of the colour in the fullest cell: text on it stays readable


def confusion_html(judged: Judged) -> Iterator[str]:
    """The matrix, or the table."""
    names = sorted({name for pair in judged.pairs.counts for name in pair})
    if not judged.pairs.rest and len(names) <= _CLASSES:
        yield "<h2>Labels and what was given</h2>" + _matrix(judged, names)
        yield (
            '<p class="faint">A row is the label that records carry, a column the label that the model gave. '
            "The colour is the share of the row; mistakes are orange.</p>"
        )
        return
    confused = [(pair, n) for pair, n in judged.pairs.common() if pair[0] != pair[1]][:_PAIRS]
    if confused:
        title = "Labels that are confused most"
        yield f"<h2>{title}</h2>{table_html(title, pairs_table(confused, judged.labels.counts))}"


def _matrix(judged: Judged, names: list[str]) -> str:
    def cell(label: str, given: str) -> str:
        count = judged.pairs.counts.get((label, given), 0)
        part = count / max(1, judged.labels.counts.get(label, 0))
        colour = "blue" if label == given else "orange"
        tint = _TINT * part if label == given else min(_TINT, 2 * _TINT * part)
        style = (
            f' class="shade" style="background:color-mix(in srgb, var(--{colour}) {tint:.0f}%, var(--page))"'
        )
        return f"<td{style if count else ''}>{f'{count:,}' if count else ''}</td>"

    head = "".join(f'<th scope="col"><span>{escape(cut(name, 24))}</span></th>' for name in names)
    rows = "".join(
        f'<tr><th scope="row" class="text">{escape(cut(label, 24))}</th>'
        f"{''.join(cell(label, given) for given in names)}</tr>"
        for label in names
    )
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Labels and what was given">'
        f'<table class="matrix"><tr><td></td>{head}</tr>{rows}</table></div>'
    )
