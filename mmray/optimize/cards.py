"""What scorecard.json says of a bundle, parsed once: variants, trade-off of accuracy and time, splits.

Reads what any version of mmray wrote: what an older one did not know is None or empty. Figures that cannot be
drawn (not finite, or no time at all) are refused.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mmray.bundle import SCORECARD, Bundle
from mmray.errors import BundleError


class _Read(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Accuracy(_Read):
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
    ]  # given few modalities, given all, one setting of the exits
    variant: str
    threshold: float | None = None  # of a cascade's exits
    ms: float = Field(gt=0, allow_inf_nan=False)  # a record, decoding included, one thread
    split: str = "tune"
    measured: bool = True  # False: expected from measured parts
    chosen: bool = False  # the setting that became a variant
    test: Accuracy | None = None  # of a variant that was judged


class Slice(_Read):
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
    """A variant on all records as they are, in each slice, and what it takes."""

    reason: str = ""
    split: str = ""
    slices: dict[str, Slice] = {}
    size_bytes: int | None = None
    latency_ms: dict[str, float] = {}  # a record, the graph alone, by the size of the batch: "batch_32"
    peak_memory_bytes: int | None = None


class Split(_Read):
    """How much there is of a split."""

    records: int | None = None
    groups: int | None = None


class Splits(_Read):
    """What each split holds, and by which rule records were split."""

    rule: str = ""
    train: Split = Split()
    tune: Split = Split()
    test: Split = Split()


class Use(_Read):
    """A look at the test split."""

    variant: str
    when: str = ""
    why: str = ""


class Scorecard(_Read):
    """What this module reads of scorecard.json."""

    variants: dict[str, Card] = {}
    tradeoff: list[Point] = []
    splits: Splits | None = None
    test_uses: list[Use] = []


def read_scorecard(bundle: Bundle) -> Scorecard:
    """The scorecard of a bundle.

    Raises:
        BundleError: it is altered, or holds something else than mmray writes.
    """
    try:
        return Scorecard.model_validate(bundle.scorecard)
    except ValidationError as e:
        fault = e.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise BundleError(f"{bundle.path}/{SCORECARD}: {place}: {fault['msg']}; make the bundle again") from e
