"""Predictions against the labels that the records carried: accuracy by slice, calibration, mistakes.

Memory is bounded: counts by slice and bucket of groups, and at most 50,000 pairs of labels.
"""

from __future__ import annotations

import heapq
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mmray.page.table import share
from mmray.report.counting import Buckets, Few, Names, Share, Sums

GROUP = "meta_caption_group"  # records that are not independent of each other, where the run carried it
_SETS, _SHARDS = 16, 16  # slices that are counted separately
# Confidences are counted in steps of their log odds, which separate .99 from .999 as well as .5 from .9.
_STEPS, _ODDS = 200, 12.0
_DECILES = 10


class Place(NamedTuple):
    """One record of a run."""

    shard: str
    row: int
    key: str


class Mistake(NamedTuple):
    """A record whose predicted label is not the one that it carried."""

    confidence: float
    place: Place
    label: str  # carried
    given: str  # by the model


class Bin(NamedTuple):
    """Records of similar confidence: a point of the calibration curve."""

    share: Share  # of right labels
    confidence: float  # mean


class Judged:
    """Compares the labels of a run with those that its records carried, and sums up.

    Args:
        column: that holds the labels.
        mistakes: how many of the worst are kept.
    """

    def __init__(self, column: str, mistakes: int) -> None:
        self.column = column
        self.pairs: Few[tuple[str, str]] = Few()  # label, given
        self.labels: Few[str] = Few()
        self.abstained = 0  # of records with a label
        self.groups = False  # whether the run carried groups
        self._most = mistakes
        self._worst: list[Mistake] = []
        self._buckets = Buckets()
        self._sets, self._shards = Names(_SETS), Names(_SHARDS)
        self._by_set, self._by_shard = Sums(_SETS + 1), Sums(_SHARDS + 1)
        self._by_confidence = Sums(_STEPS)
        self._confidence = np.zeros(_STEPS)

    def add(self, rows: pa.Table, sets: pa.Array) -> npt.NDArray[np.bool_]:
        """Add rows of parts; returns which of them got a label other than the one that they carried.

        Args:
            rows: with the columns shard, row, key, label, score and the one of labels.
            sets: of each row, what it was predicted from, as "image+text".
        """
        truth, given = rows[self.column], rows["label"]
        self.abstained += pc.sum(pc.and_(pc.is_valid(truth), pc.is_null(given))).as_py() or 0
        known = pc.and_(pc.is_valid(truth), pc.is_valid(given)).to_numpy()
        wrong = pc.fill_null(pc.not_equal(truth, given), False).to_numpy()
        there = pa.array(known)
        held = ~wrong[known]
        buckets = self._bucket(rows, there)
        scores = rows["score"].filter(there).to_numpy().astype(np.float64)
        steps = step_of(scores)
        self._by_set.add(_coded(sets.filter(there), self._sets), buckets, held)
        self._by_shard.add(_coded(rows["shard"].filter(there), self._shards, shard_group), buckets, held)
        self._by_confidence.add(steps, buckets, held)
        np.add.at(self._confidence, steps, scores)
        self._count_pairs(truth.filter(there), given.filter(there))
        self._keep_worst(rows, wrong)
        return np.asarray(wrong, np.bool_)

    @property
    def all(self) -> Share:
        return self._by_confidence.share("all", range(_STEPS))

    @property
    def by_set(self) -> list[Share]:
        return _shares(self._by_set, self._sets)

    @property
    def by_shard(self) -> list[Share]:
        return _shares(self._by_shard, self._shards)

    @property
    def bins(self) -> list[Bin]:
        """Ten bins of about equally many records, by confidence; fewer if many confidences are equal."""
        records = self._by_confidence.records
        if not records.sum():
            return []
        middle = (records.cumsum() - records / 2) / records.sum()
        decile = np.minimum(_DECILES - 1, (middle * _DECILES).astype(np.int64))
        found = []
        for number in range(_DECILES):
            steps = np.flatnonzero((decile == number) & (records > 0))
            if len(steps):
                name = f"{_edge(steps[0])} to {_edge(steps[-1] + 1)}"
                share = self._by_confidence.share(name, steps.tolist())
                found.append(Bin(share, float(self._confidence[steps].sum() / share.records)))
        return found

    @property
    def calibration_error(self) -> float:
        """Mean distance of confidence and accuracy: eq. 3 of Guo et al. 2017, "On Calibration of Modern
        Neural Networks", over bins of equal numbers (Nguyen & O'Connor 2015, "Posterior calibration and
        exploratory analysis for natural language processing models": adaptive binning).
        """
        bins = self.bins
        total = sum(b.share.records for b in bins)
        return sum(b.share.records * abs(b.share.mean - b.confidence) for b in bins) / max(1, total)

    @property
    def worst(self) -> list[Mistake]:
        """The most confident first."""
        return sorted(self._worst, reverse=True)

    def _bucket(self, rows: pa.Table, there: pa.Array) -> npt.NDArray[np.int64]:
        if GROUP not in rows.column_names:
            return self._buckets.alone(pc.sum(there).as_py() or 0)
        self.groups = True
        return self._buckets.of(rows[GROUP].filter(there).combine_chunks())

    def _count_pairs(self, truth: pa.ChunkedArray, given: pa.ChunkedArray) -> None:
        counted = (
            pa.table({"truth": truth, "given": given})
            .group_by(["truth", "given"])
            .aggregate([([], "count_all")])
        )
        for pair in counted.to_pylist():
            self.pairs.add((pair["truth"], pair["given"]), pair["count_all"])
            self.labels.add(pair["truth"], pair["count_all"])

    def _keep_worst(self, rows: pa.Table, wrong: npt.NDArray[np.bool_]) -> None:
        at = np.flatnonzero(wrong)
        scores = rows["score"].to_numpy()[at]
        at = at[np.argsort(-scores, kind="stable")[: self._most]]
        for row in rows.take(pa.array(at)).to_pylist():
            place = Place(row["shard"], row["row"], row["key"])
            mistake = Mistake(row["score"], place, row[self.column], row["label"])
            push = heapq.heappush if len(self._worst) < self._most else heapq.heappushpop
            push(self._worst, mistake)


def step_of(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Step of log odds of each confidence [N]."""
    with np.errstate(divide="ignore"):
        odds = np.log(scores) - np.log1p(-scores)
    steps = np.floor((odds + _ODDS) / (2 * _ODDS) * _STEPS)
    bounded: npt.NDArray[np.int64] = np.clip(np.nan_to_num(steps), 0, _STEPS - 1).astype(np.int64)
    return bounded


def chance(step: int) -> float:
    """Confidence at which a step begins."""
    if step in (0, _STEPS):
        return float(step > 0)
    return float(1 / (1 + np.exp(-(step / _STEPS * 2 * _ODDS - _ODDS))))


def _edge(step: int) -> str:
    """Confidence at which a step begins, with enough digits to differ from 0 and 1."""
    value = chance(step)
    if value in (0.0, 1.0):
        return f"{value:.0f}"
    digits = max(3, math.ceil(-math.log10(min(value, 1 - value))) + 1)
    return share(value, f".{digits}f")


def shard_group(shard: str) -> str:
    """Shards whose names differ only in their numbers, as in "train-*.tar"."""
    return re.sub(r"\d+", "*", shard.rpartition("@")[0] or shard)


def _coded(
    names: pa.Array | pa.ChunkedArray, numbers: Names, rename: Callable[[str], str] = str
) -> npt.NDArray[np.int64]:
    """Numbers of names [N]."""
    encoded = (names.combine_chunks() if isinstance(names, pa.ChunkedArray) else names).dictionary_encode()
    known = np.array(
        [numbers.number(rename(n)) for n in encoded.dictionary.to_pylist()],
        np.int64,
    )
    coded: npt.NDArray[np.int64] = known[encoded.indices.to_numpy()]
    return coded


def _shares(sums: Sums, names: Names) -> list[Share]:
    found: Iterator[tuple[int, str]] = enumerate(names.named())
    shares: Sequence[Share] = [
        sums.share(name, [i if i < len(names.numbers) else names.most]) for i, name in found
    ]
    return sorted((s for s in shares if s.records), key=lambda s: (-s.records, s.name))
