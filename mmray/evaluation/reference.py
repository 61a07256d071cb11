"""The reference of a bundle: what each of its variants answers on the tune split, counted as in a run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmray.bundle import FP32, Bundle
from mmray.drift import Reference, Seen, VariantReference, reference_of, values_of
from mmray.drift.reference import LEAST_RECORDS, MOST_RECORDS, main_directions
from mmray.drift.values import Values
from mmray.errors import InputError
from mmray.evaluation.outputs import LabelledTensors
from mmray.evaluation.records import Records
from mmray.predictor import Predictor

_ROWS = 64  # of a table, as in a run
_LAYOUT = 4  # one in so many groups decides the bins, the others are counted in them


class _Collector:
    """Keeps everything that stages see, by record."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []

    def see(self, seen: Seen | None) -> None:
        if seen is not None:
            self.seen.append(seen)


def bundle_reference(bundle: Bundle, records: LabelledTensors) -> Reference | None:
    """Run every variant that passed its gate over records, and count.

    Args:
        bundle: that the reference is for.
        records: of its tune split; of many, an evenly spread part is used.

    Returns:
        None where the records are too few.
    """
    records = records.thinned(MOST_RECORDS) if len(records) > MOST_RECORDS else records
    lays_out = _lay_out(records.groups)
    if len(records) < LEAST_RECORDS or lays_out.all():
        return None
    width = bundle.manifest.features
    directions: tuple[str, ...] = ()
    variants: dict[str, VariantReference] = {}
    names = [name for name in bundle.passing() if bundle.entry(name).provider == "any"]
    for name in sorted(names, key=lambda name: name != FP32):  # it decides the directions for all
        predict = Predictor(bundle, variant=name)
        layout, counted = (_run(predict, records.tensors.filter(rows)) for rows in (lays_out, ~lays_out))
        if not variants:
            features = [seen.outputs["features"] for seen in layout if "features" in seen.outputs]
            directions = main_directions(np.concatenate(features)) if features else ()
        matrix = Reference(features=width, directions=directions, variants={}).matrix
        laid, own = (
            _joined([values_of(seen, bundle.spec, matrix) for seen in part]) for part in (layout, counted)
        )
        variants[name] = reference_of(laid, own, int((~lays_out).sum()), bundle.spec, bundle.labels)
    return Reference(features=width, directions=directions, variants=variants)


def reference_from(bundle: Bundle, inputs: Sequence[str]) -> Reference | None:
    """The same from shards, whose tune split is read; None where it has too few usable records."""
    records = Records(inputs, bundle, {"train": 1, "tune": MOST_RECORDS, "test": 1})
    try:
        return bundle_reference(bundle, records.load("tune"))
    except InputError:  # none at all
        return None


def _lay_out(groups: npt.NDArray[np.str_]) -> npt.NDArray[np.bool_]:
    """Which records decide the bins: whole groups, drawn at random, so that no group is on both sides."""
    names, of = np.unique(groups, return_inverse=True)
    drawn = np.random.default_rng(0).permutation(len(names))
    chosen: npt.NDArray[np.bool_] = drawn[of] < max(1, len(names) // _LAYOUT)
    return chosen


def _run(predict: Predictor, tensors: pa.Table) -> list[Seen]:
    predict.watcher = collector = _Collector()
    for start in range(0, tensors.num_rows, _ROWS):
        predict(tensors.slice(start, _ROWS))
    return collector.seen


def _joined(parts: Sequence[Values]) -> Values:
    """Values of several tables, by name."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: np.concatenate([part[name] for part in parts if name in part]) for name in names}
