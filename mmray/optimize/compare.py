"""One or two bundles: what their scorecards say of every variant, as tables for a terminal and for a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mmray.bundle import Bundle
from mmray.optimize.cards import Accuracy, Card, Point, Scorecard, Slice, read_scorecard


@dataclass(frozen=True)
class Table:
    """Cells as they are shown. Text stands to the left, figures to the right."""

    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    text: frozenset[str]  # names of the columns that hold text

    def trimmed(self) -> Table:
        """Without the columns that are empty in every row."""
        return self._only([i for i in range(len(self.header)) if any(row[i] for row in self.rows)])

    def without(self, *names: str) -> Table:
        """Without columns of these names."""
        return self._only([i for i, name in enumerate(self.header) if name not in names])

    def _only(self, kept: Sequence[int]) -> Table:
        return Table(
            tuple(self.header[i] for i in kept), [tuple(row[i] for i in kept) for row in self.rows], self.text
        )


@dataclass(frozen=True)
class Entry:
    """A variant of a bundle, as far as its scorecard knows it."""

    side: str  # which bundle: "A" or "B", or nothing where there is only one
    variant: str
    offered: bool  # it may be run
    is_parent: bool  # the graph that others are compared with
    size_bytes: int | None
    card: Card

    @property
    def verdict(self) -> str:
        """In one to three words."""
        if self.is_parent:
            return "parent"
        return self.card.verdict or ("passed" if self.offered else "failed")

    @property
    def batch_ms(self) -> float | None:
        """In the largest batch that was timed."""
        sizes = sorted(self.card.latency_ms, key=lambda name: int(name.rpartition("_")[2]))
        return self.card.latency_ms[sizes[-1]] if sizes else None


@dataclass(frozen=True)
class Known:
    """All that the scorecards of one or two bundles say, by side."""

    bundles: dict[str, Bundle]
    scorecards: dict[str, Scorecard]
    entries: list[Entry]  # every variant, also those that failed; those of one name side by side

    def label(self, side: str, point: Point) -> str:
        """Name of a point, with the verdict where it is not offered."""
        found = self._entry(side, point)
        return point.name if found is None or found.offered else f"{point.name} ({found.verdict})"

    def offered(self, side: str, point: Point) -> str:
        """Whether it can be run; empty for few modalities, and for settings that were not chosen."""
        found = self._entry(side, point)
        return "" if found is None else "yes" if found.offered else "no"

    def points(self) -> Iterator[tuple[str, Point]]:
        """Side and point of every trade-off."""
        return ((side, point) for side, card in self.scorecards.items() for point in card.tradeoff)

    def _entry(self, side: str, point: Point) -> Entry | None:
        """The variant that a point stands for; None where it stands for none."""
        if point.kind == "modality" or (point.kind == "cascade" and not point.chosen):
            return None
        return next((e for e in self.entries if (e.side, e.variant) == (side, point.variant)), None)


def know(*bundles: Bundle) -> Known:
    """Read the scorecards of one bundle or of two.

    Raises:
        BundleError: a scorecard is altered or malformed.
    """
    sides = dict(zip("AB" if len(bundles) > 1 else ("",), bundles, strict=True))
    scorecards = {side: read_scorecard(bundle) for side, bundle in sides.items()}
    found = [entry for side in sides for entry in _entries(side, sides[side], scorecards[side])]
    order = list(dict.fromkeys(entry.variant for entry in found))
    return Known(sides, scorecards, sorted(found, key=lambda entry: order.index(entry.variant)))


def share(value: float | None, form: str = ".3f") -> str:
    """A number of at most 1, as in ".976"."""
    return "" if value is None else f"{value:{form}}".replace("0.", ".", 1)


def describe(known: Known) -> list[str]:
    """Which bundle each side is, in one line."""
    return [_describe(side, known.bundles) for side in known.bundles]


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
    """What is known of each variant."""
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
    """Each variant beside its parent, by what a record was left with."""
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
    header = ("", "split", "records", "groups", "split by")
    return Table(header, rows, frozenset({"", "split", "split by"})).trimmed()


def uses_table(known: Known) -> Table:
    """Who looked at the test split, when and why."""
    rows = [
        (side, use.variant, use.when, use.why)
        for side, card in known.scorecards.items()
        for use in card.test_uses
    ]
    header = ("", "variant", "when", "why")
    return Table(header, rows, frozenset(header)).trimmed()


def _entries(side: str, bundle: Bundle, scorecard: Scorecard) -> Iterator[Entry]:
    there, passing = bundle.manifest.variants, bundle.passing()
    for name in dict.fromkeys([*there, *scorecard.variants]):
        card = scorecard.variants.get(name, Card())
        yield Entry(
            side=side,
            variant=name,
            offered=name in passing,
            is_parent=name in there and there[name].parent is None,
            size_bytes=bundle.graph(name).stat().st_size if name in there else card.size_bytes,
            card=card,
        )


def _describe(side: str, bundles: Mapping[str, Bundle]) -> str:
    bundle = bundles[side]
    others = [(s, other) for s, other in bundles.items() if s != side]
    made = "".join(f", made from {s}" for s, other in others if other.digest in bundle.manifest.parents)
    takes = " + ".join(bundle.spec.modalities)
    named = f"{side}: " if side else ""
    return f"{named}{bundle.manifest.name} {bundle.digest[:12]}, {takes}, {len(bundle.labels)} labels{made}"


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
