"""Two bundles side by side: what their scorecards say of every variant, as tables and as one HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from mmray.bundle import Bundle
from mmray.optimize.pareto import Point, draw

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2129; --faint: #687080; --line: #d9dde4; --page: #fff;
        --a: #1f6fc4; --b: #c4560a; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8ec; --faint: #98a1b0; --line: #3a404b; --page: #16181d; --a: #6db3f8; --b: #f79a55; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
       max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.05rem; margin-top: 2rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid var(--line); }
th { color: var(--faint); font-weight: normal; } td { white-space: nowrap; } .name { text-align: left; }
.a { color: var(--a); } .b { color: var(--b); } .faint { color: var(--faint); } code { font-size: .9em; }
svg { width: 100%; height: auto; } svg text { font: 12px system-ui, sans-serif; fill: var(--ink); }
svg .faint { fill: var(--faint); } svg .grid { stroke: var(--line); } svg .a { color: var(--a); }
svg .b { color: var(--b); } svg .cross, svg .lead { stroke: currentColor; } svg .cross { stroke-width: 2; }
svg .lead { opacity: .35; } svg .front { stroke: var(--faint); stroke-dasharray: 4 4; fill: none; }
"""
_LEGEND = (
    "Disc: passed its gate; cross: failed. Dashed: the best that there is for the time. "
    "Times of two bundles compare only if both were measured on the same machine."
)


@dataclass(frozen=True)
class Entry:
    """A variant of a bundle, as far as its scorecard knows it."""

    side: str  # which bundle: "A" or "B", or nothing where there is only one
    variant: str
    passed: bool
    reason: str  # why it failed
    size_bytes: int | None
    accuracy: float | None  # on the held-out records, as they are
    agreement: float | None  # with its parent, on the same
    latency_ms: dict[str, float]  # a record, by the size of the batch
    peak_memory_bytes: int | None
    by_subset: dict[str, float]  # accuracy by subset of the modalities; agreement where no label is known

    @property
    def batch_ms(self) -> float | None:
        """In the largest batch that was timed."""
        sizes = sorted(self.latency_ms, key=lambda name: int(name.rpartition("_")[2]))
        return self.latency_ms[sizes[-1]] if sizes else None


def entries(bundles: Mapping[str, Bundle]) -> list[Entry]:
    """Every variant of the bundles, also those that failed; those of one name side by side."""
    found = [entry for side, bundle in bundles.items() for entry in _entries(side, bundle)]
    order = list(dict.fromkeys(entry.variant for entry in found))
    return sorted(found, key=lambda entry: order.index(entry.variant))


COLUMNS = ("variant", "", "MB", "accuracy", "agrees", "ms, 1 record", "ms, batch", "peak MB", "gate")


def cells(entry: Entry) -> list[str]:
    """What the table of all variants shows of one, column by column."""
    return [
        entry.variant,
        entry.side,
        _megabytes(entry.size_bytes),
        _share(entry.accuracy),
        _share(entry.agreement),
        _milliseconds(entry.latency_ms.get("batch_1")),
        _milliseconds(entry.batch_ms),
        _megabytes(entry.peak_memory_bytes),
        "passed" if entry.passed else "failed",
    ]


def subset_rows(found: Sequence[Entry]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table by modalities."""
    names = list(dict.fromkeys(name for entry in found for name in entry.by_subset))
    rows = [
        [entry.variant, entry.side, *(_share(entry.by_subset.get(name)) for name in names)]
        for entry in found
        if entry.by_subset
    ]
    return ["variant", "", *(name.replace("+", " + ") for name in names)], rows


def describe(side: str, bundle: Bundle, other: Bundle) -> str:
    """Which bundle a side is, in one line."""
    manifest = bundle.manifest
    made = f", made from {'B' if side == 'A' else 'A'}" if other.digest in manifest.parents else ""
    takes = " + ".join(bundle.spec.modalities)
    return f"{side}: {manifest.name} {bundle.digest[:12]}, {takes}, {len(bundle.labels)} labels{made}"


def to_html(a: Bundle, b: Bundle) -> str:
    """One page without scripts or anything to load: a plot of accuracy against latency, and the tables."""
    found = entries({"A": a, "B": b})
    title = f"{a.manifest.name} and {b.manifest.name}"
    subsets = subset_rows(found)
    failed = [entry for entry in found if not entry.passed]
    about = "".join(
        f'<p><strong class="{side.lower()}">{side}</strong>{escape(describe(side, bundle, other)[1:])}</p>'
        for side, bundle, other in (("A", a, b), ("B", b, a))
    )
    reasons = "".join(f"<li>{_name(e)}: {escape(e.reason)}</li>" for e in failed)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>Variants of {escape(title)}</h1>{about}"
        f"<h2>{_quality(found)} against time</h2>{draw(_points(found), _quality(found))}"
        f'<p class="faint">{_LEGEND}</p>'
        f"<h2>Variants</h2>{_table(COLUMNS, [cells(e) for e in found])}"
        f"<h2>{_quality(found)} by modalities</h2>{_table(*subsets)}"
        + (f"<h2>Failed</h2><ul>{reasons}</ul>" if failed else "")
        + "</body></html>\n"
    )


def _entries(side: str, bundle: Bundle) -> Iterator[Entry]:
    cards: dict[str, dict[str, Any]] = bundle.scorecard.get("variants", {})
    passing = bundle.passing()
    for name in dict.fromkeys([*bundle.manifest.variants, *cards]):
        card = cards.get(name, {})
        slices = {s: f for s, f in card.get("slices", {}).items() if not s.startswith("label ")}
        is_there = name in bundle.manifest.variants
        yield Entry(
            side=side,
            variant=name,
            passed=name in passing,
            reason=card.get("reason", ""),
            size_bytes=bundle.graph(name).stat().st_size if is_there else card.get("size_bytes"),
            accuracy=card.get("accuracy"),
            agreement=card.get("agreement"),
            latency_ms=card.get("latency_ms", {}),
            peak_memory_bytes=card.get("peak_memory_bytes"),
            by_subset={s: found.get("accuracy", found["agreement"]) for s, found in slices.items()},
        )


def _points(found: Sequence[Entry]) -> list[Point]:
    """What can be plotted: accuracy, or agreement where none has one, against time."""
    by_accuracy = _quality(found) == "Accuracy"
    points = []
    for entry in found:
        quality = entry.accuracy if by_accuracy else entry.agreement
        if entry.batch_ms is not None and quality is not None:
            points.append(
                Point(
                    f"{entry.side} {entry.variant}", entry.side.lower(), entry.batch_ms, quality, entry.passed
                )
            )
    return points


def _quality(found: Sequence[Entry]) -> str:
    return "Accuracy" if any(entry.accuracy is not None for entry in found) else "Agreement"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first two columns are variant and side."""

    def line(tag: str, cells: Sequence[str]) -> str:
        name, side, *rest = map(escape, cells)
        figures = "".join(f"<{tag}>{cell}</{tag}>" for cell in rest)
        named = f'<{tag} class="name">{name}</{tag}><{tag} class="name {side.lower()}">{side}</{tag}>'
        return f"<tr>{named}{figures}</tr>"

    body = "".join(line("td", row) for row in rows)
    return f'<div class="scroll"><table>{line("th", header)}{body}</table></div>'


def _name(entry: Entry) -> str:
    return f'<span class="{entry.side.lower()}">{entry.side}</span> {escape(entry.variant)}'


def _megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:,.1f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
