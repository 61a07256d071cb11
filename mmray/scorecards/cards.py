"""Parses scorecard.json of a bundle once: variants, trade-off of accuracy and time, splits.

Reads files of any version of mmray: fields that an older one did not write are None or empty. Figures that
cannot be drawn (not finite, or a time of zero) are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mmray.bundle import SCORECARD, Bundle
from mmray.errors import BundleError


class _Parsed(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Accuracy(_Parsed):
    """Accuracy on the records of a split, with its 95 % interval, clustered by group."""

    accuracy: float = Field(allow_inf_nan=False)
    low: float = Field(allow_inf_nan=False)
    high: float = Field(allow_inf_nan=False)
    records: int
    groups: int


class Point(Accuracy):
    """One way to answer a record: what it costs, and how often it is right."""

    name: str
    kind: Literal[
        "modality", "variant", "cascade"
    ]  # given some modalities, given all, one setting of the exits
    variant: str  # for a setting that was not chosen: the variant that is cut into stages
    modalities: tuple[str, ...] = ()  # that it may look at
    threshold: float | None = None  # of a cascade's exits
    ms: float = Field(gt=0, allow_inf_nan=False)  # a record, decoding included, one thread
    split: str = "tune"
    measured: bool = True  # False: expected from measured parts
    chosen: bool = False  # the setting that became a variant
    test: Accuracy | None = None  # of a variant that was judged


class Slice(_Parsed):
    """A variant compared with its parent on some of the records. Bounds are lower ones, one-sided, 95 %."""

    records: int | None = None
    groups: int | None = None
    agreement: float | None = None  # share of equal decisions
    agreement_bound: float | None = None
    accuracy: float | None = None
    difference: float | None = None  # of the accuracy: variant minus parent
    difference_bound: float | None = None
    verdict: str = ""


class Card(Slice):
    """A variant on all records as they are and in each slice, with its cost."""

    reason: str = ""
    split: str = ""
    slices: dict[str, Slice] = {}
    size_bytes: int | None = None
    latency_ms: dict[str, float] = {}  # a record, the graph alone, by the size of the batch: "batch_32"
    peak_memory_bytes: int | None = None


class Split(_Parsed):
    """Size of a split."""

    records: int | None = None
    groups: int | None = None


class Splits(_Parsed):
    """Size of each split, and the rule by which records were split."""

    rule: str = ""
    train: Split = Split()
    tune: Split = Split()
    test: Split = Split()
    groups_in_train_and_test: int = 0


class Use(_Parsed):
    """A use of the test split."""

    variant: str
    when: str = ""
    why: str = ""


class Scorecard(_Parsed):
    """What this module reads of scorecard.json."""

    variants: dict[str, Card] = {}
    tradeoff: list[Point] = []
    splits: Splits | None = None
    test_uses: list[Use] = []


@dataclass(frozen=True)
class Entry:
    """A variant of a bundle, as its scorecard describes it."""

    side: str  # which bundle: "A" or "B", or empty if there is only one
    variant: str
    offered: bool  # it may be run
    is_parent: bool  # the variant that others are compared with
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
    """Contents of the scorecards of one or two bundles, by side."""

    bundles: dict[str, Bundle]
    scorecards: dict[str, Scorecard]
    entries: list[Entry]  # every variant, failed ones included; variants of one name follow each other

    def label(self, side: str, point: Point) -> str:
        """Name of a point, as short as possible; with the verdict if the variant is not offered."""
        if point.kind == "modality" and len(self.given_less(side)) == 1:
            return " + ".join(point.modalities) or point.name
        found = self._entry(side, point)
        return point.name if found is None or found.offered else f"{point.name} ({found.verdict})"

    def offered(self, side: str, point: Point) -> str:
        """Whether it can be run; empty for some modalities and for settings that were not chosen."""
        found = self._entry(side, point)
        return "" if found is None else "yes" if found.offered else "no"

    def given_less(self, side: str) -> list[str]:
        """The variants that were tried with only some modalities."""
        points = self.scorecards[side].tradeoff
        return list(dict.fromkeys(point.variant for point in points if point.kind == "modality"))

    def points(self) -> Iterator[tuple[str, Point]]:
        """Side and point of every trade-off."""
        return ((side, point) for side, card in self.scorecards.items() for point in card.tradeoff)

    def _entry(self, side: str, point: Point) -> Entry | None:
        """The variant of a point; None if it has none."""
        if point.kind == "modality" or (point.kind == "cascade" and not point.chosen):
            return None
        return next((e for e in self.entries if (e.side, e.variant) == (side, point.variant)), None)


def know(*bundles: Bundle) -> Known:
    """Read the scorecards of one bundle or of two.

    Raises:
        BundleError: a scorecard is altered or malformed.
    """
    sides = dict(zip("AB" if len(bundles) > 1 else ("",), bundles, strict=True))
    scorecards = {side: _read(bundle) for side, bundle in sides.items()}
    found = [entry for side in sides for entry in _entries(side, sides[side], scorecards[side])]
    order = list(dict.fromkeys(entry.variant for entry in found))
    return Known(sides, scorecards, sorted(found, key=lambda entry: order.index(entry.variant)))


def _read(bundle: Bundle) -> Scorecard:
    try:
        return Scorecard.model_validate(bundle.scorecard)
    except ValidationError as e:
        fault = e.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise BundleError(f"{bundle.path}/{SCORECARD}: {place}: {fault['msg']}; make the bundle again") from e


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
