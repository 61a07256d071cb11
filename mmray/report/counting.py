"""Counters with bounded memory, and shares with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar
from zlib import crc32

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmray.stats.intervals import difference_interval, share_interval

#: Number of buckets for groups of records. Several groups in one bucket only make intervals wider.
BUCKETS = 4096
CONFIDENCE = 0.95

K = TypeVar("K")


@dataclass
class Few(Generic[K]):
    """Counts by key, of at most `most` keys: further ones are counted together."""

    most: int = 50_000
    counts: dict[K, int] = field(default_factory=dict)
    rest: int = 0

    def add(self, key: K, number: int = 1) -> None:
        if key in self.counts or len(self.counts) < self.most:
            self.counts[key] = self.counts.get(key, 0) + number
        else:
            self.rest += number

    def common(self) -> list[tuple[K, int]]:
        """The most frequent first."""
        return sorted(self.counts.items(), key=lambda item: (-item[1], str(item[0])))

    @property
    def total(self) -> int:
        return sum(self.counts.values()) + self.rest


@dataclass
class Names:
    """Numbers of names, from 0; the last number is for all names after the first `most`."""

    most: int
    numbers: dict[str, int] = field(default_factory=dict)

    def number(self, name: str) -> int:
        if name in self.numbers:
            return self.numbers[name]
        if len(self.numbers) >= self.most:
            return self.most
        return self.numbers.setdefault(name, len(self.numbers))

    def named(self) -> list[str]:
        return [*self.numbers, "others"]


@dataclass(frozen=True)
class Share:
    """A share or a mean difference, with its two-sided 95 % interval, clustered by groups."""

    name: str
    records: int
    mean: float
    low: float
    high: float


class Sums:
    """Sums for a share or a mean difference, by slice and bucket of groups.

    Args:
        slices: how many there are.
    """

    def __init__(self, slices: int) -> None:
        self._held = np.zeros((slices, BUCKETS))
        self._sizes = np.zeros((slices, BUCKETS))

    @property
    def records(self) -> npt.NDArray[np.float64]:
        """[slices]"""
        counted: npt.NDArray[np.float64] = self._sizes.sum(axis=1)
        return counted

    def add(
        self,
        slices: npt.NDArray[np.int64],
        buckets: npt.NDArray[np.int64],
        held: npt.NDArray[np.bool_] | npt.NDArray[np.float64],
    ) -> None:
        """Add records: slice, bucket, and whether it held, or a difference within [-1, 1], of each [N]."""
        places = slices * BUCKETS + buckets
        np.add.at(self._held.reshape(-1), places, held.astype(np.float64))
        np.add.at(self._sizes.reshape(-1), places, 1.0)

    def share(self, name: str, slices: Sequence[int]) -> Share:
        """The share over several slices. Without records it is 0, and the interval is [0, 1]."""
        held, sizes = self._held[slices].sum(axis=0), self._sizes[slices].sum(axis=0)
        records = int(sizes.sum())
        low, high = share_interval(held, sizes, CONFIDENCE)
        return Share(name, records, float(held.sum() / records) if records else 0.0, low, high)

    def difference(self, name: str, slices: Sequence[int]) -> Share:
        """The mean difference over several slices together."""
        sums, sizes = self._held[slices].sum(axis=0), self._sizes[slices].sum(axis=0)
        records = int(sizes.sum())
        low, high = difference_interval(sums, sizes, CONFIDENCE)
        return Share(name, records, float(sums.sum() / records) if records else 0.0, low, high)


class Buckets:
    """Gives each group a bucket: the first ones each their own, later ones share buckets in turn.

    A record without a group is a group by itself.
    """

    def __init__(self) -> None:
        self._known: dict[str, int] = {}
        self._next = 0

    def of(self, groups: pa.Array) -> npt.NDArray[np.int64]:
        """[N] buckets of the groups [N] of some records; a null is a group of its own."""
        encoded = groups.dictionary_encode()
        known = np.array([self._one(group) for group in encoded.dictionary.to_pylist()], np.int64)
        found = self.alone(len(groups)) if groups.null_count else np.zeros(len(groups), np.int64)
        there = encoded.indices.is_valid().to_numpy(zero_copy_only=False)
        found[there] = known[encoded.indices.drop_null().to_numpy()]
        return found

    def alone(self, count: int) -> npt.NDArray[np.int64]:
        """For records that are groups by themselves."""
        found = (self._next + np.arange(count, dtype=np.int64)) % BUCKETS
        self._next += count
        return found

    def _one(self, group: str) -> int:
        if group in self._known:
            return self._known[group]
        if len(self._known) >= BUCKETS:
            return crc32(group.encode()) % BUCKETS
        self._known[group] = self._next % BUCKETS
        self._next += 1
        return self._known[group]
