"""Counts of records in the bins of a reference: one array, which can be added to another."""

from __future__ import annotations

from copy import copy

import numpy as np
import numpy.typing as npt

from mmray.drift.reference import Reference, Sketch
from mmray.drift.seen import Seen
from mmray.drift.values import values_of
from mmray.preprocess.spec import PreprocessSpec

#: int64 [bins of all sketches], in their order.
Counts = npt.NDArray[np.int64]


class Sketcher:
    """Counts what stages of a model see. For one thread; `twin` makes one for another thread.

    Args:
        reference: of the bundle.
        variant: of the model; the reference has it.
        spec: preprocessing of the model.
    """

    def __init__(self, reference: Reference, variant: str, spec: PreprocessSpec) -> None:
        self._spec = spec
        self._directions = reference.matrix
        self._bins = bins_of(reference.variants[variant].sketches)
        self._counts = np.zeros(sum(len(sketch.counts) for sketch, _ in self._bins.values()), np.int64)

    def twin(self) -> Sketcher:
        """The same with counts of its own."""
        other = copy(self)
        other._counts = np.zeros_like(self._counts)
        return other

    def see(self, seen: Seen | None) -> None:
        """Count records that a stage has seen; None: none."""
        if seen is None:
            return
        for name, values in values_of(seen, self._spec, self._directions).items():
            if name in self._bins:
                sketch, bins = self._bins[name]
                places = sketch.places(values[~np.isnan(values)])
                self._counts[bins] += np.bincount(places, minlength=len(sketch.counts))

    def take(self) -> Counts | None:
        """Counts since the last call; None: nothing was counted."""
        if not self._counts.any():
            return None
        taken = self._counts.copy()
        self._counts[:] = 0
        return taken


def bins_of(sketches: tuple[Sketch, ...]) -> dict[str, tuple[Sketch, slice]]:
    """Each sketch by name, and where its bins are in the counts."""
    found, start = {}, 0
    for sketch in sketches:
        found[sketch.name] = sketch, slice(start, start + len(sketch.counts))
        start += len(sketch.counts)
    return found
