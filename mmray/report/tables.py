"""The tables of a report. All cells except bars are text that the page escapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmray.page.table import Markup, Table, share
from mmray.report.bottleneck import stages
from mmray.report.counting import Share
from mmray.report.facts import Example
from mmray.report.history import History
from mmray.report.judged import Mistake

_LONGEST = 120  # characters of text from data
_KINDS = 40  # rows of one table


def cut(text: str | None, longest: int = _LONGEST) -> str:
    """Text from data, shortened if it is too long."""
    found = text or ""
    return found if len(found) <= longest else found[: longest - 1] + "…"


def bar(part: float, colour: str = "blue") -> Markup:
    """A bar as long as its share of the whole."""
    return Markup(
        f'<span class="bar" style="width:{9 * max(0.0, min(1.0, part)):.2f}rem;background:var(--{colour})">'
        "</span>"
    )


def percent(part: float) -> str:
    """As in "4.2 %"."""
    return f"{100 * part:.1f} %"


def counts_table(name: str, counts: Sequence[tuple[str, int]], whole: int, rest: int = 0) -> Table:
    """Names by count, with a bar each."""
    shown = list(counts[:_KINDS])
    more = sum(n for _, n in counts[_KINDS:]) + rest
    longest = max((n for _, n in shown), default=1)
    rows = [
        (cut(thing), f"{n:,}", percent(n / max(1, whole)), bar(n / max(1, longest))) for thing, n in shown
    ]
    if more:
        rows.append(("others", f"{more:,}", percent(more / max(1, whole)), Markup("")))
    return Table((name, "rows", "share", ""), rows, frozenset({name, ""}))


def stages_table(this_run: Mapping[str, Any]) -> Table:
    """Where the time of the workers went."""
    rows = [
        (s.name, f"{s.seconds:,.1f}", percent(s.share), bar(s.share), f"{s.gain:.2f} ×")  # noqa: RUF001
        for s in stages(this_run)
    ]
    return Table(("stage", "seconds", "share", "", "without it, at most"), rows, frozenset({"stage", ""}))


def devices_table(devices: Mapping[str, Mapping[str, Any]]) -> Table:
    """How each device spent its time. Copies run while it works, so they are not part of the bar."""
    rows = []
    for name, use in devices.items():
        wall, busy, planned = (float(use.get(k, 0)) for k in ("wall_s", "busy_s", "planned_s"))
        waiting, whole = max(0.0, wall - busy - planned), max(wall, 1e-9)
        rows.append(
            (
                cut(name),
                f"{busy:,.1f}",
                f"{planned:,.1f}",
                f"{waiting:,.1f}",
                f"{float(use.get('copied_s', 0)):,.1f}",
                Markup(
                    f'<span class="bars">{bar(busy / whole)}{bar(planned / whole, "orange")}'
                    f"{bar(waiting / whole, 'line')}</span>"
                ),
                *(
                    f"{n:,}" if use.get("batches") else ""
                    for n in (use.get("batches", 0), len(use.get("shapes", {})), use.get("changes", 0))
                ),
                ", ".join(f"{k} {percent(v)}" for k, v in use.get("padding", {}).items()),
            )
        )
    header = (
        *("device", "busy\u00a0s", "planning\u00a0s", "waiting\u00a0s", "copying\u00a0s", ""),
        *("batches", "shapes", "changes of shape", "padding"),
    )
    return Table(header, rows, frozenset({"device", "", "padding"})).trimmed()


def unread_table(unread: Mapping[str, Mapping[str, Any]]) -> Table:
    """Input that was not used."""
    rows = [
        (cut(kind), f"{found['number']:,}", cut(found.get("example")), cut(found.get("remedy")))
        for kind, found in unread.items()
    ][:_KINDS]
    return Table(
        ("what", "how many", "for example", "what to do"),
        rows,
        frozenset({"what", "for example", "what to do"}),
    )


def examples_table(examples: Iterable[Example]) -> Table:
    """Rejects, some of each kind."""
    rows = [
        (e.kind, cut(e.place.key, 60), cut(e.reason, 300), cut(e.place.shard, 60), f"{e.place.row:,}")
        for e in examples
    ]
    return Table(
        ("kind", "key", "reason", "shard", "row"), rows, frozenset({"kind", "key", "shard", "reason"})
    )


def shares_table(name: str, shares: Iterable[Share], of: str = "right") -> Table:
    """How many labels are right, with intervals."""
    rows = [
        (cut(s.name), f"{s.records:,}", share(s.mean), f"[{share(s.low)}, {share(s.high)}]", bar(s.mean))
        for s in shares
    ]
    return Table((name, "records", of, "95 % interval", ""), rows, frozenset({name, ""}))


def mistakes_table(mistakes: Iterable[Mistake]) -> Table:
    """The most confident wrong answers."""
    rows = [
        (
            cut(m.place.key, 60),
            cut(m.label, 40),
            cut(m.given, 40),
            share(m.confidence),
            cut(m.place.shard, 60),
            f"{m.place.row:,}",
        )
        for m in mistakes
    ]
    header = ("key", "label", "given", "confidence", "shard", "row")
    return Table(header, rows, frozenset({"key", "label", "given", "shard"}))


def pairs_table(pairs: Iterable[tuple[tuple[str, str], int]], of: Mapping[str, int]) -> Table:
    """The most frequent mistakes."""
    rows = [
        (cut(label, 60), cut(given, 60), f"{n:,}", percent(n / max(1, of.get(label, 0))))
        for (label, given), n in pairs
    ]
    return Table(("label", "given", "records", "of this label"), rows, frozenset({"label", "given"}))


def history_table(history: History) -> Table:
    """What happened, and when."""
    return Table(
        ("time, UTC", "what"),
        [(when, cut(words, 300)) for when, words in history.told],
        frozenset({"time, UTC", "what"}),
    )
