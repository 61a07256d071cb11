"""Figures of one or two bundles as one HTML page without scripts or external files."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from mmray.errors import UsageError
from mmray.page.document import document, figure_html, section, table_html
from mmray.scorecards.cards import Known, Point
from mmray.scorecards.compare import (
    describe,
    modalities_table,
    reasons,
    splits_table,
    tradeoff_table,
    uses_table,
    variants_table,
)

_SIZES = ((720.0, 400.0), (345.0, 440.0))  # points: screens, and phones, where 720 would be unreadable

_CAPTION = (
    "Milliseconds of one record, decoding included, one thread, on the machine that made the bundle. "
    "●&nbsp;{few} given only these modalities, ■&nbsp;variant, ◆&nbsp;cascade as chosen, on the curve of "
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
        UsageError: there is something to draw but matplotlib is missing.
    """
    title = f"Variants of {' and '.join(bundle.manifest.name for bundle in known.bundles.values())}"
    about = "".join(f"<p>{escape(line)}</p>" for line in describe(known))
    return document(title, about + "".join(_sections(known)))


def _sections(known: Known) -> Iterator[str]:
    plots = _plots(known)
    for side in known.bundles:
        yield f"<h2>Accuracy against time{f', {side}' if side else ''}</h2>{plots[side]}"
    yield from section("The numbers", tradeoff_table(known))
    settings = tradeoff_table(known, settings=True)
    if settings.rows:
        told = f"Settings of a cascade that were not chosen: {len(settings.rows)}"
        yield f"<details><summary>{told}</summary>{table_html(told, settings)}</details>"
    yield from section("Variants", variants_table(known))
    refused = "".join(f"<li>{escape(reason)}</li>" for reason in reasons(known))
    yield f"<ul>{refused}</ul>" if refused else ""
    yield f'<p class="faint">{_NOTE}</p>'
    yield from section("Variants by modalities", modalities_table(known))
    yield from section("Splits", splits_table(known))
    yield from section("Uses of the test split", uses_table(known))


def _plots(known: Known) -> dict[str, str]:
    """A figure for each side, all in the same frame, or a sentence if there is nothing to draw."""
    every = [point for _, point in known.points()]
    if not every:
        return dict.fromkeys(known.bundles, f"<p>{_NO_TRADEOFF}</p>")
    try:
        from mmray.scorecards.plot import Frame, draw
    except ModuleNotFoundError as e:
        raise UsageError(f"drawing the page needs the package {e.name}: pip install 'mmray[plots]'") from e
    frame = Frame.around(every)

    def figure(side: str, points: list[Point]) -> str:
        labels = [known.label(side, point) for point in points]
        split = " or ".join(dict.fromkeys(point.split for point in points))
        caption = _CAPTION.format(split=escape(split), few=escape(" or ".join(known.given_less(side))))
        if not all(point.measured for point in points):
            caption += " Small dots, and rows called expected, are computed from measured parts."
        return figure_html(lambda size: draw(points, labels, frame, size), caption, _SIZES)

    return {
        side: figure(side, card.tradeoff) if card.tradeoff else f"<p>{_NO_TRADEOFF}</p>"
        for side, card in known.scorecards.items()
    }
