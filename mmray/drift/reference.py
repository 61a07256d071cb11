"""The reference of a bundle: counts of its tune split in fixed bins. reference.json in the bundle.

A quarter of the records decides the bins and the directions of the features; the other three quarters are
counted in them. So the bins depend neither on these counts nor on those of a run, and an exact test may
compare the two.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from mmray.drift.values import Values, names_of
from mmray.preprocess.spec import PreprocessSpec

REFERENCE = "reference.json"  # in the bundle; older ones have none
LEAST_RECORDS = 40  # with fewer, no test would show anything
MOST_RECORDS = 4000  # more add little and cost time

_BINS = 10  # of sizes
_NAMED = 100  # kinds with a bin each; all others share one
_DIRECTIONS, _DIRECTION_BYTES = 8, 48 << 10


class Sketch(BaseModel):
    """How often each bin of one watched thing occurred.

    Of sizes: bin i holds what is above edge i - 1 and not above edge i. Of kinds: bin i holds the kind of
    number `codes[i]`, and a last bin all others.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    edges: tuple[float, ...] = ()  # rising; of sizes
    codes: tuple[int, ...] = ()  # rising; of kinds
    names: tuple[str, ...] = ()  # of the codes
    counts: tuple[int, ...]  # of the reference

    @property
    def is_of_sizes(self) -> bool:
        """Whether bins have an order."""
        return not self.codes

    def places(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
        """Bin of each value [n] that is a number."""
        if self.is_of_sizes:
            return np.searchsorted(self._bounds, values)
        found = np.searchsorted(self._bounds, values)
        known = self._bounds[np.minimum(found, len(self.codes) - 1)] == values
        return np.where(known, found, len(self.codes))

    @cached_property
    def _bounds(self) -> npt.NDArray[np.float64]:
        return np.array(self.edges or self.codes, np.float64)


class VariantReference(BaseModel):
    """Of one variant, by its own answers: what another one answers may differ a little."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    records: int
    sketches: tuple[Sketch, ...]


class Reference(BaseModel):
    """reference.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    features: int  # D
    directions: tuple[str, ...] = ()  # of the features: int8 [D] each, base64; any fixed ones would do
    variants: dict[str, VariantReference]

    @property
    def matrix(self) -> npt.NDArray[np.float32]:
        """The directions [D, K], each of length 1."""
        rows = [np.frombuffer(base64.b64decode(row), np.int8).astype(np.float32) for row in self.directions]
        if not rows:
            return np.zeros((self.features, 0), np.float32)
        return np.stack([row / np.linalg.norm(row) for row in rows], axis=1)

    def to_json(self) -> str:
        """For the file; defaults are left out."""
        return self.model_dump_json(exclude_defaults=True)

    def only(self, variants: Sequence[str]) -> Reference:
        """The same of fewer variants."""
        kept = {name: found for name, found in self.variants.items() if name in variants}
        return self.model_copy(update={"variants": kept})


def reference_of(
    layout: Values, counted: Values, records: int, spec: PreprocessSpec, labels: list[str]
) -> VariantReference:
    """Count values in bins that other records decide.

    Args:
        layout: of the records that decide the bins.
        counted: of those that are counted, with the same names.
        records: how many are counted.
        spec: preprocessing of the model.
        labels: of the model.
    """
    sketches = []
    for name, values in layout.items():
        own = counted.get(name, np.zeros(0))
        known, own = values[~np.isnan(values)], own[~np.isnan(own)]
        if not len(known) or not len(own):
            continue
        kinds = names_of(name, spec, labels)
        empty = _of_sizes(name, known) if kinds is None else _of_kinds(name, known, kinds)
        bins = len(empty.edges or empty.codes) + 1
        counts = np.bincount(empty.places(own), minlength=bins)
        sketches.append(empty.model_copy(update={"counts": tuple(counts.tolist())}))
    return VariantReference(records=records, sketches=tuple(sketches))


def main_directions(features: npt.NDArray[np.floating]) -> tuple[str, ...]:
    """The first principal directions of features [n, D], as int8 in base64; fewer where they are very wide.

    Of the ways to make few numbers of many, one that keeps the spread (Rabanser et al. 2019, "Failing
    Loudly", section 3.1). On the unseen artist of the emoji set it tells more than random directions
    (docs/drift.md).
    """
    features = features[np.isfinite(features).all(axis=1)]
    if not len(features):
        return ()
    centred = features.astype(np.float32) - features.mean(axis=0, dtype=np.float32)
    most = min(_DIRECTIONS, _DIRECTION_BYTES // max(1, features.shape[1]), len(features) - 1)
    _, sizes, rows = np.linalg.svd(centred, full_matrices=False)
    kept = [row for size, row in zip(sizes[:most], rows[:most], strict=True) if size > 1e-6 * sizes[0]]
    steps = [np.round(127 * row / np.abs(row).max()).astype(np.int8) for row in kept]
    return tuple(base64.b64encode(step.tobytes()).decode() for step in steps)


def _of_sizes(name: str, values: npt.NDArray[np.float64]) -> Sketch:
    shares = np.arange(1, _BINS) / _BINS
    edges = np.unique(np.quantile(values, shares, method="inverted_cdf"))
    return Sketch(name=name, edges=tuple(edges.tolist()), counts=())


def _of_kinds(name: str, values: npt.NDArray[np.float64], kinds: Sequence[str]) -> Sketch:
    """All kinds where they are few, else the most frequent."""
    codes = np.arange(len(kinds))
    if len(kinds) > _NAMED:
        often = np.bincount(values.astype(np.intp), minlength=len(kinds))
        codes = np.sort(np.argsort(-often, kind="stable")[:_NAMED])
    numbers = tuple(codes.tolist())
    return Sketch(name=name, codes=numbers, names=tuple(kinds[code] for code in numbers), counts=())
