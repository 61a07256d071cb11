"""Tables on every variant of one or two bundles, from their scorecards, for a terminal and for a page."""

from __future__ import annotations

from collections.abc import Mapping

from mmray.bundle import Bundle
from mmray.page.table import Table, number, share
from mmray.scorecards.cards import Accuracy, Known, Slice


def describe(known: Known) -> list[str]:
    """Which bundle each side is, and what `variant: auto` chooses from; two lines each."""
    return [line for side in known.bundles for line in _describe(side, known.bundles)]


def tradeoff_table(known: Known, *, settings: bool = False) -> Table:
    """Accuracy and time of each point, the fastest first.

    Args:
        known: what to show.
        settings: those settings of a cascade's exits that were not chosen, instead of all the others.
    """
    found = [(side, p) for side, p in known.points() if settings == (p.kind == "cascade" and not p.chosen)]
    found.sort(key=lambda item: item[1].ms)
    split = " or ".join(dict.fromkeys(p.split for _, p in found))
    header = (
        "name", "", "kind", "threshold", "ms", "time",
        f"accuracy on {split}", "n / groups",
        "accuracy on test", "test n / groups", "offered",
    )  # fmt: skip
    rows = [
        (
            p.name,
            side,
            p.kind,
            share(p.threshold, "g"),
            f"{p.ms:.1f}",
            "" if p.measured else "expected",
            _accuracy(p),
            _counts(p),
            _accuracy(p.test),
            _counts(p.test),
            known.offered(side, p),
        )
        for side, p in found
    ]
    return Table(header, rows, frozenset({"name", "", "kind", "time", "offered"})).trimmed()


def variants_table(known: Known) -> Table:
    """The figures of each variant."""
    header = (
        "variant", "", "verdict", "accuracy", "difference", "agrees", "n / groups", "split",
        "MB", "ms, 1 record", "ms, batch", "peak MB",
    )  # fmt: skip
    rows = [
        (
            entry.variant,
            entry.side,
            entry.verdict,
            share(entry.card.accuracy),
            _bounded(entry.card.difference, entry.card.difference_bound, "+.3f"),
            _bounded(entry.card.agreement, entry.card.agreement_bound, ".3f"),
            _counts(entry.card),
            entry.card.split,
            _megabytes(entry.size_bytes),
            _milliseconds(entry.card.latency_ms.get("batch_1")),
            _milliseconds(entry.batch_ms),
            _megabytes(entry.card.peak_memory_bytes),
        )
        for entry in known.entries
    ]
    return Table(header, rows, frozenset({"variant", "", "verdict", "split"})).trimmed()


def reasons(known: Known) -> list[str]:
    """Why each variant that has no "passed" has none."""
    return [
        f"{f'{entry.side} ' if entry.side else ''}{entry.variant}, {entry.verdict}: {entry.card.reason}"
        for entry in known.entries
        if not entry.offered
    ]


def modalities_table(known: Known) -> Table:
    """Each variant and its parent, by the modalities that records were left with."""
    header = (
        "variant",
        "",
        "modalities",
        "accuracy",
        "difference",
        "agrees",
        "n / groups",
        "verdict",
    )
    rows = [
        (
            entry.variant,
            entry.side,
            name.replace("+", " + "),
            share(found.accuracy),
            _bounded(found.difference, found.difference_bound, "+.3f"),
            _bounded(found.agreement, found.agreement_bound, ".3f"),
            _counts(found),
            found.verdict,
        )
        for entry in known.entries
        if not entry.is_parent
        for name, found in entry.card.slices.items()
        if not name.startswith("label ")
    ]
    return Table(header, rows, frozenset({"variant", "", "modalities", "verdict"})).trimmed()


def splits_table(known: Known) -> Table:
    """How many records and groups each split has, and by which rule."""
    rows = [
        (side, name, _number(split.records), _number(split.groups), splits.rule)
        for side, card in known.scorecards.items()
        if (splits := card.splits)
        for name, split in (("train", splits.train), ("tune", splits.tune), ("test", splits.test))
    ]
    rows += [
        (side, "in train and test", "", _number(splits.groups_in_train_and_test), "")
        for side, card in known.scorecards.items()
        if (splits := card.splits) and splits.groups_in_train_and_test
    ]
    header = ("", "split", "records", "groups", "split by")
    return Table(header, rows, frozenset({"", "split", "split by"})).trimmed()


def uses_table(known: Known) -> Table:
    """Which variants were judged on the test split, when and why."""
    rows = [
        (side, use.variant, use.when, use.why)
        for side, card in known.scorecards.items()
        for use in card.test_uses
    ]
    header = ("", "variant", "when", "why")
    return Table(header, rows, frozenset(header)).trimmed()


def _describe(side: str, bundles: Mapping[str, Bundle]) -> tuple[str, str]:
    bundle = bundles[side]
    others = [(s, other) for s, other in bundles.items() if s != side]
    made = "".join(f", made from {s}" for s, other in others if other.digest in bundle.manifest.parents)
    takes = " + ".join(bundle.spec.modalities)
    named = f"{side}: " if side else ""
    labels = number(len(bundle.labels), "label")
    variants = bundle.manifest.variants
    fitting = [name for name in bundle.passing() if variants[name].cascade is None]
    cascades = [name for name in bundle.passing() if variants[name].cascade]
    chosen = f"variant auto is the fastest of {', '.join(fitting)} on the machine that runs it"
    asked = f"; a cascade only by its name: {', '.join(cascades)}" if cascades else ""
    return (
        f"{named}{bundle.manifest.name} {bundle.digest[:12]}, {takes}, {labels}{made}",
        f"{named}{chosen}{asked}",
    )


def _accuracy(found: Accuracy | None) -> str:
    if found is None:
        return ""
    return f"{share(found.accuracy)} [{share(found.low)}, {share(found.high)}]"


def _bounded(value: float | None, bound: float | None, form: str) -> str:
    """As in ".976 (≥ .951)"."""
    return share(value, form) + ("" if bound is None else f" (≥ {share(bound, form)})")


def _counts(found: Accuracy | Slice | None) -> str:
    """As in "156/123": records and groups."""
    if found is None:
        return ""
    return "/".join(filter(None, [_number(found.records), _number(found.groups)]))


def _number(count: int | None) -> str:
    return "" if count is None else f"{count:,}"


def _megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:,.1f}"


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
